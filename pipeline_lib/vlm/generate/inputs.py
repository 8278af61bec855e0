"""The inputs and outputs of a model, the same for every way to ask it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL.Image import Image
from transformers import GenerationConfig

from pipeline_lib.vlm.chat import Chat, tokens
from pipeline_lib.vlm.families import check_image
from pipeline_lib.vlm.load import Vlm


class Question(NamedTuple):
    """A conversation about its images (a row of a batch), and the beginnings of its answers.

    A beginning is empty (the model begins by itself) or text that the answer continues, separator included. K equal
    beginnings ask for K answers of one distribution. Without beginnings only probabilities are read.
    """

    chat: Chat
    images: Sequence[Image]  # in the order of the placeholders in the prompt
    beginnings: Sequence[str] = ("",)
    key: str = ""  # names the row for the noise of sampling; rows of one key and prompt get the same answers
    first_answer: int = 0  # number of the first answer, where the answers of a row are split over calls


class Generated(NamedTuple):
    """A continuation: its text, how many tokens it has (end token included), and whether it ended by itself."""

    text: str
    tokens: int
    finished: bool
    prompt_tokens: int  # of the input, image tokens included, padding excluded
    ids: tuple[int, ...] = ()  # the tokens; empty if a server does not give them


class NextTokens(NamedTuple):
    """A text to put behind the prompt, and the ids of tokens whose logits are read there, in order."""

    context: str
    ids: tuple[int, ...]


class Readout(NamedTuple):
    """Probabilities of the tokens that are read (softmax over their logits alone), and their share of all."""

    distribution: list[float]
    mass: float


def read_logits(logits: torch.Tensor, ids: Sequence[int]) -> list[Readout]:
    """A readout a row of the logits (rows, vocabulary) of one place."""
    logits = logits.double()
    chosen = logits[:, list(ids)]
    mass = (chosen.logsumexp(1) - logits.logsumexp(1)).exp()
    return [Readout(p, m) for p, m in zip(chosen.softmax(1).tolist(), mass.tolist(), strict=True)]


def answer_tokens(vlm: Vlm, beginning: str) -> int:
    """Tokens of the beginning of an answer, separator included."""
    return len(tokens(vlm.processor.tokenizer, beginning))


def model_inputs(vlm: Vlm, images: Sequence[Sequence[Image]], texts: list[str]) -> Any:
    """Texts with their images as the model's input, padded on the left, on the model's device.

    Raises `DataError` for an image of a shape that the model's family does not take, `ValueError` for a text without
    exactly one placeholder an image.
    """
    check_placeholders(vlm.processor, images, texts)
    for image in (image for of_text in images for image in of_text):
        check_image(vlm.model.config.model_type, image)
    # The padding side is passed each time: Qwen-based tokenizers pad on the right unless told otherwise.
    inputs = vlm.processor(
        images=[list(of_text) for of_text in images] if any(map(len, images)) else None,
        text=texts,
        padding=True,
        padding_side="left",
        add_special_tokens=False,
        return_tensors="pt",
    )
    return inputs.to(vlm.device, dtype=vlm.model.dtype)


def check_placeholders(processor: Any, images: Sequence[Sequence[Image]], texts: Sequence[str]) -> None:
    """Raise `ValueError` for a text without exactly one placeholder for each of its images.

    The processors count images and placeholders of a whole batch alone: one row would be given the image of another.
    """
    token = getattr(processor, "image_token", None)
    for of_text, text in zip(images, texts, strict=True):
        if token and text.count(token) != len(of_text):
            raise ValueError(
                f"{len(of_text)} image(s) for {text.count(token)} placeholders {token!r} in the prompt {text!r};"
                " render the chat for as many images as the row has"
            )


def generation_config(vlm: Vlm, chat: Chat, max_new_tokens: int, *, output_logits: bool = False) -> GenerationConfig:
    """Greedy decoding up to one of the model's end tokens; with `output_logits`, logits and cache come back as well.

    Sampling chooses tokens by `token_chooser`, never by the library's own settings.
    """
    tokenizer = vlm.processor.tokenizer
    ends = end_ids(vlm.model.generation_config, tokenizer, chat)
    # Everything is set, so that a model's own generation_config changes nothing.
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
    """The answer behind the tokens `before`; `after` may have padding behind its end token."""
    stop = next((at for at, token in enumerate(after) if token in config.eos_token_id), None)
    text = continuation(vlm.processor.tokenizer, before, after[:stop])
    ids = tuple(after if stop is None else after[: stop + 1])
    return Generated(text, len(ids), stop is not None, len(before), ids)


def continuation(tokenizer: Any, before: list[int], after: list[int]) -> str:
    """The text of the tokens `after` that stand behind `before`, without special tokens."""
    # Decoded together with `before`, because some tokenizers drop the blank at the beginning of a text.
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
    """Tokens that are never generated: as training data a placeholder would be read as an image."""
    token = getattr(processor, "image_token_id", None)
    return None if token is None else [token]
