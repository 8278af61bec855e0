"""What all tests share: no network, one thread, a tiny model, and the label files when they are there."""

import contextlib
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

for _name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ[_name] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402 - what is imported later reads the settings above

if TYPE_CHECKING:
    from tests.forked import ForkServer

ROOT = Path(__file__).resolve().parents[1]
LABEL_FILES = (
    "ava_labels_25551.txt",
    "imgListTestNewRegression_score.txt",
    "imgListTrainRegression_score.txt",
    "koniq10k_distributions_sets.csv",
)


def pytest_configure(config: pytest.Config) -> None:
    """Start what the workers' processes are forked off from, in the process that outlives the workers."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    from tests.forked import SOCKET, server_of_libraries

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="whyscore-forks-"))
        os.environ[SOCKET] = str(stack.enter_context(server_of_libraries(Path(folder))).address)
        config.add_cleanup(stack.pop_all().close)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what belongs to a longer suite: `only_with("--option")` names the option that it runs with."""

    def belongs_here(item: pytest.Item) -> bool:
        return all(config.getoption(marker.args[0]) for marker in item.iter_markers("only_with"))

    left_out = [item for item in items if not belongs_here(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if belongs_here(item)]


_frozen_modules = 0


def freeze() -> None:
    """What is imported stays: without this each `gc.collect` of the library looks at a million objects."""
    global _frozen_modules
    gc.collect()
    gc.freeze()
    _frozen_modules = len(sys.modules)


def pytest_collection_finish() -> None:
    """What the modules of all tests have imported."""
    freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What earlier tests have imported: Prefect, trl and matplotlib come with the first flow."""
    if len(sys.modules) > _frozen_modules + 300:
        freeze()


@pytest.fixture(scope="session")
def label_files() -> Path:
    """The real label files of AADB, AVA and KonIQ, which are not part of the repository."""
    folder = Path(os.environ.get("WHYSCORE_LABEL_FILES", ROOT.parent / "shared" / "data"))
    if missing := [name for name in LABEL_FILES if not (folder / name).exists()]:
        pytest.skip(f"{folder} (WHYSCORE_LABEL_FILES names another) lacks the label files {', '.join(missing)}")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved Llava of random weights, small enough to train in a second; do not write to it, copy it."""
    from pipeline_lib.testing.tiny import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def libraries() -> "ForkServer":
    """Starts Python processes that have the large libraries imported, and nothing of this project."""
    from tests.forked import SOCKET, ForkServer

    return ForkServer(Path(os.environ[SOCKET]))


@pytest.fixture(scope="session")
def prefect_folder(libraries: "ForkServer", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the `api` of the Prefect server of all tests, its database, and `empty.db`: that before any run."""
    from tests.once import made_once
    from tests.prefect_servers import make_prefect_server

    return made_once(tmp_path_factory, "prefect", lambda folder: make_prefect_server(libraries, folder))


@pytest.fixture(scope="session")
def prefect_server(prefect_folder: Path) -> Iterator[str]:
    """The API of a Prefect server of its own process, one for all workers; this process uses it."""
    from tasks.stage.cards import flush
    from tests.prefect_servers import on_server

    api = (prefect_folder / "api").read_text()
    with on_server(api, prefect_folder):
        yield api
        flush()  # a card that is sent when the server is gone keeps the process for a minute


@pytest.fixture(scope="session")
def small_run(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two iterations: `small.yaml`, `data`, `store`; see `tests.small_run`. Do not write to it."""
    from tests.forked import OURS
    from tests.once import made_once
    from tests.small_run import make_small_run

    def make(folder: Path) -> None:
        for name in OURS:
            import_module(name)
        freeze()
        make_small_run(folder)

    return made_once(tmp_path_factory, "small-run", make)


@pytest.fixture(scope="session")
def small_stic(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of stic: `small_stic.yaml`, `data`, `store`; see `tests.small_stic`. Do not write to it."""
    from tests.once import made_once
    from tests.small_stic import make_small_stic

    return made_once(tmp_path_factory, "small-stic", make_small_stic)


@pytest.fixture(scope="session")
def forks(libraries: "ForkServer", tmp_path_factory: pytest.TempPathFactory) -> "ForkServer":
    """Starts Python processes that have this project imported as well."""
    from tests.forked import OURS, ForkServer
    from tests.once import made_once

    def make(folder: Path) -> None:
        address = libraries.address.with_name("project")  # the path of a socket must be short
        libraries.start("tests.forked", address, *OURS, log=folder / "log")
        while "ready" not in (folder / "log").read_text():
            time.sleep(0.01)

    made_once(tmp_path_factory, "forks", make)
    return ForkServer(libraries.address.with_name("project"))


_S3_SERVER = """
import sys
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of an S3 server on loopback, for the whole session; make a bucket of your own, so that tests stay apart.

    The environment has its address and keys, so `fsspec.filesystem("s3")` and `s3://` URLs reach it as they are. The
    server is a process of its own and ends with the tests, however those end.
    """
    import s3fs

    server = subprocess.Popen(
        [sys.executable, "-c", _S3_SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert server.stdin and server.stdout
    port = server.stdout.readline().decode().strip()
    assert port, "moto's server did not start; is moto[server] installed?"
    url = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ENDPOINT_URL_S3", url)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("NO_PROXY", "127.0.0.1")
        s3fs.S3FileSystem.clear_instance_cache()
        yield url
        s3fs.S3FileSystem.clear_instance_cache()
    server.stdin.close()
    server.wait(timeout=10)
