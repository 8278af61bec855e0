"""Check whether a model can state and explain scores, before any image is read; no weights are loaded."""

from typing import Any

from pipeline_lib.methods.self_improve.prompt import Prompt
from pipeline_lib.methods.self_improve.score_tokens import resolve_score_tokens
from pipeline_lib.train import check_model as common
from pipeline_lib.vlm.chat import render_chat
from pipeline_lib.vlm.load import load_processor
from pipeline_lib.vlm.model_ref import ModelRef


def check_model(ref: ModelRef, prompt: Prompt) -> dict[str, Any]:
    """The facts of `train.check_model`, and the ids of the ten score tokens.

    Raises `ModelError` as it does, and when the tokenizer cannot write ten single-token scores.
    """
    processor = load_processor(ref)
    scores = resolve_score_tokens(processor.tokenizer, render_chat(processor, prompt.text))
    return common.check_model(ref, prompt.text) | {"score_token_ids": list(scores.ids)}
