"""Checkpoints in the store: a killed training continues from the newest valid one.

The state after a hard crash: a checkpoint without a manifest, which is invisible. The one before it is still there,
because it is removed only after its successor was published.
"""

import logging
import re
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pipeline_lib.errors import LostArtifactError
from pipeline_lib.store import ArtifactStore, Miss
from pipeline_lib.train.job import checkpoints_of

log = logging.getLogger("whyscore.train")

KEPT = 2

_NAME = re.compile(r"step-\d{8}")


class MirrorCheckpoints(TrainerCallback):
    """Publishes each checkpoint of a trainer below an artifact's address and keeps the newest two."""

    def __init__(self, store: ArtifactStore, address: str):
        self.store, self.address = store, checkpoints_of(address)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by the trainer when all files of a checkpoint are written."""
        local = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        with self.store.attempt() as attempt:
            # training_args.bin is a pickle that resuming does not need; nothing in the store is ever unpickled.
            shutil.copytree(
                local, attempt.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("training_args.bin")
            )
            self.store.publish(f"{self.address}/{_name(state.global_step)}", attempt, {"step": state.global_step})
        # Another run may be writing an incomplete one; gc decides by its age.
        names = self.store.children(self.address)
        whole = [name for name in names if not isinstance(self.store.lookup(f"{self.address}/{name}"), Miss)]
        for name in whole[:-KEPT]:
            self.store.retract(f"{self.address}/{name}", others=False)


def restore_newest(store: ArtifactStore, address: str, output_dir: Path) -> Path | None:
    """Fetch the newest checkpoint whose files are all there with their digests; None when there is none."""
    for name in reversed(store.children(checkpoints_of(address))):
        if not _NAME.fullmatch(name):
            continue
        at = f"{checkpoints_of(address)}/{name}"
        local = output_dir / f"checkpoint-{int(name.removeprefix('step-'))}"
        manifest = store.lookup(at)
        if isinstance(manifest, Miss):
            log.warning("checkpoint %s is not used: %s", at, manifest.reason)
            continue
        try:
            store.fetch(at, local)
        except LostArtifactError:  # it was removed, so that the next checkpoint of this step can take its place
            shutil.rmtree(local, ignore_errors=True)
            continue
        return local
    return None


def _name(step: int) -> str:
    return f"step-{step:08d}"
