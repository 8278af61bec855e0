"""One rendering of a conversation for training, generation and scoring alike.

The model families' chat templates disagree about the begin token, about the space before an answer and about the end
token, and the training library tokenises prompt and answer separately. So the strings are made only here, and a check
shows that tokenising the two parts gives the tokens of the whole.
"""

from typing import Any, NamedTuple

from pipeline_lib.errors import ModelError

_EXAMPLES = ("An example.", "# An example.", "7 of 10.")
"""Answers that begin with a letter, a sign and a digit, which tokenizers treat differently."""


class Chat(NamedTuple):
    """The parts of a conversation about one or several images: `prompt + separator + answer + end`.

    `prompt` ends where the assistant's turn begins and holds a placeholder for each image and exactly one begin token,
    if the family has one; where this is also the mark of a turn, one a turn. None of the parts gets special tokens
    added when it is tokenised.
    """

    prompt: str
    separator: str
    end: str

    def answer(self, text: str, *, finished: bool = True) -> str:
        """The assistant's turn for training; an answer cut off by the length limit gets no end token."""
        return self.separator + text + (self.end if finished else "")


def render_chat(processor: Any, text: str, images: int = 1) -> Chat:
    """Render a question about some images, or none, with the model's own chat template; the images are before the text.

    Raises `ModelError` when there is no end token, not one placeholder an image, a second begin token, or when
    tokenising prompt and answer apart gives other tokens.
    """
    tokenizer = processor.tokenizer
    content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": text}]
    turns = [{"role": "user", "content": content}]
    rendered = processor.apply_chat_template(turns, add_generation_prompt=True)
    rendered = _with_one_begin_token(processor, text, turns, rendered)
    end = _end_of_turn(processor, turns)
    image_token = getattr(processor, "image_token", None)
    if images and image_token and image_token not in rendered:
        raise ModelError(
            f"the chat template renders no image placeholder {image_token!r}: {rendered!r}; if it has another one,"
            " it is older than the processor: take a newer commit of the model"
        )
    if image_token and (found := rendered.count(image_token)) != images:
        raise ModelError(
            f"the chat template renders {found} image placeholders {image_token!r} for {images} image(s): {rendered!r};"
            " remove the placeholder from the prompt's text, or use a model that takes several images"
        )
    chat = Chat(rendered, "" if rendered[-1:].isspace() else " ", end)
    for answer in map(chat.answer, _EXAMPLES):
        apart, joint = tokens(tokenizer, rendered) + tokens(tokenizer, answer), tokens(tokenizer, rendered + answer)
        if apart != joint:
            raise ModelError(
                f"tokens differ where the answer begins: together {joint[-24:]}, apart {apart[-24:]};"
                " this tokenizer merges across the end of the prompt and cannot be trained on"
            )
    return chat


def tokens(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text, without special tokens."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _with_one_begin_token(processor: Any, text: str, turns: list[dict[str, Any]], rendered: str) -> str:
    tokenizer = processor.tokenizer
    begin = tokenizer.bos_token
    if not begin:
        return rendered
    body = rendered
    while body.startswith(begin):
        body = body[len(begin) :]
    stands_at_turns = rendered.startswith(begin) or begin == tokenizer.eos_token
    if begin in body and (begin in text or not stands_at_turns or not _marks_turns(processor, begin, turns)):
        raise ModelError(f"the chat template writes the begin token {begin!r} inside the prompt: {rendered!r}")
    adds_it = tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]
    return begin + body if adds_it or rendered.startswith(begin) else rendered


def _marks_turns(processor: Any, token: str, turns: list[dict[str, Any]]) -> bool:
    """Whether the chat template writes the token in each turn, as ChatML tokenizers do whose begin token marks one."""
    answered = [*turns, _answer_turn("An example.")]
    count = [processor.apply_chat_template(given).count(token) for given in (turns, answered, [*answered, turns[0]])]
    return bool(count[0] < count[1] < count[2])


def _answer_turn(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def _end_of_turn(processor: Any, turns: list[dict[str, Any]]) -> str:
    """The token that the chat template puts behind an answer; if it puts none (LLaVA-1.5), the tokenizer's end token.

    The two differ in InternVL with InternLM2: the turn ends with <|im_end|>, the tokenizer's end token is </s>.
    """
    tokenizer, marker = processor.tokenizer, "An example."
    behind = processor.apply_chat_template([*turns, _answer_turn(marker)]).rpartition(marker)[2].strip()
    ids = tokens(tokenizer, behind)[:1]
    if ids and ids[0] in tokenizer.added_tokens_decoder:
        return str(tokenizer.convert_ids_to_tokens(ids[0]))
    if not tokenizer.eos_token:
        raise ModelError("the tokenizer has no end token (eos_token), so answers would never learn to stop")
    return str(tokenizer.eos_token)
