"""What `whyscore doctor` can know stops a run before a model is loaded."""

from pathlib import Path

import pytest
from PIL import Image

from flows.self_improve import self_improve
from pipeline_lib import device
from pipeline_lib.config.load import load_recipe
from pipeline_lib.errors import WhyScoreError
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.store.runs import RunFolder
from pipeline_lib.vlm import families
from tasks.self_improve import run
from tests.small_run import write_small_recipe

PAID = {"runtime.openai.usd_per_million_input_tokens": 1.0, "runtime.openai.usd_per_million_output_tokens": 1.0}


@pytest.fixture
def small(tmp_path, prefect_server, monkeypatch) -> Path:
    """The recipe of a small run that never ran, without a key of a judge; loading a model fails."""

    def refuse(*_: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("pipeline_lib.vlm.load.load_vlm", refuse)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return write_small_recipe(tmp_path, tmp_path / "store")


def images_of(small: Path) -> list[Path]:
    return sorted((small.parent / "data" / "images").iterdir())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"judge.openai.model": "m1"}, "usd_per_million_input_tokens"),
        ({"judge.openai.model": "m1", **PAID}, "budget_usd"),
        ({"judge.openai.model": "m1", **PAID, "runtime.openai.budget_usd": 1.0}, "OPENAI_API_KEY"),
        ({"judge.openai.model": "m1", "judge.openai.rubric": "none"}, "there is no none"),
        ({"evaluation.also": [{"name": "other", "table": "absent.csv"}]}, r"absent\.csv"),
        ({"runtime.min_memory_gb": 1e6}, "1e.06 GB"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings(small, fields, said):
    with pytest.raises(WhyScoreError, match=said):
        self_improve(load_recipe(small, fields))
    assert not (small.parent / "store" / "steps").exists()


def test_a_nearly_full_disk(small, monkeypatch):
    monkeypatch.setattr("pipeline_lib.store.store.shutil.disk_usage", lambda _: type("Usage", (), {"free": 10**8})())
    with pytest.raises(WhyScoreError, match=r"0\.1 GB free"):
        self_improve(load_recipe(small))


def test_copies_between_splits(small):
    train, test = (next(p for p in images_of(small) if p.name.startswith(split)) for split in ("train", "test"))
    test.write_bytes(train.read_bytes())
    with pytest.raises(WhyScoreError, match="1 of 40 validation and test images are copies"):
        self_improve(load_recipe(small))
    assert ArtifactStore(str(small.parent / "store")).children("steps") == ["check_model", "discretize"]


def test_images_that_the_models_family_refuses(small, monkeypatch):
    monkeypatch.setitem(families.FAMILIES, "llava", families.Family(max_aspect_ratio=50))
    Image.new("RGB", (2000, 8)).save(images_of(small)[0])
    with pytest.raises(WhyScoreError, match="1 of 80 images have a shape"):
        self_improve(load_recipe(small))


def test_weights_that_do_not_fit(small, monkeypatch):
    monkeypatch.setattr(run, "SMALL", 0)
    monkeypatch.setattr(device, "_machine_bytes", lambda: 5_000_000)
    with pytest.raises(WhyScoreError, match="the weights alone need"):
        self_improve(load_recipe(small))


def test_a_run_that_has_ended_needs_its_judge_no_more(small):
    recipe = load_recipe(small, {"judge.openai.model": "m1"})
    store = ArtifactStore(recipe.runtime.store)
    folder = RunFolder(store, recipe.name, recipe.run_fields(), ArtifactRef(stage="discretize", key="k"))
    folder.begin()
    with pytest.raises(WhyScoreError, match="usd_per_million"):
        run._check_what_comes_last(recipe, store)
    folder.keep("report", ArtifactRef(stage="report", key="k"))
    run._check_what_comes_last(recipe, store)
