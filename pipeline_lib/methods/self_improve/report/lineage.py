"""The models that a report shows: the base, iteration 1, the merged models and the final one."""

import pyarrow as pa
import pyarrow.compute as pc

from pipeline_lib.methods.self_improve.report.contents import ModelResults, RunResults


def main_line(results: RunResults) -> list[ModelResults]:
    """Zero-shot, ite-1 score, then each merged model: every model that the next iteration starts from (section 3.2)."""
    return [model for model in results.models if is_on_main_line(model)]


def is_on_main_line(model: ModelResults) -> bool:
    """Whether this model generates the next iteration's pairs; the others are branches that are merged."""
    return model.kind in ("zero-shot", "merged") or (model.iteration == 1 and model.kind == "score")


def zero_shot(results: RunResults) -> ModelResults:
    """The base model before any training."""
    return main_line(results)[0]


def first_trained(results: RunResults) -> ModelResults:
    """The model of iteration 1, or the base when nothing was trained."""
    return main_line(results)[:2][-1]


def final(results: RunResults) -> ModelResults:
    """The final model of the run."""
    return main_line(results)[-1]


def compared(results: RunResults) -> list[ModelResults]:
    """Zero-shot, iteration 1 and the final model, each once."""
    chosen = {model.name: model for model in (zero_shot(results), first_trained(results), final(results))}
    return list(chosen.values())


def on_validation(results: RunResults) -> list[ModelResults]:
    """Branches that were not tested and the models they were merged into, with the round-trip judge's verdicts.

    It is the one judge that rates validation.
    """
    iterations = {model.iteration for model in results.branches}
    return [
        model._replace(judged=model.second or model.judged, second=None)
        for model in results.all_models
        if model.iteration in iterations
    ]


def on_split(table: pa.Table, split: str) -> pa.Table:
    """The rows of one split."""
    return table.filter(pc.equal(table["split"], split))


def unparsed_answers(model: ModelResults) -> int:
    """Test answers of the model that do not keep the format."""
    return int(pc.sum(pc.invert(on_split(model.predictions, "test")["parsed"])).as_py() or 0)
