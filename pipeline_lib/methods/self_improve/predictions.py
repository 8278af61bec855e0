"""Predictions for images without scores, on the data set's own scale."""

import numpy as np
import pyarrow as pa

from pipeline_lib.methods.self_improve.tables import MODEL_ANSWERS, NEW_PREDICTIONS


def to_ask(images: pa.Table) -> pa.Table:
    """The readable images of `NEW_IMAGES`, each content once, for `answer_images`."""
    first: dict[str, int] = {}
    for at, (sha256, problem) in enumerate(
        zip(images["image_sha256"].to_pylist(), images["problem"].to_pylist(), strict=True)
    ):
        if problem is None:
            first.setdefault(sha256, at)
    good = images.take(pa.array(first.values(), pa.int64()))
    table = good.select(["path", "image_sha256", "width_px", "height_px"]).rename_columns({"path": "image"})
    for name in ("split", "score", "bin"):  # what is not known of them
        table = table.append_column(name, pa.nulls(table.num_rows, MODEL_ANSWERS.schema.field(name).type))
    return table


def new_predictions(images: pa.Table, answers: pa.Table, reference_values: pa.Table) -> pa.Table:
    """A row of `NEW_PREDICTIONS` for every image, in their order, those with a problem too."""
    values = reference_values["fitted"].to_numpy()
    of = {row["image_sha256"]: row for row in answers.to_pylist()}
    rows = []
    for image in images.to_pylist():
        row = {name: image[name] for name in ("image", "image_sha256", "problem")}
        if image["problem"] is None:
            answer = of[image["image_sha256"]]
            row["predicted"] = float(np.dot(answer["score_distribution"], values))
            names = ("score_distribution", "digit_mass", "parsed", "stated_score", "explanation", "text")
            row |= {name: answer[name] for name in names}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=NEW_PREDICTIONS.schema)
