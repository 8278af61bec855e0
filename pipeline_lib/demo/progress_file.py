"""Keep the state of a training in a file, so that the making of the base VLM continues after a kill.

`pipeline_lib.train.checkpoints` keeps those of TRL's trainers, whose checkpoints are folders; these are plain loops.
"""

from pathlib import Path
from typing import Any, Protocol

import torch


class Stateful(Protocol):
    """Modules, optimizers and schedules."""

    def state_dict(self) -> dict[str, Any]:
        """What there is to keep."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Take it back."""


class ProgressFile:
    """The state after a number of steps. Without a folder nothing is kept."""

    def __init__(self, folder: Path | None, name: str, every: int = 1):
        self.path = folder / f"{name}.pt" if folder else None
        self.every = every

    def restore(self, parts: dict[str, Stateful]) -> tuple[int, dict[str, Any]]:
        """Load the kept state into the parts; returns the steps done (0 without a file) and the kept notes."""
        if self.path is None or not self.path.is_file():
            return 0, {}
        kept = torch.load(self.path, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(kept["parts"][name])
        return int(kept["step"]), dict(kept["notes"])

    def keep(self, step: int, last: int, parts: dict[str, Stateful], notes: dict[str, Any]) -> None:
        """Write the state every `every` steps and after the last one. A kill leaves the file of before."""
        if self.path is None or (step % self.every and step != last):
            return
        attempt = self.path.with_suffix(".part")
        torch.save(
            {"step": step, "notes": notes, "parts": {name: part.state_dict() for name, part in parts.items()}}, attempt
        )
        attempt.replace(self.path)
