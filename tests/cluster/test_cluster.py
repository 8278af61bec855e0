"""Long stages on a Dask cluster: shared out, the same bytes whoever dies, and no model where the flow is."""

import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from distributed import Client
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterName

from pipeline_lib.checks.cluster import check_cluster
from pipeline_lib.config.load import load_recipe
from pipeline_lib.errors import WhyScoreError
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.store import ArtifactStore, Manifest
from tests.cluster.conftest import Cluster, processes, until
from tests.cluster.first_rows import first_rows, generate_only
from tests.forked import ForkServer
from tests.small_run import write_small_recipe

pytestmark = pytest.mark.usefixtures("prefect_server")


def digests(recipe: SelfImproveRecipe) -> dict[str, str]:
    """Every artifact of a store with its digest, shards among them."""
    store = ArtifactStore(recipe.runtime.store)
    found = {address: store.lookup(address) for address in store.addresses()}
    return {address: manifest.digest for address, manifest in found.items() if isinstance(manifest, Manifest)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def alone(folder: Path, prefect_server: str) -> dict[str, str]:
    """What a run in one process makes."""
    recipe = load_recipe(write_small_recipe(folder, folder / "alone"))
    first_rows(recipe)
    return digests(recipe)


@pytest.fixture
def never_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process may load no model, and is told to hand stages that need one to a pool that there is not."""

    def refuse(*_: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("pipeline_lib.vlm.load.load_vlm", refuse)
    monkeypatch.setenv("WHYSCORE_GPU_STAGES", "gpu_stage/none")


def test_two_workers_make_the_same_as_one_process(
    alone: dict[str, str], folder: Path, cluster: Cluster, never_here: None
) -> None:
    recipe = load_recipe(
        folder / "small.yaml", {"runtime.store": str(folder / "shared"), "runtime.dask": cluster.address}
    )
    first_rows(recipe)
    assert digests(recipe) == alone
    shards = {address for address in alone if "/shards/" in address}
    kinds = [re.sub("^(steps|scratch)/", "", address).split("/")[0] for address in sorted(shards)]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "answers": 3, "generate": 3, "judge": 4, "other_explanations": 1, "other_score_explanations": 1,
        "text_scores": 1,
    }  # fmt: skip
    workers = list(cluster.journals().values())
    assert sorted(address for worker in workers for address in worker if address != "load") == sorted(shards)
    assert len(workers) == 2
    for worker in workers:
        assert worker.count("load") == 1
        assert any("generate" in address for address in worker) and any("answers" in address for address in worker)
    assert shard_runs() == ["COMPLETED"] * len(shards)


def test_without_workers_or_scheduler_a_run_says_so_before_it_begins(
    forks: ForkServer, folder: Path, tmp_path: Path
) -> None:
    nobody = f"tcp://127.0.0.1:{free_port()}"
    recipe = load_recipe(folder / "small.yaml", {"runtime.store": str(tmp_path / "store"), "runtime.dask": nobody})
    with pytest.raises(WhyScoreError, match=f"{nobody}: .*`dask scheduler`"):
        generate_only(recipe)
    assert not list(ArtifactStore(recipe.runtime.store).addresses())
    with (
        processes(forks, tmp_path, workers=0) as without,
        pytest.raises(WhyScoreError, match="the scheduler has no workers"),
    ):
        check_cluster(without.address, ArtifactStore(recipe.runtime.store))


def test_a_shard_that_fails_ends_the_run_with_its_error(
    folder: Path, tmp_path: Path, cluster: Cluster, never_here: None
) -> None:
    changes = {"runtime.store": str(tmp_path / "store"), "runtime.dask": cluster.address, "runtime.device": "cuda:9"}
    with pytest.raises((AssertionError, RuntimeError), match="CUDA"):
        generate_only(load_recipe(folder / "small.yaml", changes))


def test_the_shard_of_a_killed_worker_goes_to_another_one(
    alone: dict[str, str], folder: Path, tmp_path: Path, cluster: Cluster, never_here: None
) -> None:
    recipe = load_recipe(
        folder / "small.yaml", {"runtime.store": str(tmp_path / "store"), "runtime.dask": cluster.address}
    )
    before = cluster.journals()
    (cluster.folder / "die").touch()
    generate_only(recipe)
    assert digests(recipe) == of_generate(alone)
    dead, _, doing = (cluster.folder / "died").read_text().partition(" ")
    row = int(doing.removeprefix("ite-1 generate from row "))
    after = {pid: lines[len(before[pid]) :] for pid, lines in cluster.journals().items()}
    survivor = next(pid for pid in after if pid != int(dead))
    assert not any(f"shards/{row:08d}" in address for address in after[int(dead)])
    assert any(f"shards/{row:08d}" in address for address in after[survivor])
    with Client(cluster.address, set_as_default=False) as client:
        assert len(client.nthreads()) == 1


def test_a_shard_that_kills_its_workers_is_given_up_and_the_next_run_goes_on(
    forks: ForkServer, alone: dict[str, str], folder: Path, tmp_path: Path, never_here: None
) -> None:
    with processes(forks, tmp_path, workers=2, allowed_failures=0) as cluster:
        recipe = load_recipe(
            folder / "small.yaml", {"runtime.store": str(tmp_path / "store"), "runtime.dask": cluster.address}
        )
        (cluster.folder / "die").touch()
        with pytest.raises(WhyScoreError, match=r"runtime\.generation_batch_size"):
            generate_only(recipe)
        generate_only(recipe)
    assert digests(recipe) == of_generate(alone)


def test_a_scheduler_that_is_lost_ends_the_run_and_the_next_one_goes_on(
    forks: ForkServer, alone: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    changes = {"runtime.store": str(tmp_path / "store")}
    with processes(forks, tmp_path, workers=1) as cluster, meanwhile(lambda: lose(cluster)):
        with pytest.raises(WhyScoreError, match=r"tcp://"):
            generate_only(load_recipe(folder / "small.yaml", {**changes, "runtime.dask": cluster.address}))
        published = [address for lines in cluster.journals().values() for address in lines if address != "load"]
    recipe = load_recipe(folder / "small.yaml", changes)
    kept = digests(recipe)
    assert published and set(published) <= set(kept)
    generate_only(recipe)
    assert digests(recipe) == of_generate(alone)


def test_without_a_worker_a_run_says_so_and_waits_for_one(
    forks: ForkServer, alone: dict[str, str], folder: Path, tmp_path: Path, never_here: None,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr("tasks.stage.shards.PATIENCE_S", 1.0)
    said = "no worker is left at"

    def start_when_said() -> None:
        until(lambda: any(said in record.getMessage() for record in caplog.records))
        cluster.start_worker()

    with processes(forks, tmp_path, workers=1) as cluster, meanwhile(start_when_said):
        recipe = load_recipe(
            folder / "small.yaml", {"runtime.store": str(tmp_path / "store"), "runtime.dask": cluster.address}
        )
        (cluster.folder / "die").touch()
        generate_only(recipe)
    assert digests(recipe) == of_generate(alone)
    assert len(cluster.workers) == 2


def of_generate(every: dict[str, str]) -> dict[str, str]:
    """What `generate_only` makes."""
    stages = ("steps/check_model", "steps/discretize", "steps/generate")
    return {address: digest for address, digest in every.items() if address.startswith(stages)}


def lose(cluster: Cluster) -> None:
    """Kill the scheduler as soon as a worker has published a shard."""
    until(lambda: any("/shards/" in address for lines in cluster.journals().values() for address in lines))
    assert cluster.scheduler
    cluster.scheduler.kill()


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Do something in a thread while the body runs; what it raises fails the test."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(act)
        yield
        future.result()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def shard_runs() -> list[str]:
    """The states of the shards' task runs, as the UI shows them once the server has written the last ones."""
    with get_client(sync_client=True) as client:
        for _ in range(600):
            runs = client.read_task_runs(task_run_filter=TaskRunFilter(name=TaskRunFilterName(like_=" shard ")))
            states = [run.state_type.value for run in runs if run.state_type]
            if "RUNNING" not in states and "PENDING" not in states:
                break
            time.sleep(0.1)
    return states
