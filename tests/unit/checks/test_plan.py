"""Why the key of a stage is another one than in the run before."""

import pytest

from pipeline_lib.checks.plan import Planned, differences, plan_text
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.store.runs import RunFolder

OLD, NEW = (ArtifactRef(stage="swap", key=digit * 64) for digit in "01")


def test_each_argument_that_differs_is_named_with_both_values() -> None:
    ref = {"stage": "generate", "key": "a" * 64}
    before = {"config": {"fraction": 1.0, "gone": 1}, "pairs": ref, "seeds": [1, 2], "same": {"x": None}}
    after = {"config": {"fraction": 0.5}, "pairs": {**ref, "key": "b" * 64}, "seeds": [1, 3], "same": {"x": None}}
    assert differences(before, after) == [
        "config.fraction 1.0 -> 0.5",
        "config.gone 1 -> nothing",
        "pairs generate aaaaaaaa -> generate bbbbbbbb",
        "seeds[1] 2 -> 3",
    ]
    assert differences(before, before) == []


@pytest.mark.parametrize("there", [True, False])
def test_a_plan_says_what_is_cached_and_why_a_key_differs(tmp_path, there: bool) -> None:
    store = ArtifactStore(str(tmp_path))
    if there:
        with store.attempt() as attempt:
            store.publish(OLD.address, attempt, {"config": {"fraction": 1.0}, "seed": 0})
    RunFolder(store, "r", {}, OLD).keep("pairs", OLD)
    stages = [
        Planned("ite-1 generate", OLD, {}, None),
        Planned("ite-2 swap", NEW, {"config": {"fraction": 0.5}, "seed": 0}, "not computed yet", "r", "pairs"),
    ]
    first, second, why, _, counts = plan_text(store, stages).splitlines()
    assert first.split() == ["ite-1", "generate", "00000000", "cached"]
    assert "11111111" in second and second.endswith("to compute: not computed yet")
    assert ("config.fraction 1.0 -> 0.5" in why) == there and "was 00000000" in why
    assert counts == "2 stages, 1 cached, 1 to compute"
