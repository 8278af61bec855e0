"""Weights & Biases: an entry is a run whose id WhyScore gives, so that the service continues it."""

import os
from collections.abc import Sequence
from typing import Any

from pipeline_lib.trackers.tracker import PROJECT, Entry, Record, Tracker


def open_tracker() -> Tracker:
    """The service at `WANDB_BASE_URL`, or a folder (`WANDB_MODE=offline`)."""
    return _Wandb()


class _Wandb:
    def __init__(self) -> None:
        import wandb

        self.wandb = wandb

    def _run(self, entry: Entry, **more: Any) -> Any:
        # Neither the terminal's text nor the command line nor code: they may name images.
        settings = self.wandb.Settings(
            console="off", disable_git=True, disable_code=True, save_code=False, x_disable_meta=True, silent=True
        )
        return self.wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            id=entry.id,
            name=f"{entry.run} {entry.title}".strip(),
            group=entry.run,
            config=dict(entry.settings),
            resume="allow",
            settings=settings,
            **more,
        )

    def begin(self, entry: Entry) -> int:
        if self.wandb.run is not None:  # of an attempt to begin that failed later
            self.wandb.run.finish()
        run = self._run(entry)
        return int(run.summary.get("train/global_step", -1)) if run.resumed else -1

    def callback(self) -> Any:
        from transformers.integrations import WandbCallback

        return WandbCallback()

    def end(self, *, finished: bool) -> None:
        if self.wandb.run is not None:
            self.wandb.run.finish(exit_code=0 if finished else 1)

    def record(self, entry: Entry, records: Sequence[Record]) -> None:
        run = self._run(entry, reinit="create_new")  # beside the run of a training, which stays the current one
        for record in records:
            run.summary.update({f"{record.title}/{name}": value for name, value in record.figures.items()})
            run.summary.update({f"{record.title}/artifact": record.address, **record.texts})
        run.finish()
