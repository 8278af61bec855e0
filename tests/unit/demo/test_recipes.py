"""The demo of each method: its data sets are written for the seed, and its recipe names them."""

from pathlib import Path

import pytest

from pipeline_lib.demo import recipes
from pipeline_lib.demo.recipes import demo_recipe, methods_with_demo
from pipeline_lib.errors import RecipeError


@pytest.mark.parametrize("method", methods_with_demo())
def test_a_demo_writes_the_data_of_its_seed(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[Path, int]] = []

    def write(folder: Path, seed: int) -> Path:
        written.append((folder, seed))
        return folder / "table"

    monkeypatch.setattr(recipes, "WRITERS", dict.fromkeys(recipes.WRITERS, write))
    recipe = demo_recipe(method, tmp_path, 3, {"seed": 5})
    assert recipe.method == method and recipe.seed == 5 and recipe.name.endswith("-seed-3")
    assert recipe.runtime.store == str(tmp_path / "store")
    named = [path for path, _ in written]
    assert named and {seed for _, seed in written} == {3}
    assert recipe.data.table in {str(path / "table") for path in named}
    assert all(path == tmp_path / "demo" / path.parent.name / "seed-3" for path in named)
    assert "seed-0" not in recipe.model_dump_json()


def test_names_of_demos_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "WRITERS", dict.fromkeys(recipes.WRITERS, lambda folder, _: folder))
    names = [demo_recipe(method, tmp_path, 0, {}).name for method in methods_with_demo()]
    assert len(set(names)) == len(names)


def test_a_method_without_demo_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no demo of 'toys'.*self_improve"):
        demo_recipe("toys", tmp_path, 0, {})
