"""Permuted training scores: the data of the negative control."""

import numpy as np
import pyarrow as pa


def permute_training_scores(images: pa.Table, seed: int) -> pa.Table:
    """Shuffle score and bin together among the training images; the other columns and splits stay as they are.

    Input and output follow `IMAGES`. The training images have the same scores in another order, so bins, their edges
    and their mean scores stay. A few images keep their score by chance.
    """
    train = np.flatnonzero(np.array(images["split"].to_pylist()) == "train")
    rows = np.arange(images.num_rows)
    rows[train] = np.random.default_rng(seed).permutation(train)
    for name in ("score", "bin"):
        at = images.column_names.index(name)
        images = images.set_column(at, images.schema.field(name), images[name].take(pa.array(rows)))
    return images
