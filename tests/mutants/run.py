"""Apply the mutants one at a time to a copy of the tree, and see the test that each names fail.

usage: python -m tests.mutants.run [NAME ...]

Ends with status 1 when a mutant survives, when its old text does not stand in its file exactly once, or when a test
fails without any mutant. A mutant is killed only by a failing test: one that cannot be collected shows nothing.
"""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest

from tests.mutants.mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = (".git", ".venv", "whyscore-data", ".*_cache", "__pycache__", "*.egg-info")
OURS = ("tests", "pipeline_lib", "tasks", "flows", "whyscore", "deployments", "bench", "conftest")
LIMIT_S = 600.0

# Imported once, before the tests are forked off: nothing of them is ours, and they take most of a test's time.
HEAVY = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "trl.trainer.dpo_trainer",
    "trl.trainer.grpo_trainer",
    "datasets",
    "pyarrow.parquet",
    "prefect",
)


def run_tests(tree: Path, tests: Sequence[str], log: Path) -> int | None:
    """pytest's exit status of these tests in a process of its own below `tree`; None when they take too long."""
    child = os.fork()
    if not child:
        _in_child(tree, tests, log)
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            _end_group(child)  # servers that a failed test left behind
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    _end_group(child)
    os.waitpid(child, 0)
    return None


def _in_child(tree: Path, tests: Sequence[str], log: Path) -> None:
    os.setsid()
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
        del sys.modules[name]
    os.chdir(tree)
    sys.path[:] = [str(tree), *(path for path in sys.path if path not in ("", str(ROOT)))]
    # A mutant may be as long as the original and as old: a cached module would be taken for it.
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    status = 70
    try:
        status = int(pytest.main(["-x", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]))
    finally:
        sys.stdout.flush()
        os._exit(status)


def _end_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def try_mutant(tree: Path, mutant: Mutant, log: Path) -> str:
    """`killed`, or what is wrong with the mutant; the tree is as before afterwards."""
    path = tree / mutant.file
    text = path.read_text() if path.exists() else ""
    if text.count(mutant.old) != 1:
        return f"its old text stands {text.count(mutant.old)} times in {mutant.file}"
    path.write_text(text.replace(mutant.old, mutant.new))
    try:
        status = run_tests(tree, [mutant.killer], log)
    finally:
        path.write_text(text)
    if status == pytest.ExitCode.TESTS_FAILED:
        return "killed"
    return "survived" if status == 0 else f"its test did not run (status {status})"


def main(names: Sequence[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    if unknown := set(names) - {mutant.name for mutant in chosen}:
        print(f"no such mutant: {', '.join(sorted(unknown))}")
        return 1
    for name in HEAVY:
        import_module(name)
    with tempfile.TemporaryDirectory(prefix="whyscore-mutants-") as folder:
        tree, log = Path(folder) / "tree", Path(folder) / "log"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*LEFT_OUT))
        started = time.monotonic()
        if status := run_tests(tree, list(dict.fromkeys(mutant.killer for mutant in chosen)), log):
            print(f"a test fails without any mutant (status {status})\n{log.read_text()[-4000:]}")
            return 1
        print(f"{time.monotonic() - started:5.0f} s  all their tests pass without a mutant", flush=True)
        bad = 0
        for mutant in chosen:
            started = time.monotonic()
            outcome = try_mutant(tree, mutant, log)
            print(f"{time.monotonic() - started:5.0f} s  {outcome}: {mutant.name}", flush=True)
            if outcome != "killed":
                bad += 1
                print(log.read_text()[-2000:] if log.exists() else "")
    print(f"{len(chosen) - bad} of {len(chosen)} killed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
