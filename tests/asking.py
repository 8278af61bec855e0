"""Short forms of asking a tiny model, one image a question: behind one prefill, and on the plain path."""

from collections.abc import Sequence

from PIL.Image import Image

from pipeline_lib.vlm.chat import Chat
from pipeline_lib.vlm.generate import Answers, Generated, Greedy, NextTokens, Question, Readout, generate_answers
from pipeline_lib.vlm.generate.plain import generate_plain, read_plain
from pipeline_lib.vlm.load import Vlm


def ask(
    vlm: Vlm,
    chat: Chat,
    images: Sequence[Image],
    beginnings: Sequence[Sequence[str]],
    length: int,
    read: NextTokens | None = None,
) -> Answers:
    """Greedy answers of at most `length` tokens to each image."""
    questions = [Question(chat, [image], row) for image, row in zip(images, beginnings, strict=True)]
    return generate_answers(vlm, questions, Greedy(max_new_tokens=length), read)


def generate_greedy(
    vlm: Vlm, chat: Chat, images: Sequence[Image], beginnings: Sequence[str], length: int
) -> list[Generated]:
    """One answer an image, on the plain path."""
    questions = [Question(chat, [image], [text]) for image, text in zip(images, beginnings, strict=True)]
    return [row[0] for row in generate_plain(vlm, questions, Greedy(max_new_tokens=length))]


def read_scores(vlm: Vlm, chat: Chat, read: NextTokens, images: Sequence[Image]) -> list[Readout]:
    """A readout an image, on the plain path."""
    return read_plain(vlm, [Question(chat, [image]) for image in images], read)
