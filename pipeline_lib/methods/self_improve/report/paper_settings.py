"""The settings of a recipe that differ from the paper's (section 4, Table 4, appendix A.1)."""

from collections.abc import Callable
from pathlib import PurePath
from typing import Any, NamedTuple

import yaml

from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe


class Setting(NamedTuple):
    """A recipe field and the paper's value of it."""

    field: str
    here: str
    paper: str
    standing: str  # "departs", "as in the paper" or "not given"


PAPER_JUDGE = "gpt-4o-2024-08-06"

_PAPER: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "iterations": ("4", lambda value: value == 4),
    "prompt": ("aesthetics (A.2)", lambda value: value == "aesthetics"),
    "model.id": ("LLaVA-NeXT-7B, LLaVA-1.5-7B, InternVL2-2B or LLaVA-interleave-0.5B", lambda value: _in_paper(value)),
    "model.resize_px": ("448", lambda value: value == 448),
    "model.max_new_tokens": ("256", lambda value: value == 256),
    "generation.fraction": ("1 (AADB) or 0.25 (AVA)", lambda value: value in (1, 0.25)),
    "swap.fraction": ("1 (AADB) or 0.3 (AVA)", lambda value: value in (1, 0.3)),
    "training.learning_rate": ("3e-05, 5e-05 or 0.0001, by model", lambda value: value in (3e-5, 5e-5, 1e-4)),
    "training.decay_per_iteration": ("0.8", lambda value: value == 0.8),
    "consistency.learning_rate_factor": ("1", lambda value: value == 1),
    "training.beta": ("0.1 or 0.2, by model", lambda value: value in (0.1, 0.2)),
    "training.sft_weight": ("0: no such term in the paper", lambda value: value == 0),
    "training.lora_rank": ("16 or 64, by model", lambda value: value in (16, 64)),
    "training.batch_size": ("128", lambda value: value == 128),
    "training.epochs": ("1", lambda value: value == 1),
    "merge.method": ("ties", lambda value: value == "ties"),
    "merge.space": ("factors, as the peft library does", lambda value: value == "factors"),
    "merge.weights": ("1, 1", lambda value: tuple(value) == (1, 1)),
    "merge.density": ("0.5", lambda value: value == 0.5),
    "merge.majority_sign_method": ("frequency", lambda value: value == "frequency"),
    "evaluation.branches": ("test", lambda value: value == "test"),
    "judge.openai.model": (PAPER_JUDGE, lambda value: value == PAPER_JUDGE),
    "judge.openai.rubric": ("the paper’s (A.2)", lambda value: value == "paper"),
    "judge.rows": ("all (AADB) or 1,000 (AVA)", lambda value: value in (None, 1000)),
}

_NOT_GIVEN = (
    "generation.engine",
    "generation.min_distance",
    "generation.redraw",
    "training.start_from",
    "training.schedule",
    "training.max_grad_norm",
    "training.max_length",
    "model.dtype",
    "model.max_tiles",
    "judge.openai.temperature",
    "judge.openai.max_tokens",
)

_NONE = {
    "judge.rows": "all",
    "judge.openai.model": "none: the local round-trip judge",
    "judge.openai.temperature": "not sent",
    "model.max_tiles": "the model’s own setting",
}


def paper_settings(recipe: SelfImproveRecipe) -> list[Setting]:
    """Every setting that the paper gives or leaves open, those that differ first."""
    known = []
    for field, (paper, agrees) in _PAPER.items():
        value = _value(recipe, field)
        known.append(Setting(field, _shown(field, value), paper, "as in the paper" if agrees(value) else "departs"))
    left_open = [Setting(field, _shown(field, _value(recipe, field)), "–", "not given") for field in _NOT_GIVEN]
    order = ("departs", "not given", "as in the paper")
    return sorted([*known, *left_open], key=lambda setting: order.index(setting.standing))


def departures(recipe: SelfImproveRecipe) -> list[Setting]:
    """The settings that differ from every value that the paper uses."""
    return [setting for setting in paper_settings(recipe) if setting.standing == "departs"]


def recipe_yaml(recipe: SelfImproveRecipe) -> str:
    """The recipe as YAML without the `runtime` section, and with local paths cut to their last part.

    Neither can change a result, and a report is read on other machines than the one that made it.
    """
    fields = recipe.model_dump(mode="json", exclude={"runtime"})
    fields["data"]["table"] = PurePath(recipe.data.table).name
    fields["data"]["images"] = PurePath(recipe.data.images).name
    fields["data"]["split_lists"] = {
        split: path and PurePath(path).name for split, path in recipe.data.split_lists.model_dump().items()
    }
    for other in fields["evaluation"]["also"]:
        other |= {name: PurePath(other[name]).name for name in ("table", "images")}
    fields["prompt"] = PurePath(recipe.prompt).name
    fields["model"]["id"] = shown_model_id(recipe.model.id)
    return str(yaml.safe_dump(fields, sort_keys=False, allow_unicode=True))


def is_hub_id(model_id: str) -> bool:
    """Whether a model id names a repository on the hub rather than a local directory or the bundled model."""
    return model_id.count("/") == 1 and not model_id.startswith((".", "/", "~", "s3://"))


def shown_model_id(model_id: str) -> str:
    """A hub id, unchanged; of a local directory only its name."""
    return model_id if is_hub_id(model_id) else PurePath(model_id).name


def _value(recipe: SelfImproveRecipe, field: str) -> Any:
    value: Any = recipe
    for part in field.split("."):
        value = getattr(value, part)
    return value


def _shown(field: str, value: Any) -> str:
    if field == "model.id":
        return shown_model_id(str(value))
    if field == "prompt":
        return PurePath(str(value)).name
    if isinstance(value, tuple):
        return ", ".join(f"{part:g}" for part in value)
    if value is None:
        return _NONE[field]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _in_paper(model_id: str) -> bool:
    name = model_id.lower().replace(".", "").replace("_", "-")
    stems = ("llava-v16-vicuna-7b", "llava-v16-mistral-7b", "llava-15-7b", "internvl2-2b", "llava-interleave")
    return any(stem in name for stem in stems)
