"""Shared by the training stages of all methods."""

from collections.abc import Mapping

import pyarrow as pa

from pipeline_lib.tables.table import Table
from pipeline_lib.train.job import Place, TrainingJob, checkpoints_of
from tasks.stage import Work
from tasks.stage.cards import run_name


def train(work: Work, job: TrainingJob, tables: Mapping[str, pa.Table], log_table: Table) -> None:
    """Train the adapter of a job on its tables (`run_job`), and publish it with its log.

    In this process, or in several that it starts (`runtime.training_processes`).
    """
    work.note_scratch(checkpoints_of(work.address))
    place = Place(
        store=work.store,
        address=work.address,
        save_to=work.attempt.folder,
        label=work.label,
        checkpoint_every=work.runtime.checkpoint_every,
        gradient_checkpointing=work.runtime.gradient_checkpointing,
        decode_workers=work.runtime.decode_workers,
        trackers=work.runtime.trackers,
        run=run_name(),
    )
    if work.runtime.training_processes > 1:
        from pipeline_lib.train.launch import run_job_in_processes

        log = run_job_in_processes(job, place, tables, work.runtime)
    else:
        from pipeline_lib.device import pick_device
        from pipeline_lib.train.run_job import run_job

        log = run_job(job, place, tables, pick_device(work.runtime.device))
    work.note_device(work.runtime.training_processes)
    work.write(log_table, log)
