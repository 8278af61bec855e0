"""A flow for crash tests: it notes each start, sleeps in the first ones, and finishes in a later one."""

import os
import time
from pathlib import Path

from prefect import flow


@flow
def sleeper(folder: str, sleeps: int) -> int:
    """Starts are noted as files `start-1`, `start-2`, ..; the first `sleeps` of them never end by themselves."""
    start = 1 + len(list(Path(folder).glob("start-*")))
    (Path(folder) / f"start-{start}.tmp").write_text(str(os.getpid()))
    (Path(folder) / f"start-{start}.tmp").rename(Path(folder) / f"start-{start}")
    if start <= sleeps:
        time.sleep(3600)
    return start
