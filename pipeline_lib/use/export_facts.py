"""`whyscore.json` of an exported model: what it takes to ask the model and to read its scores."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline_lib.errors import ModelError
from pipeline_lib.methods.self_improve.predictions import Scale
from pipeline_lib.metrics.conformal import CalibratedFold
from pipeline_lib.metrics.readings import DIGITS, ReferenceValues

NAME = "whyscore.json"

FORMAT = 2
"""Of `whyscore.json`: 2 has intervals and the name of the score. Format 1 is read too, and gives no intervals."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Fold(_Section):
    """See `CalibratedFold`."""

    reference_values: tuple[float, ...] = Field(min_length=DIGITS, max_length=DIGITS)
    errors: tuple[float, ...]


class Interval(_Section):
    """What calibrates the interval of a prediction: a summary of the validation images, without scores or names."""

    level: float
    folds: tuple[Fold, ...]


class ExportFacts(_Section):
    """The content of `whyscore.json`."""

    format: Literal[1, 2]
    model: str  # e.g. ite-2 merged
    base: str
    base_revision: str | None
    base_fingerprint: str
    adapter: str | None
    dtype: Literal["float32", "bfloat16", "float16"]
    prompt: str
    score_is_of: str
    score_column: str = "score"
    resize_px: int
    max_tiles: int | None
    image_processor: dict[str, object]
    max_new_tokens: int
    chat: str
    score_context: str
    score_token_ids: tuple[int, ...] = Field(min_length=DIGITS, max_length=DIGITS)
    end_token_ids: tuple[int, ...]
    never_token_ids: tuple[int, ...]
    reading: Literal["monotone", "unfitted"]
    reference_values: tuple[float, ...] = Field(min_length=DIGITS, max_length=DIGITS)
    interval: Interval | None = None

    @property
    def scale(self) -> Scale:
        """What turns digit distributions into scores and intervals."""
        folds = self.interval.folds if self.interval else ()
        calibrated = tuple(CalibratedFold(np.array(fold.reference_values), np.array(fold.errors)) for fold in folds)
        return Scale(ReferenceValues(np.array(self.reference_values), self.reading), calibrated)


def read_facts(folder: Path) -> ExportFacts:
    """The facts of an exported folder; raises `ModelError` when there are none, or they are of an unknown format."""
    path = folder / NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and found.get("format") not in (1, FORMAT):
            raise ModelError(
                f"{path} has format {str(found.get('format'))[:20]}; this version of WhyScore reads 1 and {FORMAT}."
                " Export the model again with this version, or update WhyScore"
            )
        if isinstance(found, dict) and found.get("method", "self_improve") != "self_improve":
            raise ModelError(
                f"{folder} holds a model of {str(found['method'])[:20]}, which does not score and explain; its README"
                " says how to ask it"
            )
        return ExportFacts.model_validate(found)
    except FileNotFoundError:
        raise ModelError(f"{folder} has no {NAME}; expected a folder that `whyscore predict --export` wrote") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "content"
        raise ModelError(f"{path}: {where}: {first['msg']}; export the model again") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
