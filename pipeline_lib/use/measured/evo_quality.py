"""What a model of evo_quality was measured on: labelled data sets. Held-out votes are the model's own, and no truth."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_lib.metrics.figures import mean, srcc
from pipeline_lib.store.runs import RunFolder, RunModel
from pipeline_lib.use.measured import Figure, Measured, numbered, table_of


def measured(run: RunFolder, model: RunModel) -> list[Measured]:
    """Each labelled data set, in the order of the recipe; see `pipeline_lib.use.measured`."""
    names = [data.get("name", "test") for data in run.fields.get("evaluation", {}).get("labelled") or []]
    found = []
    for at, name in enumerate(names):
        ratings = table_of(run, model.role("predictions" if at == 0 else f"on/{name}"), "ratings")
        if ratings is not None and ratings["score"].null_count == 0:
            found += _data_set(name, ratings)
    return found


def _data_set(name: str, ratings: pa.Table) -> list[Measured]:
    """SRCC is over the images with a rating, as in the method's own report; parse rates are over all images."""
    found = []
    for column, figure, heading in (("mean", "srcc", "SRCC"), ("stated", "srcc_stated", "SRCC stated")):
        rated = ratings.filter(ratings[column].is_valid())
        columns = (rated["score"].to_numpy().astype(np.float64), rated[column].to_numpy().astype(np.float64))
        found.append(_measured(name, rated, (Figure(figure, heading, srcc, columns),)))
    read = pc.is_valid(ratings["stated"]).to_numpy().astype(np.float64)
    return [*found, _measured(name, ratings, (Figure("parse_rate", "Parse rate", mean, (read,), rate=True),))]


def _measured(name: str, table: pa.Table, figures: tuple[Figure, ...]) -> Measured:
    return Measured(
        "images",
        name,
        numbered(table["image_sha256"].to_pylist()),
        tuple(table["score"].to_pylist()),
        np.array(table["group"].to_pylist(), dtype=np.str_),
        figures,
    )
