"""What a report is made of."""

from typing import Literal, NamedTuple

import pyarrow as pa

from pipeline_lib.metrics.scores import Estimate
from pipeline_lib.recipe import Recipe


class ModelResults(NamedTuple):
    """Everything one evaluated model left behind; one row of the paper's Table 1."""

    iteration: int  # 0: the base model, zero-shot
    kind: Literal["zero-shot", "score", "consistency", "merged"]
    predictions: pa.Table  # schemas.PREDICTIONS
    reference_values: pa.Table  # schemas.REFERENCE_VALUES
    metrics: pa.Table  # schemas.METRICS, those of evaluate and of judge
    verdicts: pa.Table  # schemas.VERDICTS
    training_log: pa.Table | None  # schemas.TRAINING_LOG; None for zero-shot and merged

    @property
    def name(self) -> str:
        """As in the paper's tables: `zero-shot`, `ite-2 merged`."""
        return self.kind if self.iteration == 0 else f"ite-{self.iteration} {self.kind}"

    def metric(self, name: str, split: str = "test") -> Estimate:
        """A figure with its interval, e.g. `srcc_unfitted`, `cons`; raises `KeyError` when it was not measured."""
        for row in self.metrics.to_pylist():
            if row["metric"] == name and row["split"] == split:
                return Estimate(row["value"], row["low"], row["high"], row["rows"])
        raise KeyError(f"{self.name} has no {name} on {split}")

    def is_collapsed(self, min_parse_rate: float) -> bool:
        """Whether too few test answers parse for the explanations to count."""
        return self.metric("parse_rate").value < min_parse_rate


class RunResults(NamedTuple):
    """A whole run; models in the order of the paper's Table 1: zero-shot, ite-1 score, ite-2 score, consistency, .."""

    recipe: Recipe
    model_name: str
    images: pa.Table  # schemas.IMAGES
    bins: pa.Table  # schemas.BINS
    unreadable_images: pa.Table  # schemas.UNREADABLE_IMAGES
    judge_holdout: pa.Table  # schemas.JUDGE_HOLDOUT
    models: list[ModelResults]
