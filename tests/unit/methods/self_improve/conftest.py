from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline_lib.config.base import OpenAIEndpoint
from pipeline_lib.methods.self_improve.prompt import load_prompt
from pipeline_lib.methods.self_improve.recipe import OpenAIJudge
from pipeline_lib.methods.self_improve.rubric import load_rubric
from pipeline_lib.store import ArtifactStore
from pipeline_lib.testing.judge_server import JudgeServer, judge_server

KEY = "sk-marked-key-0123456789"
Ask = Callable[..., list[dict[str, Any]]]


def explained(texts: list[str | None], score: int = 7) -> pa.Table:
    """Predictions with these explanations."""
    return pa.table(
        {
            "image": [f"{n}.png" for n in range(len(texts))],
            "image_sha256": ["0" * 64] * len(texts),
            "split": ["test"] * len(texts),
            "group": [f"{n}.png" for n in range(len(texts))],
            "stated_score": pa.array([None if text is None else score for text in texts], pa.int8()),
            "explanation": pa.array(texts, pa.string()),
        }
    )


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with judge_server() as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"))


@pytest.fixture
def ask(server: JudgeServer, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Judge explanations with the test server; retries wait milliseconds instead of seconds."""
    from pipeline_lib import openai_server
    from pipeline_lib.methods.self_improve.judge_model import ask_judge

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(openai_server, "FIRST_WAIT_S", 0.01)

    def call(texts: list[str | None], score: int = 7, max_tokens: int = 64, **endpoint: Any) -> list[dict[str, Any]]:
        fields = {"base_url": server.url, "timeout_s": 5.0, "concurrency": 4} | endpoint
        verdicts = ask_judge(
            OpenAIJudge(model="judge-1", max_tokens=max_tokens),
            OpenAIEndpoint(**fields),
            load_rubric("paper"),
            load_prompt("aesthetics").criterion,
            explained(texts, score),
            store,
            "zero-shot judge_openai",
        )
        return verdicts.to_pylist()

    return call
