"""One of several training processes: `accelerate launch --module pipeline_lib.train.process FOLDER` runs it.

`pipeline_lib.train.launch` fills the folder and reads this process's output.
"""

import json
import logging
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from pipeline_lib.config.base import TrackerName
from pipeline_lib.errors import Interrupted, WhyScoreError
from pipeline_lib.progress import Progress, listening, thinned
from pipeline_lib.store import ArtifactStore
from pipeline_lib.store.patience import expect_server
from pipeline_lib.train.job import Place, Processes, TrainingJob
from pipeline_lib.train.run_job import run_job

EVENT = "whyscore-event "
"""Marks a line of standard output that is for the waiting process."""

NEW_POINTS = 10
"""Points of each curve that are sent with a progress line, which comes every few seconds."""

SPEC, LOG = "spec.json", "training_log.parquet"


class Spec(BaseModel):
    """The job of all processes of one training. Its tables are in the same folder, as Parquet."""

    model_config = ConfigDict(frozen=True)

    job: TrainingJob
    store: str
    address: str
    save_to: Path
    label: str
    checkpoint_every: int
    gradient_checkpointing: bool
    decode_workers: int
    tables: tuple[str, ...]
    device: Literal["cpu", "cuda"]
    processes: int
    fsdp: bool
    trackers: tuple[TrackerName, ...]
    run: str


def main(folder: Path) -> None:
    """Take part in the training that the folder holds; the first process writes its log there."""
    asked, rank = threading.Event(), int(os.environ["RANK"])
    threading.Thread(target=_watch, args=[asked], daemon=True).start()
    _report(first=rank == 0)
    try:
        _train(folder, asked, rank)
    except WhyScoreError as error:
        _emit(error=type(error).__name__, message=str(error))
        sys.exit(0 if isinstance(error, Interrupted) else 1)
    except Exception:
        _emit(crash=f"In process {rank}:\n{traceback.format_exc()[-3000:]}")
        sys.exit(1)


def _train(folder: Path, asked: threading.Event, rank: int) -> None:
    import torch

    expect_server()
    spec = Spec.model_validate_json((folder / SPEC).read_text(encoding="utf-8"))
    device = torch.device("cpu") if spec.device == "cpu" else torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    tables = {name: pq.read_table(folder / f"{name}.parquet") for name in spec.tables}
    place = Place(
        store=ArtifactStore(spec.store),
        address=spec.address,
        save_to=spec.save_to,
        label=spec.label,
        checkpoint_every=spec.checkpoint_every,
        gradient_checkpointing=spec.gradient_checkpointing,
        decode_workers=spec.decode_workers,
        processes=Processes(spec.processes, rank, spec.fsdp, folder / "training", asked.is_set),
        trackers=spec.trackers,
        run=spec.run,
    )
    try:
        with listening(_emit_progress):
            log = run_job(spec.job, place, tables, device)
    except torch.OutOfMemoryError as error:
        raise WhyScoreError(
            f"{spec.label}: {device} has too little memory ({str(error).splitlines()[0]}); set"
            " runtime.gradient_checkpointing or runtime.fsdp, or lower training.micro_batch_size"
        ) from error
    if rank == 0:
        pq.write_table(log, folder / LOG)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _watch(asked: threading.Event) -> None:
    """A byte on standard input is a request to stop; its end means that the waiting process has ended."""
    while os.read(0, 1):
        asked.set()
    os._exit(1)


def _report(*, first: bool) -> None:
    """Send the log records of the first process; those of the others are the same."""
    logger = logging.getLogger("whyscore")
    logger.setLevel(logging.INFO if first else logging.CRITICAL)
    logger.propagate = False
    logger.addHandler(_Sender())


class _Sender(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _emit(logger=record.name, level=record.levelno, message=record.getMessage())


def _emit_progress(progress: Progress, line: str) -> None:
    if os.environ["RANK"] == "0":
        curves = {name: thinned(points, NEW_POINTS) for name, points in progress.curves.items()}
        progress.curves.clear()  # the waiting process keeps them; a line on the pipe must be short
        counted = {"total": progress.total, "unit": progress.unit, "done": progress.done}
        _emit(what=progress.what, **counted, line=line, curves=curves)


def _emit(**event: Any) -> None:
    # In one short write and with a line of its own, since the processes share the pipe.
    sys.stdout.flush()
    os.write(1, f"\n{EVENT}{json.dumps(event)}\n".encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
