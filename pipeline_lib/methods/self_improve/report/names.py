"""Names of merges and grid cells, for tables, logs and the UI."""

import hashlib
import re

from pipeline_lib.methods.self_improve.recipe import Merge, Training


def merge_name(merge: Merge) -> str:
    """A merge in a few words: method, space, and what the method uses of weights, density and sign method."""
    weights = "(" + ", ".join(f"{weight:g}" for weight in merge.weights) + ")"
    words = [merge.method.replace("_", " "), merge.space, weights]
    if merge.method != "linear":
        words.append(f"density {merge.density:g}")
    if "ties" in merge.method:
        words.append(merge.majority_sign_method)
    return " · ".join(words)


def cell_name(training: Training) -> str:
    """A cell of the grid: `lr 5e-5 · beta 0.1 · rank 64`."""
    rate = f"{training.learning_rate:g}".replace("e-0", "e-")
    return f"lr {rate} · beta {training.beta:g} · rank {training.lora_rank}"


def file_name(name: str) -> str:
    """Such a name as a file name: `lr-5e-5-beta-0.1-` and six digits that make it unique."""
    return re.sub(r"[^a-z0-9.]+", "-", name).strip("-") + "-" + hashlib.sha256(name.encode()).hexdigest()[:6]
