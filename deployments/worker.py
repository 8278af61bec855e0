"""Prefect's process worker, whose runs begin with the large libraries imported (decision 23).

    python -m deployments.worker --pool gpu --name gpu-0 --limit 1      # options of `prefect worker start`

The pools are those of any process worker: `prefect worker start` serves them too, and only starts runs more slowly.
"""

import atexit
import os
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from prefect.workers.process import ProcessJobConfiguration, ProcessWorker

from deployments.start_run import SOCKET

HOME = Path(__file__).resolve().parents[1]


class ForkedRun(ProcessJobConfiguration):
    """A run in a fork of the preloaded process. Prefect's own way starts two interpreters, one after the other."""

    def prepare_for_flow_run(self, *arguments: Any, **named: Any) -> None:
        """Set the command, unless the pool or the deployment sets another one."""
        if self.command is None:
            self.command = shlex.join([sys.executable, "-S", "-E", str(HOME / "deployments" / "start_run.py")])
            self.working_dir = self.working_dir or HOME
        super().prepare_for_flow_run(*arguments, **named)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Prefect says that the class takes the place of its own, which is wanted

    class Worker(ProcessWorker):
        """Takes the place of Prefect's own worker of type `process` in this process."""

        type = "process"
        job_configuration = ForkedRun


def preload(folder: Path) -> "subprocess.Popen[bytes]":
    """Start the process whose forks are the runs; it ends when this process does. Its socket is in the folder."""
    os.environ[SOCKET] = str(folder / "runs")
    command = [sys.executable, "-m", "deployments.preloaded", os.environ[SOCKET]]
    return subprocess.Popen(command, cwd=HOME, stdin=subprocess.PIPE, start_new_session=True)


def main() -> None:
    """The command line: the options of `prefect worker start`, without `--type`."""
    folder = Path(tempfile.mkdtemp(prefix="whyscore-worker-"))  # readable by this user alone: who asks runs code
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    started = preload(folder)
    assert started.stdin
    atexit.register(started.stdin.close)
    sys.argv = ["prefect", "worker", "start", "--type", "process", *sys.argv[1:]]
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
