"""How much of a run is left, where a result decides what follows."""

from pathlib import Path

from prefect import flow

from pipeline_lib.config.base import Runtime
from pipeline_lib.store import ArtifactStore, Miss
from tasks.stage import At, Work, stage
from tasks.stage.plan import PlanEnds, is_planning
from tasks.stage.whole_run import end_of_run, expect_stages
from tests.flows.conftest import listen


@stage(version=1)
def count_up(work: Work, number: int) -> None:
    (work.attempt.folder / "number.txt").write_text(str(number))


@flow(name="deciding")
def deciding(root: str) -> None:
    at, store = At(Runtime(store=root)), ArtifactStore(root)
    if not is_planning():
        expect_stages(store)
    first = count_up(at.labelled("first"), 1)
    if is_planning() and isinstance(store.lookup(first.address), Miss):
        raise PlanEnds
    count_up(at.labelled("second"), 2)
    count_up(at.labelled("third"), 3)
    if not is_planning():
        end_of_run(None)


def test_the_rest_is_planned_when_the_result_that_decides_is_there(prefect_server: str, tmp_path: Path) -> None:
    with listen("whyscore.run") as lines:
        deciding(str(tmp_path / "store"))
    assert lines == [
        "1 of 1 stages are done (more may follow from their results)",
        "2 of 3 stages are done; left: about 0 s for 1 stage",
        "3 of 3 stages are done",
        "this run computed 3 stages",
    ]
    with listen("whyscore.run") as lines:
        deciding(str(tmp_path / "store"))
    assert lines == ["this run took 3 stages from the store"]


def test_a_plan_that_fails_costs_no_run(prefect_server: str, tmp_path: Path) -> None:
    @flow(name="unplannable")
    def unplannable() -> None:
        if is_planning():
            raise ValueError("no plan")
        expect_stages(ArtifactStore(str(tmp_path)))
        count_up(At(Runtime(store=str(tmp_path))), 4)

    with listen("whyscore.run") as lines:
        unplannable()
    assert lines == ["the time left of this run is not estimated: no plan"]
