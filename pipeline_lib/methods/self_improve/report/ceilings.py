"""What SRCC could be at most: of ten bins, and of the raters themselves."""

from typing import NamedTuple

import numpy as np

from pipeline_lib.methods.self_improve.report.contents import RunResults
from pipeline_lib.methods.self_improve.report.lineage import on_split
from pipeline_lib.metrics.figures import once, srcc

RATERS = {"koniq10k": 0.971, "ava": 0.957}
"""SRCC of the mean scores of two random halves of the raters, computed from the votes in the label files."""


class Ceiling(NamedTuple):
    """A value that SRCC of stated digits, or of any prediction, can hardly exceed."""

    name: str
    srcc: float
    meaning: str


def ceilings(results: RunResults) -> list[Ceiling]:
    """The ceilings of this run's test images, the lowest first."""
    test = on_split(results.images, "test")
    true, bins = test["score"].to_numpy(), test["bin"].to_numpy().astype(np.float64)
    of_bins = float(srcc(true, bins, once(len(true)))[0])
    found = [Ceiling("ten bins", of_bins, "a model that states the true bin of every test image")]
    if (raters := RATERS.get(results.recipe.data.dataset)) is not None:
        found.append(Ceiling("raters", raters, "one half of the raters predicting the other half"))
    return sorted(found, key=lambda ceiling: ceiling.srcc)
