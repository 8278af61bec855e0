"""Kill the flow at every kind of moment, run it again, and demand the digests of the uninterrupted run."""

import contextlib
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import psutil
import pytest
import yaml

from pipeline_lib.demo.dataset import write_dataset
from tests.crash.conftest import digests
from tests.small_run import RECIPES, write_small_recipe

# The middle of the two long stages, a shard, and both sides of a publish; of each stage one artifact is missing.
MOMENTS = [
    "batch 2",
    "after /shards/",
    "after swap/",
    "step 3",
    "before ties_merge/",
    "before evaluate/",
]

# With --all-moments, in a run from its beginning: one of each kind of publish as well.
ALL_MOMENTS = [
    "after check_model/",
    "before discretize/",
    "batch 2",
    "after /shards/",
    "before generate/",
    "before compute_reference/",
    "after fit_judge/",
    "before evaluate/",
    "step 3",
    "after /checkpoints/",
    "before train_score/",
    "after evaluate/",
    "before judge/",
    "after swap/",
    "after compute_reference/",
    "before /checkpoints/",
    "step 1",
    "after train_consistency/",
    "before ties_merge/",
    "after ties_merge/",
    "before report/",
]


@pytest.fixture(scope="module")
def uninterrupted(request, tmp_path_factory, run):
    """A folder with the recipe, the data and the store of a run that nothing disturbed."""
    if not request.config.getoption("--demo-size"):
        return request.getfixturevalue("small_run")
    folder = tmp_path_factory.mktemp("uninterrupted")
    status, _, log = run(_recipe(request, folder, folder, folder / "store"))
    assert status == 0, log[-3000:]
    return folder


@pytest.mark.timeout(7200)
def test_killed_again_and_again_ends_with_the_same_digests(request, uninterrupted, run, half_done, tmp_path):
    expected = digests(uninterrupted / "store")
    recipe = _recipe(request, uninterrupted, tmp_path, tmp_path / "store")
    every_boundary = request.config.getoption("--demo-size")
    all_moments = every_boundary or request.config.getoption("--all-moments")
    chosen = ALL_MOMENTS if all_moments else MOMENTS
    kept = set() if every_boundary else half_done(uninterrupted / "store", tmp_path / "store")
    # At demo size: before and after each manifest in turn, until the run gets through.
    moments = cycle(["first-before", "first-after"]) if every_boundary else iter([*chosen, "never"])
    published: Counter[str] = Counter()
    kills = 0
    for moment in moments:
        status, journal, log = run(recipe, moment)
        published.update(journal)
        if status == 0:
            break
        assert status == -signal.SIGKILL, log[-3000:]
        kills += 1
    assert kills >= len(chosen)
    assert digests(tmp_path / "store") == expected
    # What was published is not computed again; only a kill between a stage's work and its manifest costs that stage.
    assert {address for address in published if address in expected} == set(expected) - kept
    repeated = {address for address, times in published.items() if times > 1}
    assert max(published.values()) <= 2
    assert every_boundary or len(repeated) <= sum(moment.startswith("before") for moment in chosen)


@pytest.mark.parametrize(
    "moment", ["step 3", pytest.param("after /checkpoints/", marks=pytest.mark.only_with("--all-moments"))]
)
def test_killed_training_goes_on_from_its_newest_checkpoint(request, uninterrupted, run, tmp_path, moment):
    shutil.copytree(uninterrupted / "store", tmp_path / "store")
    recipe = _recipe(request, uninterrupted, tmp_path, tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "steps" / "train_score")
    status, _, _ = run(recipe, moment)
    assert status == -signal.SIGKILL
    status, journal, log = run(recipe)
    assert status == 0, log[-3000:]
    assert "going on from step 2" in log
    assert digests(tmp_path / "store") == digests(uninterrupted / "store")
    assert {address.split("/")[1] for address in journal} == {"train_score"}


