"""TensorBoard: an entry is a folder of event files below `TENSORBOARD_LOGGING_DIR`; a resumed training adds a file."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline_lib.trackers.tracker import Entry, Record, Tracker

FOLDER = "whyscore-data/tensorboard"
"""Where event files are without `TENSORBOARD_LOGGING_DIR`."""


def open_tracker() -> Tracker:
    """A local folder; `tensorboard --logdir` shows it."""
    return _TensorBoard()


class _TensorBoard:
    def __init__(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.make_writer: Any = SummaryWriter
        self.writer: Any = None

    def _folder(self, entry: Entry) -> Path:
        below = f"{entry.title} {entry.id[:8]}" if entry.title else "stages"
        return Path(os.environ.get("TENSORBOARD_LOGGING_DIR") or FOLDER).expanduser() / entry.run / below

    def begin(self, entry: Entry) -> int:
        folder = self._folder(entry)
        last = _last_step(folder)
        self.writer = self.make_writer(log_dir=str(folder))
        return last

    def callback(self) -> Any:
        from transformers.integrations import TensorBoardCallback

        return TensorBoardCallback(self.writer)

    def end(self, *, finished: bool) -> None:
        self.writer.close()

    def record(self, entry: Entry, records: Sequence[Record]) -> None:
        with self.make_writer(log_dir=str(self._folder(entry))) as writer:
            for record in records:
                for name, value in record.figures.items():
                    writer.add_scalar(f"{record.title}/{name}", value, 0)
                for name, text in {"artifact": record.address, **record.texts}.items():
                    writer.add_text(f"{record.title}/{name}", f"```\n{text}\n```", 0)


def _last_step(folder: Path) -> int:
    """The last step of the loss in a folder of event files; -1 without any."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not folder.exists():
        return -1
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()["scalars"]
    return max((int(point.step) for point in events.Scalars("train/loss")), default=-1) if "train/loss" in tags else -1
