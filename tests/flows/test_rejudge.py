"""A later judge re-scores what was kept of every iteration, in Prefect, by a real server on loopback."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline_lib.errors import JudgeError, RecipeError, StoreError
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.methods.self_improve.tables import PREDICTIONS
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.store.runs import RunFolder
from pipeline_lib.testing.judge_server import JudgeServer, fail, judge_server
from tasks.stage import At

KEY = "sk-marked-key-0123456789"


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with judge_server() as running:
        yield running


@pytest.fixture
def recipe(tmp_path: Path, server: JudgeServer, monkeypatch: pytest.MonkeyPatch) -> SelfImproveRecipe:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return SelfImproveRecipe.model_validate(
        {
            "name": "finished",
            "data": {"table": "t.csv"},
            "model": {"id": "bundled"},
            "evaluation": {"bootstrap_samples": 100},
            "judge": {"openai": {"model": "lab/judge-1"}},
            "runtime": {"store": str(tmp_path / "store"), "openai": {"base_url": server.url, "max_retries": 0}},
        }
    )


def published(store: ArtifactStore, words: str) -> ArtifactRef:
    """Predictions as a finished evaluation leaves them."""
    count = 12
    rows = {
        "image": [f"{n}.png" for n in range(count)],
        "image_sha256": ["0" * 64] * count,
        "split": ["test"] * count,
        "score": np.linspace(1, 9, count),
        "bin": [5] * count,
        "score_distribution": [[0.1] * 10] * count,
        "digit_mass": [1.0] * count,
        "predicted_unfitted": [5.0] * count,
        "predicted_fitted": [5.0] * count,
        "predicted_monotone": [5.0] * count,
        "interval_low": [4.0] * count,
        "interval_high": [6.0] * count,
        "group": [f"{n}" for n in range(count)],
        "text": ["-"] * count,
        "text_tokens": [9] * count,
        "parsed": [n > 0 for n in range(count)],
        "stated_score": [n % 10 if n else None for n in range(count)],
        "explanation": [f"{words} {n}" if n else None for n in range(count)],
    }
    ref = ArtifactRef(stage="evaluate", key=words)
    with store.attempt() as attempt:
        attempt.write_table(PREDICTIONS, pa.table(rows))
        store.publish(ref.address, attempt, {})
    return ref


def keep(recipe: SelfImproveRecipe, rows: int = 10) -> None:
    """The anchors of two models, kept as the main flow keeps them."""
    from tasks.self_improve.keep_anchors import keep_anchors

    store = ArtifactStore(recipe.runtime.store)
    models = [(iteration, kind, published(store, kind)) for iteration, kind in ((0, "zero-shot"), (1, "score"))]
    anchors = keep_anchors(At(recipe.runtime), rows, models, recipe.seed)
    begun(recipe).keep("anchors", anchors)


def begun(recipe: SelfImproveRecipe) -> RunFolder:
    """The folder of the recipe's run, which had the first judge; another judge may re-score it."""
    folder = RunFolder(
        ArtifactStore(recipe.runtime.store),
        recipe.name,
        with_judge(recipe, "lab/judge-1").run_fields(),
        ArtifactRef(stage="discretize", key="images"),
    )
    folder.begin()
    return folder


def with_judge(recipe: SelfImproveRecipe, model: str | None) -> SelfImproveRecipe:
    openai = recipe.judge.openai.model_copy(update={"model": model})
    return recipe.model_copy(update={"judge": recipe.judge.model_copy(update={"openai": openai})})


