import os
from collections.abc import Callable
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
