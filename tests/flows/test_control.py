"""The negative control: what it computes, what it shares with its run, and where it is shown."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline_lib.config.load import load_recipe_of
from pipeline_lib.errors import RecipeError
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.store.runs import RunFolder, read_run
from tests.flows.conftest import Watched
from tests.flows.experiment import watch
from tests.flows.test_resume import STAGES
from tests.flows.test_status_and_gc import whyscore

SHARED = {"zero-shot evaluate", "zero-shot judge", "zero-shot probe_faithfulness"}
NOT_REPEATED = {"base check_model", "discretize", "fit_judge", "keep_anchors", "report"}
OWN = [f"control {label}" for label in STAGES if label not in SHARED | NOT_REPEATED]
COMPUTED = ["control permute_scores", *OWN, "control compare_control", "report"]


@pytest.fixture(scope="module")
def made(finished: tuple[Path, Watched], prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the finished run after its control was made."""
    from flows.controls.self_improve import self_improve_control

    store = tmp_path_factory.mktemp("control") / "store"
    shutil.copytree(finished[0] / "store", store)
    watched = watch(self_improve_control, recipe_over(finished, store))
    assert watched.computed == COMPUTED
    assert {f"control {label}" for label in SHARED} <= set(watched.cached)
    return store


@pytest.fixture
def with_control(finished: tuple[Path, Watched], made: Path, tmp_path: Path) -> SelfImproveRecipe:
    """The recipe of the run over a copy of that store."""
    shutil.copytree(made, tmp_path / "store")
    return recipe_over(finished, tmp_path / "store")


def recipe_over(finished: tuple[Path, Watched], store: Path) -> SelfImproveRecipe:
    return load_recipe_of(SelfImproveRecipe, finished[0] / "small.yaml", {"runtime.store": str(store)})


def test_only_training_scores_differ_and_what_follows_from_them(
    with_control: SelfImproveRecipe,
    run_flow: Callable[[SelfImproveRecipe], Watched],
    finished: tuple[Path, Watched],
) -> None:
    from flows.controls.self_improve import self_improve_control

    store = ArtifactStore(with_control.runtime.store)
    run, control = (read_run(store, name) for name in ("small", "small-control"))
    assert run and control
    true, permuted = (store.read_table(found.images.address, "images").to_pylist() for found in (run, control))
    for one, other in zip(true, permuted, strict=True):
        if one["split"] != "train":
            assert one == other
        assert {k: v for k, v in one.items() if k not in ("score", "bin")} == {
            k: v for k, v in other.items() if k not in ("score", "bin")
        }
    scores = [[(row["score"], row["bin"]) for row in rows if row["split"] == "train"] for rows in (true, permuted)]
    assert scores[0] != scores[1] and sorted(scores[0]) == sorted(scores[1])
    for role in ("judge", "iteration-00/zero-shot/predictions", "iteration-00/zero-shot/verdicts"):
        assert control.find(role) == run.find(role)
    for role in ("iteration-01/score_pairs", "iteration-02/merged/predictions"):
        assert control.find(role) != run.find(role)

    # The report of the run shows it, and goes on to show it.
    page = Path(store.path("runs/small/report/report.html")).read_text()
    table = Path(store.path("runs/small/report/results.txt")).read_text()
    assert 'id="control"' in page and "Beside its control" in table
    assert 'id="control"' not in (finished[0] / "store/runs/small/report/report.html").read_text()
    assert run_flow(with_control).computed == [] and watch(self_improve_control, with_control).computed == []
    assert "Beside its control" in Path(store.path("runs/small/report/results.txt")).read_text()

    # It is not shown beside another run of this name.
    other = with_control.model_copy(update={"judge": with_control.judge.model_copy(update={"anchors": 5})})
    assert run_flow(other).computed == ["keep_anchors", "report"]
    assert "Beside its control" not in Path(store.path("runs/small/report/results.txt")).read_text()


def test_a_plan_shows_run_and_control(with_control: SelfImproveRecipe, finished: tuple[Path, Watched]) -> None:
    made, alone = with_control.runtime.store, finished[0] / "store"
    said = whyscore("plan", finished[0] / "small.yaml", "--control", "--set", f"runtime.store={made}")
    counts, saved = said.splitlines()[-2:]
    assert counts.endswith(" 0 to compute") and saved.startswith("Cached stages save ")
    assert "control permute_scores" in said and "was" not in said
    said = whyscore("plan", finished[0] / "small.yaml", "--control", "--set", f"runtime.store={alone}")
    assert "control permute_scores" in said and " to compute" in said and " 0 to compute" not in said
    said = whyscore(
        "plan", finished[0] / "small.yaml", "--control", "--set", f"runtime.store={made}", "--set", "seed=1"
    )
    # Both runs are compared with pointers of their own: the permutation of the control differs by the seed alone.
    [why] = [line for line in said.splitlines() if "was" in line and "seed 0 -> 1" in line and "temper" not in line][:1]
    assert why


def test_status_shows_it_and_gc_keeps_it_until_it_is_forgotten(
    with_control: SelfImproveRecipe, finished: tuple[Path, object]
) -> None:
    from flows.controls.self_improve import self_improve_control

    store = with_control.runtime.store
    said = whyscore("status", finished[0] / "small.yaml", "--store", store)
    assert "small: finished, iteration 2" in said and "small-control: finished, iteration 2" in said
    whyscore("gc", "--store", store, "--days", 0, "--apply")
    assert watch(self_improve_control, with_control).computed == []
    whyscore("gc", "--store", store, "--days", 0, "--forget", "small-control", "--apply")
    # The run's report still names the comparison, so it and what it was made from stay.
    assert ArtifactStore(store).children("steps/compare_control")
    assert not Path(store, "runs/small-control").exists()


def test_the_folder_of_another_run_is_not_taken(again: SelfImproveRecipe, prefect_server: str) -> None:
    from flows.controls.self_improve import self_improve_control

    store = ArtifactStore(again.runtime.store)
    RunFolder(store, "small-control", {"seed": 1}, ArtifactRef(stage="discretize", key="k")).begin()
    with pytest.raises(RecipeError) as raised:
        self_improve_control(again)
    assert "small-control" in str(raised.value) and "another name" in str(raised.value)
