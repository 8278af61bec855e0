"""The image-text gap: how much of its score does a model find in its own explanation, without the image?"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline_lib.methods.self_improve.score_tokens import ScoreTokens
from pipeline_lib.methods.self_improve.tables import TEXT_SCORES
from pipeline_lib.metrics.figures import srcc
from pipeline_lib.metrics.readings import expected_bins
from pipeline_lib.progress import Progress
from pipeline_lib.vlm.chat import render_chat
from pipeline_lib.vlm.generate import Greedy, Question, generate_answers
from pipeline_lib.vlm.load import Vlm

Array = NDArray[np.float64]


def score_texts(
    vlm: Vlm, prompt: str, scores: ScoreTokens, probes: pa.Table, *, batch_size: int, progress: Progress
) -> pa.Table:
    """Score the images of `probes` again from the model's explanations alone; `TEXT_SCORES`.

    The explanation stands where the image was, before the prompt. It may name its score as a number, which
    `mentions_own_score` counts. An image placeholder in it is left out.
    """
    placeholder = getattr(vlm.processor, "image_token", None) or ""
    rows = []
    records = probes.select(["image", "explanation"]).to_pylist()
    for start in range(0, len(records), batch_size):
        batch = records[start : start + batch_size]
        questions = []
        for row in batch:
            text = row["explanation"].replace(placeholder, "") if placeholder else row["explanation"]
            questions.append(Question(render_chat(vlm.processor, f"{text}\n\n{prompt}", images=0), (), beginnings=()))
        found = generate_answers(vlm, questions, Greedy(max_new_tokens=1), scores)
        rows += [
            {"image": row["image"], "text_distribution": readout.distribution}
            for row, readout in zip(batch, found.readouts, strict=True)
        ]
        progress.advance(len(batch))
    return pa.Table.from_pylist(rows, schema=TEXT_SCORES.schema)


def image_text_gap(rows: list[dict[str, Any]]) -> dict[str, Callable[[Array], Array]]:
    """SRCC with the true score from the image, from the text alone, and the difference, for rows of `FAITHFULNESS`."""
    true = np.array([row["score"] for row in rows], dtype=np.float64)
    from_image, from_text = (
        expected_bins(np.array([row[name] for row in rows], dtype=np.float64).reshape(-1, 10)).bins
        for name in ("score_distribution", "text_distribution")
    )
    return {
        "srcc_from_image": partial(srcc, true, from_image),
        "srcc_from_text": partial(srcc, true, from_text),
        "image_text_gap": lambda weights: srcc(true, from_image, weights) - srcc(true, from_text, weights),
    }
