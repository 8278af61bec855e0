"""Loaded into each Dask worker of the tests: it keeps a journal, and dies when it is told to.

The folder WHYSCORE_TEST_JOURNAL gets a file for each worker: the addresses that it published, and `load` for each model
that it loaded. The first worker that comes upon the file `die` there, in the middle of a shard, renames it, writes into
it who it is and what it was at, and is killed.
"""

import os
import signal
from pathlib import Path
from typing import Any

from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactStore, Manifest
from tasks.stage import Work


def dask_setup(worker: Any) -> None:
    folder = Path(os.environ["WHYSCORE_TEST_JOURNAL"])
    publish, advance, vlm = ArtifactStore.publish, Progress.advance, Work.vlm

    def note(line: str) -> None:
        with (folder / f"{os.getpid()}.journal").open("a") as file:
            file.write(line + "\n")

    def note_publish(store: ArtifactStore, address: str, *rest: Any, **named: Any) -> Manifest:
        manifest = publish(store, address, *rest, **named)
        note(address)
        return manifest

    def note_load(work: Work, model: Any) -> Any:
        before = dict(work.loaded)
        found = vlm(work, model)
        if work.loaded.keys() != before.keys():
            note("load")
        return found

    def advance_and_die(progress: Progress, *rest: Any) -> None:
        advance(progress, *rest)
        if 0 < progress.done < progress.total:
            try:
                (folder / "die").rename(folder / "died")
            except FileNotFoundError:
                return
            (folder / "died").write_text(f"{os.getpid()} {progress.what}")
            os.kill(os.getpid(), signal.SIGKILL)

    ArtifactStore.publish = note_publish  # type: ignore[method-assign]
    Work.vlm = note_load  # type: ignore[method-assign]
    Progress.advance = advance_and_die  # type: ignore[method-assign]
