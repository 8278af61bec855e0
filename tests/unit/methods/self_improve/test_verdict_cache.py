"""A verdict is of one judge with all its settings: those in the key of a judge's stage are in the key of the cache."""

from typing import Any

import pytest

from pipeline_lib.config.base import OpenAIEndpoint
from pipeline_lib.methods.self_improve import verdict_cache
from pipeline_lib.methods.self_improve.judge_model import ask_judge
from pipeline_lib.methods.self_improve.prompt import Criterion, load_prompt
from pipeline_lib.methods.self_improve.recipe import OpenAIJudge
from pipeline_lib.methods.self_improve.rubric import Rubric, load_rubric
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.testing.judge_server import JudgeServer
from tasks.self_improve.judge_anchors import judge_anchors
from tests.unit.methods.self_improve.conftest import KEY, explained

JUDGE = OpenAIJudge(model="judge-1")
RUBRIC = load_rubric("paper")
CRITERION = load_prompt("aesthetics").criterion
OTHER_SETTINGS: dict[str, Any] = {"model": "judge-2", "max_tokens": 128, "temperature": 0.7, "rubric": "another-name"}
ANCHORS = ArtifactRef(stage="keep_anchors", key="0" * 64)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def judged(
    server: JudgeServer,
    store: ArtifactStore,
    config: OpenAIJudge = JUDGE,
    rubric: Rubric = RUBRIC,
    criterion: Criterion = CRITERION,
) -> int:
    """How many requests one explanation needs."""
    before = len(server.requests)
    ask_judge(config, OpenAIEndpoint(base_url=server.url), rubric, criterion, explained(["one"]), store, "judge")
    return len(server.requests) - before


def test_every_setting_has_another_value_here() -> None:
    assert OTHER_SETTINGS.keys() == OpenAIJudge.model_fields.keys()


@pytest.mark.parametrize("setting", OTHER_SETTINGS)
def test_a_setting_asks_the_judge_again_exactly_when_it_changes_the_key(
    server: JudgeServer, store: ArtifactStore, setting: str
) -> None:
    other = JUDGE.model_copy(update={setting: OTHER_SETTINGS[setting]})
    assert [judged(server, store), judged(server, store)] == [1, 0]
    keys = {judge_anchors.key(config, RUBRIC, CRITERION, ANCHORS) for config in (JUDGE, other)}
    assert judged(server, store, other) == len(keys) - 1
    assert [judged(server, store, other), judged(server, store)] == [0, 0]


def test_another_rubric_criterion_or_form_of_the_answer_asks_again(
    server: JudgeServer, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert judged(server, store) == 1
    assert judged(server, store, rubric=RUBRIC.model_copy(update={"text": RUBRIC.text + " Be strict."})) == 1
    assert judged(server, store, criterion=CRITERION.model_copy(update={"value": "sharpness"})) == 1
    monkeypatch.setattr(verdict_cache, "RESPONSE_FORMAT", {"type": "json_object"})
    assert judged(server, store) == 1
