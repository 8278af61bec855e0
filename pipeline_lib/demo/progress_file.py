"""Keep the state of a training in a file, so that a making that was killed goes on where it was."""

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
    """The state after a number of steps; a training without a folder keeps none."""

    def __init__(self, folder: Path | None, name: str, every: int = 1):
        self.path = folder / f"{name}.pt" if folder else None
        self.every = every

    def restore(self, parts: dict[str, Stateful]) -> tuple[int, dict[str, Any]]:
        """Put the kept state into the parts; the steps done, 0 without a file, and the notes that were kept with it."""
        if self.path is None or not self.path.is_file():
            return 0, {}
        kept = torch.load(self.path, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(kept["parts"][name])
        return int(kept["step"]), dict(kept["notes"])

    def keep(self, step: int, last: int, parts: dict[str, Stateful], notes: dict[str, Any]) -> None:
        """Write the state every `every` steps and after the last one, as a whole or not at all."""
        if self.path is None or (step % self.every and step != last):
            return
        attempt = self.path.with_suffix(".part")
        torch.save(
            {"step": step, "notes": notes, "parts": {name: part.state_dict() for name, part in parts.items()}}, attempt
        )
        attempt.replace(self.path)