def test_sigterm_leaves_a_checkpoint_and_a_plain_message(request, uninterrupted, run, tmp_path):
    shutil.copytree(uninterrupted / "store", tmp_path / "store")
    recipe = _recipe(request, uninterrupted, tmp_path, tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "steps" / "train_consistency")
    status, _, log = run(recipe, "terminate 2")  # comes after step 2, so the running step is the third
    assert status == 1
    assert "stopped at step 3" in log and "run the recipe again" in log
    status, _, log = run(recipe)
    assert status == 0, log[-3000:]
    assert "going on from step 3" in log  # not a multiple of checkpoint_every
    assert digests(tmp_path / "store") == digests(uninterrupted / "store")


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_no_server_outlives_a_run_and_ctrl_c_ends_it_with_a_sentence(small_run, forks, prefect_folder, tmp_path, end):
    """On Prefect's own temporary server; a terminal sends Ctrl-C to the whole process group."""
    shutil.copytree(small_run / "store", tmp_path / "store")
    for finished in ("steps/evaluate", "scratch/answers"):  # what comes before is not waited for
        shutil.rmtree(tmp_path / "store" / finished)
    recipe = write_small_recipe(tmp_path, tmp_path / "store", small_run / "data" / "scores.csv")
    shutil.copy(prefect_folder / "empty.db", tmp_path / "prefect.db")
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"} | {"PREFECT_HOME": str(tmp_path)}
    log = tmp_path / "log"
    run = forks.start("tests.command_line", "run", recipe, environment=environment, log=log, session=True)
    try:
        # Not earlier: while libraries are imported, one of their bare excepts may swallow Ctrl-C.
        _wait_for(lambda: "zero-shot evaluate: computing" in log.read_text() or not run.runs())
        assert _servers(tmp_path), log.read_text()[-3000:]
        os.killpg(run.pid, end) if end == signal.SIGINT else run.kill()
        status = run.wait()
    finally:
        run.kill()
    if end == signal.SIGINT:
        assert status == 130
        assert "Interrupted" in (tmp_path / "log").read_text()
    _wait_for(lambda: not _servers(tmp_path))


def _servers(prefect_home: Path) -> list[int]:
    """Processes of Prefect's server whose home is this folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "uvicorn" in process.cmdline() and process.environ().get("PREFECT_HOME") == str(prefect_home):
                found.append(process.pid)
    return found


def _wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 500  # a cold start on a busy machine takes minutes
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)  # polling another process, with a limit


def _recipe(request, uninterrupted: Path, folder: Path, store: Path) -> Path:
    """A recipe in `folder` over the data of the uninterrupted run."""
    if not request.config.getoption("--demo-size"):
        return write_small_recipe(folder, store, uninterrupted / "data" / "scores.csv")
    fields = yaml.safe_load((RECIPES / "demo.yaml").read_text())
    fields["data"]["table"] = str(write_dataset(uninterrupted / "data", 0))
    fields["runtime"] |= {"store": str(store), "shard_rows": 1024}  # shards' boundaries are killed at in the small run
    path = folder / "demo.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def test_two_runs_at_once_end_with_one_artifact_a_key(request, uninterrupted, run, tmp_path):
    recipe = _recipe(request, uninterrupted, tmp_path, tmp_path / "store")
    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(lambda _: run(recipe), range(2)))
    for status, _, log in outcomes:
        assert status == 0, log[-3000:]
    both = set(outcomes[0][1]) & set(outcomes[1][1])
    assert both, "the two runs never worked on the same stage; this test shows nothing"
    assert digests(tmp_path / "store") == digests(uninterrupted / "store")
    for manifest in (tmp_path / "store" / "steps").glob("*/*/manifest.json"):
        attempts = [path.name for path in manifest.parent.iterdir() if path.is_dir()]
        attempts = [name for name in attempts if name not in {"shards", "checkpoints"}]
        assert attempts == [json.loads(manifest.read_text())["attempt"]]
