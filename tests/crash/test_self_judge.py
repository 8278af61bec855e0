"""self_judge at the size of a test: a run, killed at each kind of moment, and on known answers that are poison."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from pipeline_lib.demo.method_data import write_answer_pairs, write_questions
from pipeline_lib.store import ArtifactStore
from tests.crash.conftest import digests, go_on_after_kills

ROOT = Path(__file__).parents[2]
MOMENTS = ["after /shards/", "before filter_traces/", "step 3", "before report/"]
pytestmark = pytest.mark.timeout(1800)


def write_recipe(folder: Path, data: Path, store: Path, table: str = "questions.jsonl", iterations: int = 2) -> Path:
    """Two iterations over 16 images; six pairs measure."""
    fields: dict[str, Any] = yaml.safe_load((ROOT / "recipes/self_judge/demo.yaml").read_text())
    fields |= {"name": "small", "iterations": iterations}
    fields["data"]["table"] = str(data / "questions" / table)
    fields["pairs"] |= {"share": 0.5, "closed_share": None, "votes": 6, "min_votes": 2}
    fields["reasons"] |= {"samples": 2, "temperature": 1.0}
    fields["training"] |= {"batch_size": 4, "micro_batch_size": 4, "epochs": 2}
    pairs = [{"name": "known", "table": str(data / "answer_pairs/answer_pairs.jsonl")}]
    fields["evaluation"] = {"bootstrap_samples": 100, "held_out": 1.0, "pairs": pairs}
    fields["runtime"] |= {"store": str(store), "shard_rows": 8, "checkpoint_every": 2, "generation_batch_size": 16}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.yaml").write_text(yaml.safe_dump(fields))
    return folder / "small.yaml"


class Finished(NamedTuple):
    """The data and the store of a run that nothing disturbed, and what it said."""

    data: Path
    store: Path
    log: str


@pytest.fixture(scope="module")
def finished(run: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("self_judge")
    write_questions(folder / "questions", 3, train=16, val=6, test=1)
    write_answer_pairs(folder / "answer_pairs", 3, count=6)
    status, _, log = run(write_recipe(folder, folder, folder / "store"))
    assert status == 0, log[-3000:]
    return Finished(folder, folder / "store", log)


def tables(store: Path, stage: str, name: str) -> list[list[dict[str, Any]]]:
    """A table of every artifact of a stage, in the order of their content."""
    artifacts = ArtifactStore(str(store))
    found = [artifacts.read_table(f"steps/{stage}/{key}", name) for key in artifacts.children(f"steps/{stage}")]
    return sorted((table.to_pylist() for table in found), key=str)


def test_a_run_makes_pairs_keeps_reasons_and_measures_each_judge(finished: Finished) -> None:
    made = tables(finished.store, "synthesize_pairs", "synthesis")
    assert sorted(len(table) for table in made) == [18, 24, 24]  # held out: 6 open, 12 closed; half of 16 and of 32
    assert {row["kind"] for table in made for row in table if row["status"] == "pair"} == {"open", "closed"}
    for reasons, filtered in zip(
        sorted(tables(finished.store, "reason", "reasons"), key=len),
        sorted(tables(finished.store, "filter_traces", "filtered"), key=len),
        strict=True,
    ):
        assert len(reasons) == 4 * len(filtered)  # two samples in both orders
    for traces in tables(finished.store, "filter_traces", "traces"):
        assert traces and all(row["chosen"].endswith(f"Verdict: {row['better_letter']}") for row in traces)
    assert len(tables(finished.store, "train_judge", "training_log")) == 2
    judged = tables(finished.store, "evaluate_judge", "judgements")
    assert len(judged) == 6 and sum(len(table) == 6 for table in judged) >= 3
    of_run = finished.store / "runs/small"
    pointers = {path.relative_to(of_run).as_posix() for path in of_run.rglob("*.json")}
    assert {f"iteration-{name}/predictions.json" for name in ("00/base", "01/judge", "02/judge")} <= pointers
    last, model = (
        json.loads((of_run / f"{name}.json").read_text()) for name in ("iteration-02/judge/adapter", "model")
    )
    assert last["key"] == model["key"]
    page = (of_run / "report/report.html").read_text()
    assert page.count("<section>") == 6 and page.count("<svg") == 4
    assert "What each iteration learned from" in (of_run / "report/results.txt").read_text()


def test_killed_again_and_again_it_ends_with_the_same_digests(
    finished: Finished, run: Callable[..., Any], half_done: Callable[[Path, Path], set[str]], tmp_path: Path
) -> None:
    half_done(finished.store, tmp_path / "store")
    recipe = write_recipe(tmp_path, finished.data, tmp_path / "store")
    logs = go_on_after_kills(run, recipe, MOMENTS)
    assert digests(tmp_path / "store") == digests(finished.store)
    assert any("going on from step 2" in log for log in logs)


def test_no_known_answer_is_read_by_what_makes_pairs_judges_or_trains(
    finished: Finished, run: Callable[..., Any], tmp_path: Path
) -> None:
    lines = (finished.data / "questions/questions.jsonl").read_text().splitlines()
    poisoned = [json.loads(line) | {"answer": "poison", "choices": [], "shows": []} for line in lines]
    poison = finished.data / "questions/poison.jsonl"
    poison.write_text("".join(json.dumps(line) + "\n" for line in poisoned))
    recipe = write_recipe(tmp_path, finished.data, tmp_path / "store", table="poison.jsonl", iterations=1)
    status, _, log = run(recipe)
    assert status == 0, log[-3000:]
    known = ("better_is_known", "worse_is_known")
    for stage, name in (("synthesize_pairs", "synthesis"), ("reason", "reasons"), ("train_judge", "training_log")):
        both = [
            [[{at: row[at] for at in row if at not in known} for row in table] for table in tables(store, stage, name)]
            for store in (finished.store, tmp_path / "store")
        ]
        assert both[1] and all(table in both[0] for table in both[1])
