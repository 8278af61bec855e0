"""Weights & Biases: an entry is a run whose id WhyScore gives, so that the service continues it."""

import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from pipeline_lib.trackers.background import CLOSE_S
from pipeline_lib.trackers.tracker import PROJECT, Entry, Record, Tracker


def open_tracker() -> Tracker:
    """The service at `WANDB_BASE_URL`, or a folder (`WANDB_MODE=offline`)."""
    return _Wandb()


class _Wandb:
    def __init__(self) -> None:
        import wandb

        self.wandb = wandb
        self.training: Any = None
        self.runs: dict[str, Any] = {}  # of runs of WhyScore, open until their report is there or the process ends

    def _open(self, entry: Entry) -> Any:
        # Neither the terminal's text nor the command line nor code: they may name images.
        settings = self.wandb.Settings(
            console="off",
            disable_git=True,
            disable_code=True,
            save_code=False,
            x_disable_meta=True,
            silent=True,
            finish_timeout=CLOSE_S,
        )
        return self.wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            id=entry.id,
            name=f"{entry.run} {entry.title}".strip(),
            group=entry.run,
            config=dict(entry.settings),
            resume="allow",
            reinit="create_new",  # the run of a training and that of its run of WhyScore are open at the same time
            settings=settings,
        )

    def begin(self, entry: Entry) -> int:
        if self.training is not None:  # of an attempt to begin that failed later
            self.training.finish()
        self.training = self._open(entry)
        return int(self.training.summary.get("train/global_step", -1)) if self.training.resumed else -1

    def callback(self) -> Any:
        from transformers.integrations import WandbCallback

        theirs, run = WandbCallback(), self.training
        theirs._wandb = SimpleNamespace(  # it would take the process's current run
            run=run, config=run.config, log=run.log, define_metric=run.define_metric, watch=run.watch
        )
        return theirs

    def end(self, *, finished: bool) -> None:
        if self.training is not None:
            self.training.finish(exit_code=0 if finished else 1)
            self.training = None

    def record(self, entry: Entry, records: Sequence[Record]) -> None:
        if entry.id not in self.runs:
            self.runs[entry.id] = self._open(entry)
        run = self.runs[entry.id]
        for record in records:
            run.summary.update({f"{record.title}/{name}": value for name, value in record.figures.items()})
            run.summary.update({f"{record.title}/artifact": record.address, **record.texts})
        if any(record.texts for record in records):
            self.runs.pop(entry.id).finish()
