"""Recipes of people's own: files that `whyscore deploy --recipes` lists, and pasted text."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.own_recipes import MOST_BYTES, PastedRecipe, is_own, list_recipes, name_to_show, read_own, read_pasted
from pipeline_lib.errors import RecipeError, WhyScoreError
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from tests.platform.conftest import Stack, read_run, slow, wait_for
from tests.unit.test_odd_values import NOT_YAML

RECIPE = "name: portraits\ndata: {table: faces.csv}\nmodel: {id: bundled}\n"


def use(monkeypatch: pytest.MonkeyPatch, folder: Path | str) -> list[str]:
    listed = list_recipes(str(folder))
    for name, value in listed.variables.items():
        monkeypatch.setenv(name, value)
    return listed.lines


def test_files_are_chosen_by_name_and_read_when_a_run_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deployments.deployed import shipped_recipes

    (tmp_path / "deep").mkdir()
    path = tmp_path / "deep" / "portraits.yaml"
    path.write_text(RECIPE)
    (tmp_path / "plain.yml").write_text(f"method: evo_quality\n{RECIPE}")
    (tmp_path / "notes.txt").write_text("no recipe")
    lines = use(monkeypatch, tmp_path)
    assert lines == ["recipe own/deep/portraits.yaml (self_improve)", "recipe own/plain.yml (evo_quality)"]
    assert "own/deep/portraits.yaml" in list(shipped_recipes("self_improve"))
    assert "own/plain.yml" not in list(shipped_recipes("self_improve"))
    assert "demo" in list(shipped_recipes("self_improve"))
    read = read_own("own/deep/portraits.yaml", {})
    assert isinstance(read, SelfImproveRecipe) and read.data.table == str(tmp_path / "deep" / "faces.csv")
    path.write_text(RECIPE + "seed: 7\n")
    assert read_own("own/deep/portraits.yaml", {"name": "other"}).seed == 7
    assert not is_own("own/../secret.yaml") and not is_own("demo")
    path.unlink()
    with pytest.raises(RecipeError, match=r"cannot read recipe .*portraits\.yaml"):
        read_own("own/deep/portraits.yaml", {})


def test_a_file_that_is_no_recipe_is_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {
        "a b.yaml": RECIPE,
        "bytes.yaml": "\udcff",
        "deep.yaml": "x: {",
        "large.yaml": RECIPE + "#" * MOST_BYTES,
        "list.yaml": "[1, 2]",
        "other.yaml": "method: none\n",
        "bomb.yaml": "a: &a [1]\nb: [*a, *a]\n",
        "unknown.yaml": RECIPE + "sed: 3\n",
    }
    for name, text in wrong.items():
        (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    (tmp_path / "right.yaml").write_text(RECIPE)
    (tmp_path / "gone.yaml").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.yaml")
    lines = use(monkeypatch, tmp_path)
    assert [line for line in lines if not line.startswith("left out ")] == ["recipe own/right.yaml (self_improve)"]
    left_out = {line.removeprefix("left out ").partition(":")[0] for line in lines if line.startswith("left out")}
    assert left_out == {*wrong, "gone.yaml", "pipe.yaml"}
    assert all(len(line) < 600 for line in lines)


def test_a_folder_without_recipes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WhyScoreError, match="more than 20,000 files"):
        list_recipes("/")
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(WhyScoreError, match="found 0 files"):
            list_recipes(str(folder))
    with pytest.raises(WhyScoreError):
        list_recipes("s3://KEY:hidden-5@bucket/x")


def test_pasted_text_is_a_recipe_or_one_sentence() -> None:
    pasted = PastedRecipe(yaml=RECIPE.replace("faces.csv", "s3://b/faces.csv"))
    assert read_pasted(pasted, {"seed": 3}).seed == 3 and name_to_show(pasted) == "portraits"
    bomb = "a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [*a, *{f'b{n - 1}' if n else 'a'}]\n" for n in range(30))
    odd = [*NOT_YAML, "", "null", "1", "[]", RECIPE + "x: 1", "name: x" * 100_000, bomb, "method: [1]", "name: {}"]
    for text in odd:
        with pytest.raises(RecipeError) as refused:
            read_pasted(PastedRecipe(yaml=text), {})
        assert len(str(refused.value)) < 1000
        assert isinstance(name_to_show(PastedRecipe(yaml=text)), str)
    with pytest.raises(RecipeError, match=r"faces\.csv is relative to the folder .* give an absolute path or s3://"):
        read_pasted(PastedRecipe(yaml=RECIPE), {})


def test_a_prefix_of_a_bucket_is_a_folder_too(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    files = s3fs.S3FileSystem()
    files.call_s3("create_bucket", Bucket="own-recipes")
    files.pipe_file("own-recipes/team/deep/portraits.yaml", RECIPE.encode())
    monkeypatch.setenv("NO_PROXY", "*")
    assert use(monkeypatch, "s3://own-recipes/team/") == ["recipe own/deep/portraits.yaml (self_improve)"]
    read = read_own("own/deep/portraits.yaml", {})
    assert isinstance(read, SelfImproveRecipe) and read.data.table == "s3://own-recipes/team/deep/faces.csv"


@slow
@pytest.mark.timeout(900)
def test_own_files_and_pasted_text_run_and_odd_text_is_refused_before_anything_runs(
    stack: Stack, deployed: list[str], small_run: Path, tmp_path: Path
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.deployments import run_deployment

    own, store = tmp_path / "own", tmp_path / "store"
    own.mkdir()
    shutil.copy(small_run / "small.yaml", own / "mine.yaml")
    shutil.copytree(small_run / "store", store)
    (own / "wrong.yaml").write_text("{")
    done = stack.python("-m", "whyscore.cli", "deploy", "--recipes", str(own))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "recipe own/mine.yaml (self_improve)" in done.stdout and "left out wrong.yaml: " in done.stdout
    with get_client(sync_client=True) as client:
        form = client.read_deployment_by_name("self_improve/self_improve").parameter_openapi_schema
    assert "own/mine.yaml" in json.dumps(form) and "Pasted YAML" in json.dumps(form)
    text = (small_run / "small.yaml").read_text()

    def start(recipe: Any) -> Any:
        parameters = {"recipe": recipe, "store": str(store)}
        return run_deployment("self_improve/self_improve", parameters=parameters, timeout=0)

    right = [start("own/mine.yaml"), start({"yaml": text})]
    wrong = [start({"yaml": "name: ["}), start({"yaml": yaml.safe_dump({"name": "x", "data": {"table": "t.csv"}})})]
    for run in [*right, *wrong]:
        wait_for(lambda run=run: read_run(run.id).state.is_final(), 300, "the run ends")
    states = [read_run(run.id).state for run in [*right, *wrong]]
    assert [state.is_completed() for state in states] == [True, True, False, False], [s.message for s in states]
    assert [read_run(run.id).name for run in right] == ["mine", "small"]
    assert "recipe pasted is not valid YAML in line 1" in states[2].message
    assert "t.csv is relative to the folder of the recipe's file" in states[3].message
    assert sorted(path.name for path in (store / "runs").iterdir()) == ["small"]
    stack.python("-m", "whyscore.cli", "deploy")
