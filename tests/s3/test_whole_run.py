"""A whole self-training run on a real S3 server: the digests of a folder, whatever happens on the way.

At the size of the demo: `make test-s3`.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipeline_lib.demo.dataset import write_dataset
from pipeline_lib.store import ArtifactStore, Manifest
from tests.s3.conftest import ROOT, RealS3, new_bucket
from tests.s3.fault_proxy import between, seeded
from tests.small_run import RECIPES, write_small_recipe

pytestmark = [pytest.mark.only_with("--demo-size"), pytest.mark.timeout(3600)]
LIMIT_S = 1800


@pytest.fixture(scope="module")
def recipe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe whose store the tests choose."""
    folder = tmp_path_factory.mktemp("recipe")
    if not request.config.getoption("--demo-size"):
        return write_small_recipe(folder, folder / "store")
    fields = yaml.safe_load((RECIPES / "demo.yaml").read_text())
    fields["data"]["table"] = str(write_dataset(folder / "data", 0))
    (folder / "demo.yaml").write_text(yaml.safe_dump(fields))
    return folder / "demo.yaml"


@pytest.fixture(scope="module")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefect")


def start(recipe: Path, store: str, home: Path, log: Path) -> subprocess.Popen[bytes]:
    """`whyscore run` in a process and a group of its own; what it says goes to a file."""
    home.mkdir(exist_ok=True)
    env = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "whyscore.cli", "run", str(recipe), "--set", f"runtime.store={store}"],
            cwd=ROOT,
            env=env | {"PREFECT_HOME": str(home)},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def run(recipe: Path, store: str, home: Path, log: Path) -> str:
    process = start(recipe, store, home, log)
    try:
        status = process.wait(LIMIT_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    said = log.read_text()
    assert status == 0, said[-4000:]
    return said


def digests(store: str) -> dict[str, str]:
    """Digest of every artifact but checkpoints (those hold times), all of them whole."""
    artifacts, found = ArtifactStore(store), {}
    for address in artifacts.addresses():
        if "/checkpoints/" not in address:
            manifest = artifacts.lookup(address)
            assert isinstance(manifest, Manifest), f"{address}: {manifest}"
            found[address] = manifest.digest
    return found


@pytest.fixture(scope="module")
def expected(recipe: Path, prefect_home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the same run leaves in a folder."""
    folder = tmp_path_factory.mktemp("folder")
    run(recipe, str(folder / "store"), prefect_home, folder / "log")
    return digests(str(folder / "store"))


@pytest.fixture(scope="module")
def finished(
    real_server: RealS3, recipe: Path, prefect_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    """A store on S3 with a finished run in it, and what that run said."""
    with real_server.reached():
        store = f"s3://{new_bucket()}/stores/one"
        return store, run(recipe, store, prefect_home, tmp_path_factory.mktemp("s3") / "log")


def test_the_run_leaves_the_digests_of_a_folder_and_says_where_its_report_is(
    real_s3: RealS3, finished: tuple[str, str], expected: dict[str, str]
) -> None:
    store, said = finished
    assert digests(store) == expected
    report = said.split("Report: ")[1].split()[0]
    assert report.startswith(store) and report.endswith("/report/report.html")
    assert b"<html" in ArtifactStore(store).files.read(report)
    assert "zero-shot" in said.split("Report: ")[0][-3000:]  # the table of results
    verify = [sys.executable, "-m", "whyscore.cli", "verify", store]
    checked = subprocess.run(verify, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert checked.returncode == 0 and " 0 problem(s)" in checked.stdout, checked.stdout + checked.stderr


def test_a_second_run_computes_nothing_even_without_prefects_database(
    real_s3: RealS3, finished: tuple[str, str], recipe: Path, tmp_path: Path
) -> None:
    store, first = finished
    said = run(recipe, store, tmp_path / "prefect", tmp_path / "log")
    assert ": computing [" not in said
    assert said.count(": cached [") == first.count(": computing [") > 20


def test_a_run_over_a_bad_line_ends_with_the_same_digests(
    real_s3: RealS3, bucket: str, recipe: Path, prefect_home: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    store = f"s3://{bucket}/bad/line"
    with between(real_s3.url) as proxy, real_s3.reached(url=proxy.url):
        proxy.fault = seeded(seed=7, share=0.08)
        run(recipe, store, prefect_home, tmp_path / "log")
    assert len(proxy.spoiled) > 20 and len({fault for fault, _, _ in proxy.spoiled}) == 7
    assert digests(store) == expected


def test_killed_in_the_middle_and_cut_off_from_the_server_it_goes_on_where_it_was(
    real_s3: RealS3, bucket: str, recipe: Path, prefect_home: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    store, log = f"s3://{bucket}", tmp_path / "log"  # a store without a prefix
    process = start(recipe, store, prefect_home, log)
    deadline = time.monotonic() + LIMIT_S
    while not any("/checkpoints/" in address for address in ArtifactStore(store).addresses()):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(1)  # polling another process, with a limit
    process.kill()
    process.wait()
    cut_off = start(recipe, store, prefect_home, log)
    while "computing [" not in log.read_text():
        assert cut_off.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(0.5)
    real_s3.tell("gateway down")
    time.sleep(15)
    real_s3.tell("gateway up")
    assert cut_off.wait(LIMIT_S) == 0, log.read_text()[-4000:]
    assert "going on from step" in log.read_text()
    assert digests(store) == expected
