"""Pointers belong to a recipe: those that another one has left are neither read nor kept."""

import json
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import pytest

from pipeline_lib.config.load import parse_recipe
from pipeline_lib.errors import RecipeError, StoreError
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.store.runs import (
    RunFolder,
    RunModel,
    belonging_to,
    control_name,
    copied,
    name_of,
    names,
    open_run,
    read_run,
    seed_name,
    seeds_name,
    written,
)

FIELDS = {
    "seed": 1,
    "training": {"learning_rate": 1e-4, "beta": 0.1},
    "judge": {"rows": None, "openai": {"model": "a"}},
}
IMAGES = ArtifactRef(stage="discretize", key="images")
ADAPTER = ArtifactRef(stage="train_score", key="adapter")


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "folder":
        return ArtifactStore(str(tmp_path / "store"))
    request.getfixturevalue("s3_server")
    bucket = f"runs-{uuid.uuid4().hex[:12]}"
    fsspec.filesystem("s3").call_s3("create_bucket", Bucket=bucket)
    return ArtifactStore(f"s3://{bucket}/prefix")


class Recipe(NamedTuple):
    """What a run's folder asks of a recipe."""

    fields: dict[str, Any]
    defaults: dict[str, Any] = {}  # noqa: RUF012 - it is never written
    name: str = "small"

    def run_fields(self) -> dict[str, Any]:
        return self.fields

    def completed(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {**self.defaults, **fields}


def begun(store: ArtifactStore, fields: dict[str, Any] = FIELDS, images: ArtifactRef = IMAGES) -> RunFolder:
    folder = RunFolder(store, "small", fields, images)
    folder.begin()
    return folder


def test_a_run_finds_what_it_kept_and_people_can_read_it(store: ArtifactStore) -> None:
    run = begun(store)
    assert run.keep("iteration-01/score/adapter", ADAPTER, judge="a") == ADAPTER
    pointer = json.loads(store.files.read(store.path("runs/small/iteration-01/score/adapter.json")))
    assert pointer == {
        "judge": "a",
        "address": ADAPTER.address,
        "stage": "train_score",
        "key": "adapter",
        "run": run.id,
    }
    opened = open_run(store, Recipe(FIELDS))
    assert opened == run and opened.id == run.id
    assert opened.find("iteration-01/score/adapter") == ADAPTER and opened.read("iteration-01/score/adapter") == pointer
    assert opened.find("iteration-01/adapter") is None
    assert set(opened.pointers()) == {"iteration-01/score/adapter"}
    assert names(store) == ["small"] and set(written(store)["small"]) == {"run.json", "iteration-01/score/adapter.json"}


def test_one_file_may_be_written_in_several_ways(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).touch()
    run = begun(store, {**FIELDS, "data": {"table": str(tmp_path / "a.csv")}})
    opened = open_run(store, Recipe({**FIELDS, "data": {"table": str(tmp_path / "recipes/../a.csv")}}))
    assert opened == run
    for other in (tmp_path / "recipes/../b.csv", tmp_path / "recipes/../absent.csv"):
        with pytest.raises(RecipeError, match=r"data\.table"):
            open_run(store, Recipe({**FIELDS, "data": {"table": str(other)}}))
    run = begun(store, {**FIELDS, "also": [{"table": str(tmp_path / "a.csv"), "split": "test"}]})
    again = {"table": str(tmp_path / "recipes/../a.csv"), "split": "test"}
    assert open_run(store, Recipe({**FIELDS, "also": [again]})) == run
    with pytest.raises(RecipeError, match=r'also\.0\.split is "val", it was "test"'):
        open_run(store, Recipe({**FIELDS, "also": [{**again, "split": "val"}]}))
    with pytest.raises(RecipeError, match=r"also is \[\], it was"):
        open_run(store, Recipe({**FIELDS, "also": []}))


def test_a_field_that_did_not_exist_had_its_default(store: ArtifactStore) -> None:
    run = begun(store)
    assert open_run(store, Recipe({**FIELDS, "added": True}, defaults={"added": True})) == run
    with pytest.raises(RecipeError, match="added is false, it was not a field"):
        open_run(store, Recipe({**FIELDS, "added": False}, defaults={"added": True}))


def test_models_are_those_that_were_evaluated(store: ArtifactStore) -> None:
    run = begun(store)
    for role in ("iteration-10/merged/predictions", "iteration-02/score/predictions", "iteration-02/merged/adapter",
                 "ablation/iteration-03/score/predictions", "iteration-00/zero-shot/predictions"):  # fmt: skip
        run.keep(role, ADAPTER)
    assert run.models() == [(0, "zero-shot"), (2, "score"), (10, "merged")]
    assert RunModel(2, "score").role("adapter") == "iteration-02/score/adapter"


@pytest.mark.parametrize("other", [({**FIELDS, "seed": 2}, IMAGES), (FIELDS, ArtifactRef(stage="discretize", key="x"))])
def test_pointers_of_another_recipe_or_other_images_are_not_believed(
    store: ArtifactStore, other: tuple[dict[str, Any], ArtifactRef]
) -> None:
    first = begun(store)
    first.keep("iteration-04/merged/predictions", ADAPTER)
    first.keep("anchor_verdicts/a", ADAPTER)
    second = begun(store, *other)
    opened = open_run(store, Recipe(other[0]))
    for run in (second, opened):
        assert run.find("iteration-04/merged/predictions") is None and run.read("anchor_verdicts/a") is None
        assert run.models() == [] and run.pointers() == {} == run.pointers("anchor_verdicts")
    first.begin()
    assert first.models() == [(4, "merged")] and set(first.pointers("anchor_verdicts")) == {"anchor_verdicts/a"}


def test_a_run_that_ends_removes_what_others_left_and_nothing_else(store: ArtifactStore) -> None:
    first = begun(store)
    first.keep("iteration-04/merged/predictions", ADAPTER)
    first.keep("images", IMAGES)
    second = begun(store, {**FIELDS, "seed": 2})
    second.keep("images", IMAGES)
    store.files.write(store.path("runs/small/torn.json"), b"{")
    store.files.write(store.path("runs/small/report/results.txt"), b"text")
    first.end()  # it is over, but another recipe has begun meanwhile
    assert len(written(store)["small"]) == 5
    second.end()
    assert set(written(store)["small"]) == {"run.json", "images.json", "report/results.txt"}
    assert second.find("images") == IMAGES


def test_a_recipe_that_is_not_the_runs_is_refused_with_what_differs(store: ArtifactStore) -> None:
    begun(store)
    changed = {**FIELDS, "training": {"learning_rate": 2e-4}, "added": True}
    with pytest.raises(RecipeError) as error:
        open_run(store, Recipe(changed))
    said = str(error.value)
    assert "training.learning_rate is 0.0002, it was 0.0001" in said and "training.beta" in said and "added" in said
    assert "seed" not in said and "judge" not in said and "whyscore run" in said
    another = {**FIELDS, "judge": {"rows": 5, "openai": {"model": "b"}}}
    with pytest.raises(RecipeError, match=r"judge\.rows.* 5.* null") as error:
        open_run(store, Recipe(another), besides=("judge.openai",))
    assert "openai" not in str(error.value)
    fields = {**another, "judge": {"rows": None, "openai": {"model": "b"}}}
    run = open_run(store, Recipe(fields), besides=("judge.openai",))
    assert run.fields == FIELDS  # its pointers are those of the run


def test_a_run_of_before_or_none_at_all_is_refused(store: ArtifactStore) -> None:
    with pytest.raises(StoreError, match="nothing of a run small"):
        open_run(store, Recipe(FIELDS))
    store.write_pointer("runs/small/report.json", ADAPTER.model_dump())
    assert read_run(store, "small") is None
    with pytest.raises(StoreError, match=r"run\.json"):
        open_run(store, Recipe(FIELDS))
    store.files.write(store.path("runs/small/run.json"), b"{")
    with pytest.raises(StoreError, match=r"run\.json"):
        open_run(store, Recipe(FIELDS))
    run = begun(store)
    assert run.find("report") is None  # it does not say whose it is
    run.end()
    assert set(written(store)["small"]) == {"run.json"}


def test_copies_are_where_people_are_sent(store: ArtifactStore) -> None:
    with store.attempt() as attempt:
        (attempt.folder / "results.txt").write_text("text")
        store.publish("steps/report/r", attempt, {})
    begun(store).copy_out(ArtifactRef(stage="report", key="r"), "report")
    assert store.files.read(copied(store, "small", "report", "results.txt")) == b"text"
    assert name_of("runs/small/report/results.txt") == "small"
    assert name_of("runs/small") is None is name_of("steps/report/r")


@pytest.mark.parametrize(
    ("field", "value", "matters"),
    [
        ("runtime.store", "elsewhere", False),
        ("runtime.generation_batch_size", 3, False),
        ("grid_search.beta", [0.3], False),
        ("ablation.sft_learning_rate", 0.1, False),
        ("merge_ablation.iteration", 3, False),
        ("data.table", "other.csv", True),
        ("data.images", "elsewhere", True),
        ("data.split_lists.test", "test.txt", True),
        ("training.beta", 0.3, True),
        ("seed", 3, True),
        ("iterations", 2, True),
        ("prompt", "technical_quality", True),
        ("evaluation.branches", "val", True),
        ("generation.engine", "openai", True),
        ("judge.openai.rubric", "other", True),
    ],
)
def test_what_can_change_a_result_is_part_of_the_run(tmp_path: Path, field: str, value: Any, matters: bool) -> None:
    def run(overrides: dict[str, Any]) -> RunFolder:
        recipe = parse_recipe({"name": "small", "data": {"table": "t.csv"}, "model": {"id": "bundled"}}, overrides)
        assert isinstance(recipe, SelfImproveRecipe)
        return RunFolder(ArtifactStore(str(tmp_path)), "small", recipe.run_fields(), IMAGES)

    assert (run({field: value}).id != run({}).id) == matters


def test_a_run_ends_with_the_model_that_it_says_and_not_with_the_last_by_name(store: ArtifactStore) -> None:
    run = begun(store)
    assert run.ends() is None
    for iteration, kind in ((0, "zero-shot"), (1, "score"), (2, "score"), (2, "consistency"), (2, "merged")):
        model = RunModel(iteration, kind)
        run.keep(model.role("predictions"), ArtifactRef(stage="evaluate", key=f"{kind}{iteration}"))
        if iteration:
            run.keep(model.role("adapter"), ArtifactRef(stage="train", key=f"{kind}{iteration}"))
    assert run.ends() is None  # without the pointer `model`
    run.keep("model", ArtifactRef(stage="train", key="merged2"))
    assert run.ends() == (RunModel(0, "zero-shot"), RunModel(2, "merged"))


def test_the_runs_that_belong_to_a_recipe() -> None:
    own = ["r", "r-control", "r-seed-1", "r-seed-12", "r-seed-12-control", "r-seeds"]
    others = ["r-2", "r-seed", "r-seed-x", "rr", "r-controls", "r-seeds-control", "x-r"]
    assert belonging_to("r", [*others, *own]) == own
    assert belonging_to("r.1", ["r.1", "rx1"]) == ["r.1"]
    assert {control_name("r"), seed_name("r", 12), seeds_name("r"), control_name(seed_name("r", 12))} <= set(own)


def test_the_end_of_a_run_leaves_what_was_copied_for_people(store: ArtifactStore) -> None:
    """Its verdict, too: a file that ends in .json would be taken for a pointer, and removed."""
    from pipeline_lib.report.verdict import FILE

    run = begun(store)
    names = {FILE, "report.html", "results.txt"}
    with store.attempt() as attempt:
        for name in names:
            (attempt.folder / name).write_text("{}")
        store.publish("steps/report/v", attempt, {})
    run.copy_out(ArtifactRef(stage="report", key="v"), "report")
    run.end()
    assert {path.removeprefix("report/") for path in written(store)["small"] if path.startswith("report/")} == names
