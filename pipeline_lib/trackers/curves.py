"""The trainer's events, handed to a tracker's own callback of transformers in a thread of its own."""

import copy
from types import SimpleNamespace
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pipeline_lib.config.base import TrackerName
from pipeline_lib.trackers.background import background
from pipeline_lib.trackers.tracker import Entry, Tracker, open_tracker


class CurveReporter(TrainerCallback):
    """Sends a training to one tracker; steps that its entry has already are left out.

    Each event is copied, because the trainer continues meanwhile. Nothing here raises.
    """

    def __init__(self, name: TrackerName, entry: Entry):
        self.name, self.entry = name, entry
        self.thread = background(name)
        self.tracker: Tracker | None = None
        self.theirs: Any = None  # the tracker's callback, once its entry is open
        self.last = -1

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Open the entry, and send the steps of an attempt before (from its checkpoint) that it does not have."""
        arguments, seen = self._copies(args, state)
        self.thread.submit(lambda: self._open(arguments, seen, control) and None)
        for record in state.log_history:
            figures = {name: value for name, value in record.items() if name != "step"}
            self._send(arguments, SimpleNamespace(**{**vars(seen), "global_step": record["step"]}), control, figures)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Send the figures of a step."""
        arguments, seen = self._copies(args, state)
        self._send(arguments, seen, control, dict(logs or {}))

    def close(self, args: TrainingArguments, state: TrainerState, *, finished: bool) -> None:
        """Close the entry, and wait a while for what has not been sent."""
        arguments, seen = self._copies(args, state)

        def end() -> None:
            if self.tracker is not None and self.theirs is not None:
                self.theirs.on_train_end(arguments, seen, TrainerControl())
                self.tracker.end(finished=finished)

        self.thread.submit(end)
        self.thread.close()

    def _send(self, args: Any, state: Any, control: TrainerControl, figures: dict[str, float]) -> None:
        def send() -> None:
            theirs = self._open(args, state, control)
            if state.global_step > self.last:
                theirs.on_log(args, state, control, logs=figures)

        self.thread.submit(send)

    def _open(self, args: Any, state: Any, control: TrainerControl) -> Any:
        """The tracker's callback; only when all of this worked is the entry open, else it is begun again."""
        if self.theirs is None:
            self.tracker = self.tracker or open_tracker(self.name)
            last, theirs = self.tracker.begin(self.entry), self.tracker.callback()
            theirs.on_train_begin(args, state, control)
            self.last, self.theirs = last, theirs
        return self.theirs

    def _copies(self, args: TrainingArguments, state: TrainerState) -> tuple[TrainingArguments, Any]:
        arguments = copy.copy(args)
        arguments.run_name = f"{self.entry.run} {self.entry.title} {self.entry.id[:8]}".strip()
        return arguments, SimpleNamespace(
            global_step=state.global_step,
            is_world_process_zero=True,  # no other process has reporters
            is_hyper_param_search=False,
            trial_name=None,
            logging_steps=1,
        )
