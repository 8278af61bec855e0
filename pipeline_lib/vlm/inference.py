"""Batched greedy generation and the score distribution, for models of every family."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL.Image import Image
from transformers import GenerationConfig

from pipeline_lib.methods.self_improve.score_tokens import ScoreTokens
from pipeline_lib.vlm.chat import Chat, tokens
from pipeline_lib.vlm.families import check_image
from pipeline_lib.vlm.load import Vlm


class Generated(NamedTuple):
    """A greedy continuation: its text, its tokens (end token included), and whether it ended by itself."""

    text: str
    tokens: int
    finished: bool
    prompt_tokens: int  # of the input, image tokens included, padding excluded


class ScoreReadout(NamedTuple):
    """Probabilities of the ten scores (softmax over their logits alone) and their share of all probability."""

    distribution: list[float]
    digit_mass: float


@torch.inference_mode()
def generate_greedy(
    vlm: Vlm, chat: Chat, images: Sequence[Image], beginnings: Sequence[str], max_new_tokens: int
) -> list[Generated]:
    """Continue `prompt + beginning` for each image, greedily, in one batch.

    A beginning is empty (the model states its own score) or holds an injected score (section 3.1). Batches are padded
    on the left, so an answer is that of the image alone up to rounding.
    """
    inputs = model_inputs(vlm, images, [chat.prompt + beginning for beginning in beginnings])
    config = greedy_config(vlm, chat, max_new_tokens)
    length = inputs["input_ids"].shape[1]
    output = vlm.model.generate(**inputs, generation_config=config)[:, length:].tolist()
    given = [ids[mask.bool()].tolist() for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
    return [read_continuation(vlm, config, before, row) for before, row in zip(given, output, strict=True)]


@torch.inference_mode()
def read_scores(vlm: Vlm, chat: Chat, scores: ScoreTokens, images: Sequence[Image]) -> list[ScoreReadout]:
    """p_i = softmax over the logits of the ten score tokens, read where the score would be stated (section 4.3)."""
    inputs = model_inputs(vlm, images, [chat.prompt + scores.context] * len(images))
    return read_logits(vlm.model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1], scores)


def read_logits(logits: torch.Tensor, scores: ScoreTokens) -> list[ScoreReadout]:
    """Score distributions from the logits (images, vocabulary) of the place where the score would be stated."""
    logits = logits.double()
    digits = logits[:, list(scores.ids)]
    mass = (digits.logsumexp(1) - logits.logsumexp(1)).exp()
    return [ScoreReadout(p, m) for p, m in zip(digits.softmax(1).tolist(), mass.tolist(), strict=True)]


def answer_tokens(vlm: Vlm, beginning: str) -> int:
    """Tokens of the beginning of an answer, separator included."""
    return len(tokens(vlm.processor.tokenizer, beginning))


def model_inputs(vlm: Vlm, images: Sequence[Image], texts: list[str]) -> Any:
    """What the model takes of images and texts, one image a text, padded on the left, on the model's device."""
    for image in images:
        check_image(vlm.model.config.model_type, image)
    # The padding side is passed each time: Qwen-based tokenizers pad on the right unless told otherwise.
    inputs = vlm.processor(
        images=[[image] for image in images],
        text=texts,
        padding=True,
        padding_side="left",
        add_special_tokens=False,
        return_tensors="pt",
    )
    return inputs.to(vlm.device, dtype=vlm.model.dtype)


def greedy_config(vlm: Vlm, chat: Chat, max_new_tokens: int, *, output_logits: bool = False) -> GenerationConfig:
    """Greedy decoding up to one of the model's end tokens; with `output_logits`, logits and cache come back as well."""
    tokenizer = vlm.processor.tokenizer
    ends = end_ids(vlm.model.generation_config, tokenizer, chat)
    # Everything is set: whatever sampling a model's own generation_config asks for must not leak in.
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        temperature=None,
        top_p=None,
        top_k=None,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0],
        suppress_tokens=image_ids(vlm.processor),
        use_cache=True,
        output_logits=output_logits,
        return_dict_in_generate=output_logits,
    )


def read_continuation(vlm: Vlm, config: GenerationConfig, before: list[int], after: list[int]) -> Generated:
    """What was generated behind the tokens `before`; `after` may go on behind its end token, with padding."""
    stop = next((at for at, token in enumerate(after) if token in config.eos_token_id), None)
    text = _continuation(vlm.processor.tokenizer, before, after[:stop])
    return Generated(text, len(after) if stop is None else stop + 1, stop is not None, len(before))


def _continuation(tokenizer: Any, before: list[int], after: list[int]) -> str:
    # Decoded together with what stands before: some tokenizers drop the blank at the beginning of a text.
    plain = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    text: str = tokenizer.decode(before + after, **plain)
    return text[len(tokenizer.decode(before, **plain)) :]


def end_ids(own: GenerationConfig, tokenizer: Any, chat: Chat) -> list[int]:
    """The tokens that end an answer: the model's own, the tokenizer's, and that of the chat template's turn."""
    configured = own.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    ids = [*ids, tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(chat.end)]
    return sorted({i for i in ids if i is not None})


def image_ids(processor: Any) -> list[int] | None:
    """What is never generated: a placeholder would be read as an image when the text comes back as training data."""
    token = getattr(processor, "image_token_id", None)
    return None if token is None else [token]
