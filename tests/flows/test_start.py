"""How a command starts: its own temporary server, behind a proxy, killed at any moment, and what it says."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest

from pipeline_lib.errors import WhyScoreError
from tests.forked import ForkServer
from tests.small_run import write_small_recipe
from whyscore.commands.terminal import reach_this_machine_directly
from whyscore.ephemeral_server import _Server, check_server

ROOT = Path(__file__).parents[2]
START = """
from whyscore.commands.terminal import prepare_prefect
prepare_prefect()
from whyscore.ephemeral_server import tie_server_to_this_process
tie_server_to_this_process()
print("ready", flush=True)
input()
"""


def start(folder: Path, *command: str, **more: str) -> subprocess.Popen[str]:
    """A process with a home of its own, which every process that it starts can be known by."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    own = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder), "PREFECT_HOME": str(folder / "prefect"), **more}
    return subprocess.Popen(
        [sys.executable, *(command or ("-c", START))],
        env=environment | own,
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def processes_of(folder: Path) -> list[int]:
    """Processes that have the folder in their environment."""
    found = []
    for place in Path("/proc").iterdir():
        try:
            if place.name.isdigit() and f"XDG_CACHE_HOME={folder}".encode() in (place / "environ").read_bytes():
                found.append(int(place.name))
        except OSError:
            continue
    return found


def ends(folder: Path) -> bool:
    """Whether all of them end by themselves; those that do not are killed."""
    until = time.monotonic() + 120
    while left := processes_of(folder):
        if time.monotonic() > until:
            for process in left:
                os.kill(process, signal.SIGKILL)
            return False
        time.sleep(0.1)
    return True


READY = pytest.param("ready", marks=pytest.mark.only_with("--all-moments"))  # tests/crash/test_kill.py kills a run then


@pytest.mark.parametrize("moment", ["as the server begins", "while it begins", READY])
def test_no_process_is_left_when_it_is_killed_while_the_server_starts_or_later(tmp_path: Path, moment: str) -> None:
    process = start(tmp_path)
    while len(processes_of(tmp_path)) < 2:  # the shell, before it has started the server
        assert process.poll() is None
    if moment == "while it begins":
        time.sleep(1)
    elif moment == "ready":
        assert process.stdout is not None and "ready\n" in process.stdout
    process.kill()
    process.wait()
    assert ends(tmp_path)


def test_it_starts_behind_a_proxy_and_beside_an_old_database(tmp_path: Path) -> None:
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / "prefect.db").write_bytes(b"a database of another version")
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    process = start(tmp_path, NO_PROXY="", no_proxy="", **proxies)
    said = list(iter(process.stdout.readline, "ready\n")) if process.stdout else []
    commands = b" ".join(Path(f"/proc/{found}/cmdline").read_bytes() for found in processes_of(tmp_path))
    assert b"whyscore.prefect_server:create_app" in commands  # the one of tests/flows/test_prefect_server.py
    process.communicate("\n", timeout=600)
    assert process.returncode == 0, said
    assert list((tmp_path / "prefect").glob("whyscore-prefect-*.db"))
    assert ends(tmp_path)


def test_a_server_that_cannot_start_is_named_with_its_database(tmp_path: Path) -> None:
    from prefect import __version__

    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / f"whyscore-prefect-{__version__}.db").write_bytes(b"no database" * 1000)
    process = start(tmp_path)
    said, _ = process.communicate("\n", timeout=600)
    assert process.returncode == 1 and "temporary server did not start" in said and "atexit" not in said
    assert f"prefect-{__version__}.db" in said
    assert ends(tmp_path)


class NoProcess(_Server):
    """A server's process that has ended with uvicorn's code of a failed start; nothing is started."""

    def __init__(self, said: IO[bytes]):
        self.said, self.returncode = said, 3

    def __del__(self) -> None: ...


def test_a_failed_start_is_seen_at_the_first_look_and_a_taken_port_is_not_taken_for_one(tmp_path: Path) -> None:
    texts = {b"sqlite3.DatabaseError: file is not a database\n": True, b"address already in use": False}
    for text, failed in texts.items():
        with (tmp_path / "said").open("w+b", buffering=0) as said:
            said.write(text)
            if failed:
                with pytest.raises(WhyScoreError, match="file is not a database"):
                    NoProcess(said).poll()
            else:
                assert NoProcess(said).poll() == 3


def test_a_server_that_does_not_answer_is_named(forks: ForkServer, tmp_path: Path) -> None:
    with pytest.raises(WhyScoreError, match=r"no Prefect server answers at http://127\.0\.0\.1:9/api \(ConnectError\)"):
        check_server("http://127.0.0.1:9/api")
    recipe = write_small_recipe(tmp_path, tmp_path / "store")
    environment = os.environ | {"PREFECT_HOME": str(tmp_path), "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    for command in (("run", str(recipe)), ("deploy", "--store", "store")):
        log = tmp_path / f"{command[0]}.log"
        status = forks.start("tests.command_line", *command, environment=environment, log=log).wait()
        said = log.read_text()
        assert status == 1 and "no Prefect server answers" in said and "Traceback" not in said


def test_hosts_that_a_user_excepts_from_the_proxy_stay_excepted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.setenv(name, "")
        monkeypatch.setenv(name.upper(), "")
    monkeypatch.setenv("NO_PROXY", "own.example")
    reach_this_machine_directly()
    assert os.environ["NO_PROXY"] == "own.example"
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    reach_this_machine_directly()
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "own.example,localhost,127.0.0.1,::1"


def test_something_is_said_before_prefect_is_loaded(tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path, tmp_path / "store")
    code = "import sys; from whyscore.cli import app; sys.modules['prefect'] = None; app()"
    process = start(tmp_path, "-c", code, "run", str(recipe))
    said, _ = process.communicate(timeout=600)
    assert process.returncode and "starting" in said.splitlines()[0]
