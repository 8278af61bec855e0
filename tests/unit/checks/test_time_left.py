"""How long the missing stages of a plan will take, from what the same stages took before."""

from pathlib import Path

from pipeline_lib.checks.plan import Planned
from pipeline_lib.checks.time_left import TimeLeft, Took, plan_notes, time_left, time_left_text, took_before
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.store.runs import RunFolder

IMAGES = ArtifactRef(stage="discretize", key="k")


def missing(label: str, stage: str) -> Planned:
    return Planned(label, ArtifactRef(stage=stage, key=label.replace(" ", "-")), {}, "not computed yet", "r", label)


def test_the_same_label_counts_before_the_same_stage() -> None:
    took = [
        Took("ite-1 score evaluate", "evaluate", 100.0),
        Took("ite-2 score evaluate", "evaluate", 140.0),
        Took("ite-2 merged evaluate", "evaluate", 30.0),
    ]
    left = time_left([missing("ite-3 score evaluate", "evaluate"), missing("ite-3 merged evaluate", "evaluate")], took)
    assert left == TimeLeft(150.0, 2, ())
    assert time_left([missing("zero-shot evaluate", "evaluate")], took) == TimeLeft(90.0, 1, ())


def test_stages_that_were_never_computed_are_named() -> None:
    took = [Took("a swap", "swap", 60.0)]
    left = time_left([missing("b swap", "swap"), missing("b judge", "judge"), missing("c judge", "judge")], took)
    assert left == TimeLeft(60.0, 3, ("judge",))
    assert time_left_text(left) == "about 1 min 00 s for 3 stages, without judge (never computed yet)"
    every = time_left([missing(f"b {name}", name) for name in ("judge", "evaluate", "train", "merge", "swap")], took)
    assert time_left_text(every) == "about 1 min 00 s for 5 stages, without 4 kinds of stages (never computed yet)"
    assert "not known" in time_left_text(time_left([missing("b judge", "judge")], took))
    assert time_left_text(time_left([], took)) == ""


def test_a_plan_learns_from_the_store_and_from_the_runs_last_pointers(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))

    def published(stage: str, key: str, seconds: float) -> ArtifactRef:
        with store.attempt() as attempt:
            attempt.started -= seconds
            attempt.device = "cpu"
            store.publish(f"steps/{stage}/{key}", attempt, {})
        return ArtifactRef(stage=stage, key=key)

    cached, old = published("generate", "now", 3600.0), published("swap", "old", 60.0)
    RunFolder(store, "r", {}, IMAGES).keep("swapped", old)
    planned = [Planned("ite-1 generate", cached, {}, None, "r", "generated"), missing("ite-1 swap", "swap")]
    assert [(one.label, one.stage, round(one.seconds)) for one in took_before(store, planned)] == [
        ("ite-1 generate", "generate", 3600),
        ("", "swap", 60),
    ]
    assert plan_notes(store, planned, 2.0) == [
        "To compute: about 1 min 00 s for 1 stage",
        "Cached stages save 1 device hours without a GPU (2.00 USD at 2 USD an hour)",
    ]
