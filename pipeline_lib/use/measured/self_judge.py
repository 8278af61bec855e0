"""What a judge of self_judge was measured on: pairs of answers, of which the better one is known."""

import numpy as np

from pipeline_lib.methods.self_judge.evaluation import Facts
from pipeline_lib.metrics.figures import mean
from pipeline_lib.store.key import canonical_json
from pipeline_lib.store.runs import RunFolder, RunModel
from pipeline_lib.use.measured import Figure, Measured, numbered, table_of


def measured(run: RunFolder, model: RunModel) -> list[Measured]:
    """The main pairs first, the held-out synthetic ones last; see `pipeline_lib.use.measured`."""
    prefix = model.role("judgements/")
    names = [data.get("name", "pairs") for data in run.fields.get("evaluation", {}).get("pairs") or []]
    roles = {(names or ["held-out"])[0]: model.role("predictions")}
    roles |= {role.removeprefix(prefix): role for role in run.pointers() if role.startswith(prefix)}
    found = []
    for name, role in roles.items():
        table = table_of(run, role, "judgements")
        if table is None:
            continue
        rows, facts = table.to_pylist(), Facts.of(table)
        found.append(
            Measured(
                "pairs of answers",
                name,
                numbered([canonical_json([row["image_sha256"], row["question"]]) for row in rows]),
                tuple((row["better"], row["worse"]) for row in rows),
                np.array([row["group"] for row in rows], dtype=np.str_),
                (
                    Figure("accuracy", "Accuracy", mean, (facts.accuracy,)),
                    Figure("both_orders", "Both orders", mean, (facts.both,)),
                    Figure("consistency", "Consistency", mean, (facts.consistent,)),
                    Figure("parse_rate", "Parse rate", mean, (facts.parsed,)),
                ),
            )
        )
    return found
