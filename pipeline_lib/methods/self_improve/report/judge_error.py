"""The error of the local judge on explanations that it was not fitted on."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline_lib.methods.self_improve.round_trip import grade


class JudgeError(NamedTuple):
    """The error of recovered scores (0..9) on held-out explanations that the base model wrote for injected scores."""

    explanations: int
    mae: float
    rmse: float
    correlation: float  # Pearson
    mean_grade: float  # 0..4, the Cons of these explanations with the score they were written for


def judge_error(holdout: pa.Table) -> JudgeError:
    """Errors in points of the 0..9 scale; NaN without held-out explanations or without spread."""
    injected = holdout["injected_score"].to_numpy().astype(np.float64)
    recovered = holdout["recovered_score"].to_numpy()
    nan = float("nan")
    if len(injected) == 0:
        return JudgeError(0, nan, nan, nan, nan)
    error = recovered - injected
    spread = np.ptp(injected) > 0 and np.ptp(recovered) > 0
    return JudgeError(
        len(injected),
        float(np.abs(error).mean()),
        float(np.sqrt((error**2).mean())),
        float(np.corrcoef(injected, recovered)[0, 1]) if spread else nan,
        float(grade(injected, recovered).mean()),
    )
