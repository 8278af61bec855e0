"""The description of a store in `whyscore doctor`."""

from typing import NamedTuple

MAX_CLOCK_SKEW_S = 300.0


class Description(NamedTuple):
    """A store's facts for `whyscore doctor`; None where they do not apply to a folder or a bucket."""

    root: str
    endpoint: str | None
    clock_skew_s: float | None
    free_bytes: int | None

    @property
    def text(self) -> str:
        """The facts in one line."""
        at = f" at {self.endpoint}" if self.endpoint else ""
        free = "" if self.free_bytes is None else f", {self.free_bytes / 1e9:.0f} GB free"
        skew = "" if self.clock_skew_s is None else f", clocks {abs(self.clock_skew_s):.0f} s apart"
        return f"{self.root}{at}{free}{skew}"

    @property
    def warning(self) -> str | None:
        """A problem of later requests: a server refuses those whose time is 15 minutes off."""
        if self.clock_skew_s is None or abs(self.clock_skew_s) <= MAX_CLOCK_SKEW_S:
            return None
        which = "ahead of" if self.clock_skew_s > 0 else "behind"
        return f"this machine's clock is {abs(self.clock_skew_s) / 60:.0f} minutes {which} the store's; set it right"
