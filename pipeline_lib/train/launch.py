"""One training in several processes of this machine; this process starts and watches them.

Accelerate starts them. They and this process share one temporary folder: the job goes there as JSON and Parquet, and
the adapter and the log come back. The first process sends its log as lines on standard output. Its standard input is a
pipe; when the pipe ends, this process has ended, and all of them stop.
"""

import gc
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipeline_lib import errors
from pipeline_lib.config.base import Runtime
from pipeline_lib.device import pick_device
from pipeline_lib.errors import ModelError, WhyScoreError
from pipeline_lib.progress import Progress
from pipeline_lib.train.job import Place, TrainingJob
from pipeline_lib.train.process import EVENT, LOG, SPEC, Spec
from pipeline_lib.train.stop import on_sigterm

log = logging.getLogger("whyscore.train")

MODULE = "pipeline_lib.train.process"

LAST_LINES = 40


def run_job_in_processes(job: TrainingJob, place: Place, tables: Mapping[str, pa.Table], runtime: Runtime) -> pa.Table:
    """As `run_job`, in `runtime.training_processes` processes, each with a GPU of its own unless the device is the CPU.

    Raises the error of one of them, `ModelError` when there are too few GPUs, and `WhyScoreError` when one was killed.
    """
    device, count = _device(runtime), runtime.training_processes
    with tempfile.TemporaryDirectory(prefix="whyscore-processes-") as name:
        folder = Path(name)
        for table, rows in tables.items():
            pq.write_table(rows, folder / f"{table}.parquet")
        spec = Spec(
            job=job,
            store=place.store.root,
            address=place.address,
            save_to=place.save_to,
            label=place.label,
            checkpoint_every=place.checkpoint_every,
            gradient_checkpointing=place.gradient_checkpointing,
            decode_workers=place.decode_workers,
            tables=tuple(tables),
            device=device,
            processes=count,
            fsdp=runtime.fsdp,
            trackers=place.trackers,
            run=place.run,
        )
        (folder / SPEC).write_text(spec.model_dump_json(), encoding="utf-8")
        (folder / "accelerate.yaml").write_text(yaml.safe_dump(_accelerate(spec)), encoding="utf-8")
        log.info("%s: training in %d processes on %s", place.label, count, device)
        _run(folder, place.label, _environment(spec))
        return pq.read_table(folder / LOG)


def _device(runtime: Runtime) -> str:
    import torch

    device, count = pick_device(runtime.device).type, runtime.training_processes
    if ":" in runtime.device:
        raise ModelError(
            f"runtime.device {runtime.device} names one GPU, and runtime.training_processes is {count}; say cuda, and"
            " choose the GPUs with CUDA_VISIBLE_DEVICES"
        )
    if device == "cuda" and torch.cuda.device_count() < count:
        raise ModelError(
            f"runtime.training_processes is {count} and this process sees {torch.cuda.device_count()} GPU(s); each"
            " process needs one of its own (is CUDA_VISIBLE_DEVICES set?)"
        )
    if device not in ("cuda", "cpu") or (runtime.fsdp and device == "cpu"):
        raise ModelError(
            f"runtime.{'fsdp' if device == 'cpu' else 'training_processes'} is not possible on device {device}; it"
            f" needs CUDA{'' if runtime.fsdp else ' or the CPU'}"
        )
    if device == "cuda":  # or else this process keeps the memory of earlier stages on the first GPU
        gc.collect()
        torch.cuda.empty_cache()
    return device


def _accelerate(spec: Spec) -> dict[str, Any]:
    # Complete, so that no configuration in a home folder is read.
    fsdp = {
        "fsdp_version": 2,
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "fsdp_reshard_after_forward": True,
        "fsdp_cpu_ram_efficient_loading": False,
        "fsdp_state_dict_type": "FULL_STATE_DICT",  # a sharded checkpoint is a pickle
    }
    return {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "FSDP"
        if spec.fsdp
        else "MULTI_GPU",  # starts processes on the CPU as well, unlike MULTI_CPU
        "fsdp_config": fsdp if spec.fsdp else {},
        "num_machines": 1,
        "machine_rank": 0,
        "num_processes": spec.processes,
        "main_process_port": 0,  # any that is free
        "mixed_precision": "no",  # the trainer's arguments give it
        "use_cpu": False,
        "debug": False,
    }


def _environment(spec: Spec) -> dict[str, str]:
    threads = max(1, (os.cpu_count() or 1) // spec.processes)
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ
    return environment | {"ACCELERATE_USE_CPU": str(spec.device == "cpu").lower()}


def _run(folder: Path, what: str, environment: dict[str, str]) -> None:
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(folder / "accelerate.yaml")),
        *("--module", MODULE, str(folder)),
    ]
    launcher = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # a signal to the group reaches only this process, which decides
    )
    assert launcher.stdin and launcher.stdout
    stdin, relay = launcher.stdin.fileno(), _Relay()
    try:
        with on_sigterm(lambda: _ask_to_stop(stdin)):
            for line in launcher.stdout:
                relay.take(line)
            status = launcher.wait()
    finally:
        launcher.stdin.close()  # the processes end when they read that
        launcher.kill()
        for _ in launcher.stdout:  # until the last of them has ended, and no process writes into the folder
            pass
        launcher.stdout.close()
        launcher.wait()
    if relay.error is not None:
        raise relay.error
    if status:
        raise _failure(what, relay)


def _ask_to_stop(stdin: int) -> None:
    try:
        os.write(stdin, b"stop\n")
    except OSError:  # they have ended already
        log.info("training had ended already")


class _Relay:
    """Repeats the processes' log records, progress, and the first `WhyScoreError`."""

    def __init__(self) -> None:
        self.error: WhyScoreError | None = None
        self.crash = ""
        self.others: deque[str] = deque(maxlen=LAST_LINES)
        self.progress: dict[str, Progress] = {}

    def take(self, line: str) -> None:
        """One line of their output."""
        event = _event(line)
        if event is None:
            self.others.append(line.rstrip())
            log.debug("%s", line.rstrip())
        elif "error" in event:
            self.error = self.error or getattr(errors, event["error"], WhyScoreError)(event["message"])
        elif "crash" in event:
            self.crash = self.crash or event["crash"]
        elif "logger" in event:
            logging.getLogger(event["logger"]).log(event["level"], "%s", event["message"])
        else:
            progress = self.progress.get(event["what"])
            if progress is None:
                progress = self.progress[event["what"]] = Progress(event["what"], event["total"], event["unit"])
            progress.done = event["done"]
            for name, points in event["curves"].items():
                for at, value in points:
                    progress.draw(at, {name: value})
            if progress.listener:
                progress.listener(progress, event["line"])


def _event(line: str) -> dict[str, Any] | None:
    _, marker, text = line.partition(EVENT)
    try:
        return json.loads(text) if marker else None
    except ValueError:
        return None


def _failure(what: str, relay: _Relay) -> WhyScoreError:
    output = "\n".join(relay.others)
    _, _, cause = output.partition("Root Cause")  # of the launcher's own summary; it ends the others with a signal 15
    killed = re.search(r"exitcode\s*:\s*-(\d+)", cause) or re.search(r"exitcode\s*:\s*-((?!15\b)\d+)", output)
    again = "The newest checkpoint is in the store; the next run continues from there"
    if killed:
        return WhyScoreError(
            f"{what}: one of the training processes was killed by signal {killed[1]}. {again}. If no person did"
            " that, memory ran out: use fewer processes (runtime.training_processes) or a machine with more memory"
        )
    return WhyScoreError(f"{what}: training in several processes failed. {again}.\n{relay.crash or output}")
