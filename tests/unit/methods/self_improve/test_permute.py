"""Permuted training scores: what moves, and that the bins stay."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline_lib.methods.self_improve.bins import assign_bins, bins_table, fit_bins
from pipeline_lib.methods.self_improve.permute import permute_training_scores


@pytest.fixture
def images() -> pa.Table:
    rng = np.random.default_rng(0)
    scores, splits = rng.normal(5, 1, 300), np.array(["train", "val", "test"] * 100)
    return pa.table(
        {
            "image": [f"{at}.jpg" for at in range(300)],
            "score": scores,
            "bin": pa.array(assign_bins(scores, fit_bins(scores[splits == "train"]).edges), pa.int8()),
            "split": splits.tolist(),
            "tag": list(range(300)),
        }
    )


def test_score_and_bin_move_together_among_the_training_images_alone(images: pa.Table) -> None:
    permuted = permute_training_scores(images, 1)
    assert permuted.schema == images.schema
    assert permuted.drop(["score", "bin"]).equals(images.drop(["score", "bin"]))
    train = np.array(images["split"].to_pylist()) == "train"
    before, after = (table["score"].to_numpy() for table in (images, permuted))
    assert (before[~train] == after[~train]).all() and sorted(before[train]) == sorted(after[train])
    assert (before[train] != after[train]).mean() > 0.9
    assert abs(np.corrcoef(before[train], after[train])[0, 1]) < 0.3
    edges = fit_bins(before[train]).edges
    assert permuted["bin"].to_pylist() == assign_bins(after, edges).tolist()


def test_bins_are_those_of_the_true_scores(images: pa.Table) -> None:
    train = np.array(images["split"].to_pylist()) == "train"
    tables = []
    for table in (images, permute_training_scores(images, 1)):
        scores = table["score"].to_numpy()[train]
        tables.append(bins_table(fit_bins(scores), assign_bins(scores, fit_bins(scores).edges)))
    assert tables[0].drop(["mean_score"]).equals(tables[1].drop(["mean_score"]))
    assert np.allclose(*(table["mean_score"].to_numpy() for table in tables), rtol=1e-12)


def test_a_seed_gives_one_permutation_and_another_seed_another(images: pa.Table) -> None:
    assert permute_training_scores(images, 1).equals(permute_training_scores(images, 1))
    assert not permute_training_scores(images, 1).equals(permute_training_scores(images, 2))
