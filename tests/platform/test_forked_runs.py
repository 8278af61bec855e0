"""Runs are forks of a process with the libraries imported: they begin, end and die as processes of their own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deployments.start_run import SOCKET
from tests.platform.conftest import ROOT, wait_for

SERVER = (
    "import sys, deployments.preloaded as p; p.LIBRARIES = ('prefect.main',);"
    " p.become(p.serve(sys.argv[1]), 'tests.platform.forked_body')"
)
START = [sys.executable, "-S", "-E", str(ROOT / "deployments" / "start_run.py")]


class Forks:
    def __init__(self, folder: Path):
        self.address, self.log = folder / "s", folder / "log"
        with self.log.open("w") as log:
            self.server = subprocess.Popen(
                [sys.executable, "-c", SERVER, str(self.address)],
                cwd=ROOT, stdin=subprocess.PIPE, stderr=log, env={**os.environ, "OF_SERVER": "yes"},
            )  # fmt: skip

    def start(self, does: str, folder: Path = ROOT) -> "subprocess.Popen[str]":
        environment = {"SAID": "hello", "DOES": does, SOCKET: str(self.address), "PATH": os.environ["PATH"]}
        return subprocess.Popen(
            START, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def sleeping(self) -> "tuple[subprocess.Popen[str], int]":
        run = self.start("sleep")
        assert run.stdout
        return run, int(run.stdout.readline().split()[2])


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    forks = Forks(tmp_path_factory.mktemp("forks"))
    wait_for(lambda: "runs are forked" in forks.log.read_text(), 120, "the libraries are imported")
    yield forks
    forks.server.kill()
    forks.server.wait()


@pytest.mark.parametrize("does", ["0", "3"])
def test_a_run_has_the_environment_folder_streams_and_status_of_who_asked(
    forks: Forks, tmp_path: Path, does: str
) -> None:
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    run = forks.start(does, tmp_path)
    output, errors = run.communicate(timeout=60)
    said, folder, pid, of_server, threads = output.split()
    assert (said, folder, of_server, threads) == ("hello", str(tmp_path), "None", "1")
    assert "to stderr" in errors and run.returncode == int(does)
    assert int(pid) not in (run.pid, forks.server.pid)


def test_signals_reach_a_run_and_end_who_stands_for_it(forks: Forks) -> None:
    run, child = forks.sleeping()
    run.send_signal(signal.SIGTERM)
    assert run.wait(30) == -signal.SIGTERM and not psutil.pid_exists(child)


def test_a_run_dies_with_who_stands_for_it(forks: Forks) -> None:
    run, child = forks.sleeping()
    run.kill()
    run.wait()
    wait_for(lambda: not psutil.pid_exists(child), 30, "the run is gone")


def test_a_run_that_is_killed_looks_killed(forks: Forks) -> None:
    run, child = forks.sleeping()
    os.kill(child, signal.SIGKILL)
    assert run.wait(30) == -signal.SIGKILL


def test_runs_end_with_the_process_that_forked_them(tmp_path: Path) -> None:
    for how in ("closed", "killed"):
        folder = tmp_path / how
        folder.mkdir()
        forks = Forks(folder)
        wait_for(forks.address.exists, 60, "the socket is there")
        run, child = forks.sleeping()  # asked before the libraries are there
        assert forks.server.stdin
        forks.server.stdin.close() if how == "closed" else forks.server.kill()
        assert run.wait(30) != 0
        wait_for(lambda child=child: not psutil.pid_exists(child), 30, "the run is gone")
        forks.server.wait(30)


def test_without_that_process_a_run_is_an_interpreter_of_its_own(tmp_path: Path) -> None:
    environment = {**os.environ, SOCKET: str(tmp_path / "absent"), "PREFECT__FLOW_RUN_ID": "no id"}
    run = subprocess.run(START, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 1 and "Invalid flow run id" in run.stdout + run.stderr


def test_a_process_that_forks_badly_forks_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from deployments import preloaded

    monkeypatch.setattr(preloaded.threading, "active_count", lambda: 1)
    assert preloaded.unfit_to_fork() is None
    gpu = tmp_path / "nvidiactl"
    gpu.touch()
    monkeypatch.setattr(preloaded.os.path, "realpath", lambda path: str(path).replace("/proc/self/fd", "/dev/nvidia"))
    assert "GPU" in str(preloaded.unfit_to_fork())
    monkeypatch.setattr(preloaded.threading, "active_count", lambda: 2)
    assert "threads" in str(preloaded.unfit_to_fork())
