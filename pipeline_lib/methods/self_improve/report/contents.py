"""The parts of a report."""

from typing import Literal, NamedTuple

import pyarrow as pa

from pipeline_lib.methods.self_improve.predictions import used_values
from pipeline_lib.methods.self_improve.prompt import Prompt
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.metrics.intervals import Change
from pipeline_lib.metrics.scores import Estimate

Reading = Literal["unfitted", "monotone"]


class Difference(NamedTuple):
    """One row of `DIFFERENCES`."""

    earlier: str
    later: str
    metric: str
    value: float
    low: float
    high: float
    rows: int
    change: Change


class Judged(NamedTuple):
    """One judge's verdicts on one model's explanations."""

    verdicts: pa.Table  # VERDICTS
    metrics: pa.Table  # METRICS: cons, use, gen, cons_corrected, unscored_rate, ..


class ModelResults(NamedTuple):
    """All results of one evaluated model; one row of the paper's Table 1."""

    iteration: int  # 0: the base model, zero-shot
    kind: Literal["zero-shot", "score", "consistency", "merged"]
    predictions: pa.Table  # PREDICTIONS
    reference_values: pa.Table  # REFERENCE_VALUES
    metrics: pa.Table  # METRICS of evaluate and, if probed, of faithfulness
    judged: Judged  # by the leading judge: the judge model if the recipe names one, else the round-trip judge
    second: Judged | None  # by the round-trip judge if a judge model leads
    training_log: pa.Table | None  # TRAINING_LOG; None for zero-shot and merged
    pair_metrics: pa.Table | None = None  # METRICS of its pairs: empty_share, equal_share
    seen: Judged | None = None  # by a judge that sees the image: VLM_VERDICTS and their METRICS

    @property
    def name(self) -> str:
        """As in the paper's tables: `zero-shot`, `ite-2 merged`."""
        return self.kind if self.iteration == 0 else f"ite-{self.iteration} {self.kind}"

    def metric(self, name: str, split: str = "test") -> Estimate:
        """A figure with its interval, e.g. `srcc_unfitted`, `cons`; raises `KeyError` when it was not measured."""
        found = estimate(self.metrics, name, split) or estimate(self.judged.metrics, name, split)
        if found is None:
            raise KeyError(f"{self.name} has no {name} on {split}")
        return found

    def metric_or_nan(self, name: str, split: str = "test") -> Estimate:
        """The same, and NaN when it was not measured, e.g. because the judge refused every text of this model."""
        nan = float("nan")
        return self.metric(name, split) if self.has(name, split) else Estimate(nan, nan, nan, 0)

    def has(self, name: str, split: str = "test") -> bool:
        """Whether a figure was measured; its value may be NaN."""
        return any(estimate(metrics, name, split) for metrics in (self.metrics, self.judged.metrics))

    def is_collapsed(self, min_parse_rate: float) -> bool:
        """Whether the parse rate on test is below `min_parse_rate`."""
        return self.metric("parse_rate").value < min_parse_rate


class OtherResults(NamedTuple):
    """One model on another labelled data set (`evaluation.also`)."""

    data: str
    iteration: int
    kind: str
    predictions: pa.Table  # OTHER_PREDICTIONS
    metrics: pa.Table  # METRICS

    @property
    def name(self) -> str:
        """Name of the model, as that of `ModelResults`."""
        return self.kind if self.iteration == 0 else f"ite-{self.iteration} {self.kind}"


class RunResults(NamedTuple):
    """A whole run; models in the order of the paper's Table 1: zero-shot, ite-1 score, ite-2 score, consistency, ..

    `branches` are the models that were evaluated on validation alone (`evaluation.branches`).
    """

    recipe: SelfImproveRecipe
    prompt: Prompt  # with the criterion of the scores
    model_name: str
    images: pa.Table  # IMAGES
    bins: pa.Table  # BINS
    unreadable_images: pa.Table  # UNREADABLE_IMAGES
    judge_holdout: pa.Table  # JUDGE_HOLDOUT
    models: list[ModelResults]
    differences: pa.Table  # DIFFERENCES
    branches: list[ModelResults] = []  # noqa: RUF012, nobody writes to it
    others: list[OtherResults] = []  # noqa: RUF012, nobody writes to it
    control: pa.Table | None = None  # CONTROL_FIGURES, when the run has a control

    @property
    def reading(self) -> Reading:
        """The reading that predictions use: monotone, or unfitted with too few validation images."""
        return used_values(self.models[0].reference_values).reading

    def difference(self, earlier: ModelResults, later: ModelResults, metric: str) -> Difference | None:
        """How a figure changed from one model to another, on the same images; None when it was not compared."""
        for row in self.differences.to_pylist():
            if (row["earlier"], row["later"], row["metric"]) == (earlier.name, later.name, metric):
                return Difference(**row)
        return None

    @property
    def all_models(self) -> list[ModelResults]:
        """All models, tested or not, by iteration; each branch comes before the model it was merged into."""
        kinds = ("zero-shot", "score", "consistency", "merged")
        return sorted([*self.models, *self.branches], key=lambda model: (model.iteration, kinds.index(model.kind)))


def estimate(metrics: pa.Table, name: str, split: str) -> Estimate | None:
    """One figure of a table in `METRICS`; None if the table lacks it."""
    for row in metrics.to_pylist():
        if row["metric"] == name and row["split"] == split:
            return Estimate(row["value"], row["low"], row["high"], row["rows"])
    return None
