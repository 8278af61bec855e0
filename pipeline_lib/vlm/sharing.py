"""Which models can be given several texts behind one prefix, in training and in generation."""

from typing import Any

SHARED = frozenset({"internvl", "llava", "llava_next", "qwen2_5_vl", "qwen3_vl"})
"""The model types for which tests/parity shows that sharing the prefix changes rounding alone."""


def why_not_shared(model: Any, longest: int) -> str | None:
    """Why each text needs a prefix of its own, for texts of up to `longest` tokens; None when it does not."""
    config = model.config
    if config.model_type not in SHARED:
        return f"it was not tested with models of type {config.model_type}"
    text = config.get_text_config()
    if text._attn_implementation != "sdpa":  # the mask is a boolean one, which no other takes
        return f"attention is {text._attn_implementation} instead of sdpa"
    window = getattr(text, "sliding_window", None)
    if window is not None and window < longest:
        return f"its attention reaches back {window} tokens, and there are longer texts"
    return None
