import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pipeline_lib.store import ArtifactStore, Manifest
from tests.forked import ForkServer


@pytest.fixture(scope="session")
def run(
    forks: ForkServer, prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[int, list[str], str]]:
    """`run(recipe, moment)` -> exit status (negative: killed), addresses it began to publish, its log.

    In a process of its own, on a Prefect server of another one: killing a run does not kill the server, as in real
    life.
    """

    def call(recipe: Path, moment: str = "never") -> tuple[int, list[str], str]:
        folder = tmp_path_factory.mktemp("run")
        journal, log = folder / "journal.txt", folder / "log.txt"
        journal.write_text("")
        environment = os.environ | {"PREFECT_API_URL": prefect_server}
        done = forks.start("tests.crash.run_and_die", recipe, moment, journal, environment=environment, log=log).wait()
        return done, journal.read_text().split(), log.read_text()

    return call


def digests(store: Path) -> dict[str, str]:
    """Digest of every stage's artifact in a store, by address; all of them whole."""
    artifacts = ArtifactStore(str(store))
    found = {}
    for stage in artifacts.children("steps"):
        for key in artifacts.children(f"steps/{stage}"):
            manifest = artifacts.lookup(f"steps/{stage}/{key}")
            assert isinstance(manifest, Manifest), f"{stage}/{key}: {manifest}"
            assert artifacts.verify(f"steps/{stage}/{key}") == []
            found[f"steps/{stage}/{key}"] = manifest.digest
    return found


def remove_newest_of_each_stage(store: Path) -> None:
    """As if the newest artifact of every stage were not computed yet, with all that is in parts."""
    shutil.rmtree(store / "scratch", ignore_errors=True)
    for stage in (store / "steps").iterdir():
        shutil.rmtree(max(stage.iterdir(), key=lambda path: (path / "manifest.json").stat().st_mtime))


@pytest.fixture
def half_done(request: pytest.FixtureRequest) -> Callable[[Path, Path], set[str]]:
    """`half_done(finished, store)` fills a new store with all but the newest artifact of each stage of a finished one.

    So each mechanism works once, and not once for each model. With --all-moments the new store is empty. Returns the
    addresses of the artifacts in it.
    """

    def fill(finished: Path, store: Path) -> set[str]:
        if request.config.getoption("--all-moments"):
            return set()
        shutil.copytree(finished, store)
        remove_newest_of_each_stage(store)
        return set(digests(store))

    return fill


def go_on_after_kills(
    run: Callable[..., tuple[int, list[str], str]], recipe: Path, moments: Sequence[str]
) -> list[str]:
    """Kill a run at each of some moments, one after the other, then let it end; returns the logs of all."""
    logs = []
    for moment in moments:
        status, _, log = run(recipe, moment)
        assert status == -signal.SIGKILL, (moment, log[-3000:])
        logs.append(log)
    status, _, log = run(recipe)
    assert status == 0, log[-3000:]
    return [*logs, log]