def test_a_later_judge_is_shown_beside_the_earlier_ones(
    prefect_server: None, recipe: SelfImproveRecipe, server: JudgeServer
) -> None:
    from flows.rejudge import rejudge

    with pytest.raises(StoreError, match="nothing of a run finished"):
        rejudge(recipe)
    begun(recipe)
    with pytest.raises(StoreError, match="keeps no anchors"):
        rejudge(recipe)
    with pytest.raises(RecipeError, match=r"judge\.openai\.model: name the judge"):
        rejudge(with_judge(recipe, None))
    keep(recipe)
    assert "lab/judge-1" in rejudge(recipe)
    first = len(server.requests)
    assert 18 <= first <= 20  # the same ten images of both models, but for unparsed answers
    folder = Path(recipe.runtime.store) / "runs" / "finished" / "anchor_verdicts"
    assert [file.name for file in folder.iterdir()] == ["lab--judge-1-paper.json"]

    shown = rejudge(with_judge(recipe, "judge-2"))
    assert len(server.requests) == 2 * first
    assert "judge-2 and lab/judge-1 on consistency: Spearman 1.00" in shown  # the server grades both alike
    assert [line.split()[0] for line in shown.splitlines()[1:5]] == ["zero-shot", "lab/judge-1", "ite-1", "lab/judge-1"]
    assert rejudge(with_judge(recipe, "judge-2")) == shown and len(server.requests) == 2 * first

    with pytest.raises(RecipeError, match="seed is 5"):
        rejudge(recipe.model_copy(update={"seed": 5}))
    keep(recipe, rows=4)  # the run was made again with other anchors: the old figures would be of other images
    assert "lab/judge-1" not in rejudge(with_judge(recipe, "judge-2"))
    assert len(server.requests) == 2 * first  # of which the judge had seen all


def test_the_key_reaches_neither_prefect_nor_its_logs(
    prefect_server: None, recipe: SelfImproveRecipe, server: JudgeServer, caplog: pytest.LogCaptureFixture
) -> None:
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL

    from flows.rejudge import rejudge

    keep(recipe)
    server.plan = {"zero": [fail(403)]}
    with caplog.at_level(logging.DEBUG), pytest.raises(JudgeError, match="may not use lab/judge-1"):
        rejudge(recipe)
    rejudge(recipe)
    assert f"Bearer {KEY}" in server.keys
    assert KEY not in caplog.text and "may not use" in caplog.text
    database = Path((PREFECT_API_DATABASE_CONNECTION_URL.value() or "").partition("///")[2])
    files = (*database.parent.glob(f"{database.name}*"), *Path(recipe.runtime.store).rglob("*"))
    content = b"".join(file.read_bytes() for file in files if file.is_file())
    assert b"may not use lab/judge-1" in content  # the state's message is there, the key is not
    assert KEY.encode() not in content


def test_the_stage_rates_what_the_rubric_says_and_a_new_rubric_is_a_new_key(
    prefect_server: None, recipe: SelfImproveRecipe, server: JudgeServer
) -> None:
    from pipeline_lib.methods.self_improve.prompt import load_prompt
    from pipeline_lib.methods.self_improve.rubric import Rubric, load_rubric
    from tasks.self_improve.judge_openai import judge_openai

    store, at = ArtifactStore(recipe.runtime.store), At(recipe.runtime)
    predictions, criterion = published(store, "text"), load_prompt("product_defects").criterion
    paper = load_rubric("paper")

    def judged(rubric: Rubric) -> ArtifactRef:
        return judge_openai(at, recipe.judge.openai, 5, rubric, criterion, recipe.evaluation.bootstrap, predictions, 0)

    first = judged(paper)
    rows = store.read_table(first.address, "verdicts").to_pylist()
    assert len(rows) == 5 and {row["status"] for row in rows} <= {"scored", "unparsed"}
    assert "given a product condition score for" in server.requests[0]["message"]
    metrics = {(row["split"], row["metric"]): row for row in store.read_table(first.address, "metrics").to_pylist()}
    assert metrics["test", "use"]["rows"] == sum(row["status"] == "scored" for row in rows) == len(server.requests)
    assert metrics["test", "unscored_rate"]["value"] == 0
    assert judged(Rubric(name="renamed", text=paper.text)) == first
    assert judged(Rubric(name="paper", text=paper.text + ".")) != first
    assert len(server.requests) == 2 * metrics["test", "use"]["rows"]
