"""A VLM as a judge: it sees the image and two answers, writes a reason, and ends in a verdict, A or B.

    Reason: A says a red boat, B says a blue boat, the image shows a red boat. Verdict: A

A method brings the pairs and the model, and computes the figures.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from PIL.Image import Image
from pydantic import BaseModel, ConfigDict

from pipeline_lib.errors import RecipeError
from pipeline_lib.progress import Progress

if TYPE_CHECKING:
    from pipeline_lib.vlm.batches import Record
    from pipeline_lib.vlm.generate import Decoding, Generated, Question
    from pipeline_lib.vlm.load import Vlm

FOLDER = Path(__file__).parent / "prompts"

Verdict = Literal["A", "B"]

_PLACEHOLDER = re.compile(r"\{(question|a|b)\}")
_VERDICT = re.compile(
    r"\b(?i:verdict|judge?ment)\b\W{0,4}(?i:answer\W{1,3})?([AB])\b"  # Verdict: A; Judgment: Answer B
    r"|\[\[([AB])\]\]"  # as Multimodal RewardBench asks
    # as VL-RewardBench asks
    r"|\b(?i:answer)\W{0,3}([AB])\W{0,3}(?i:is\W+(?:the\W+)?(?:clearly\W+|slightly\W+|much\W+)?better)\b"
)


class JudgePrompt(BaseModel):
    """The question to a judge: a text with {question}, {a} and {b}."""

    model_config = ConfigDict(frozen=True)

    name: str
    text: str

    def key_fields(self) -> dict[str, Any]:
        """The text alone: a prompt's name changes no verdict."""
        return {"text": self.text}

    def ask(self, question: str, a: str, b: str) -> str:
        """The prompt for two answers; braces in them are plain text."""
        values = {"question": question, "a": a, "b": b}
        return _PLACEHOLDER.sub(lambda found: values[found[1]], self.text)


def load_judge_prompt(name: str) -> JudgePrompt:
    """Read a shipped prompt by its name, or one of the user's own by its path ending in .txt.

    Raises `RecipeError` that lists the shipped prompts, or names the placeholders that the file lacks.
    """
    path = Path(name) if name.endswith(".txt") else FOLDER / f"{name}.txt"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.txt")))
        raise RecipeError(
            f"judge prompt: there is no {name}; shipped are {known}, or give the path of a .txt file of your own"
        )
    text = path.read_text(encoding="utf-8").strip()
    if missing := [tag for tag in ("{question}", "{a}", "{b}") if tag not in text]:
        raise RecipeError(f"judge prompt {path}: the judge would not see {', '.join(missing)}; put it into the text")
    return JudgePrompt(name=path.stem, text=text)


def read_verdict(text: str) -> Verdict | None:
    """The verdict that a judge's answer ends in; None if it has none.

    The last statement of a verdict counts. An answer that praises one side and names no verdict stays without one: it
    is never guessed.
    """
    found = _last_verdict(text)
    return None if found is None else _letter(found)


def _last_verdict(text: str) -> re.Match[str] | None:
    return next(iter(list(_VERDICT.finditer(text))[-1:]), None)


def _letter(found: re.Match[str]) -> Verdict:
    letter = next(group for group in found.groups() if group).upper()
    return "A" if letter == "A" else "B"


class Judged(NamedTuple):
    """A judge's answer about two answers: the prompt as rendered, the text, the verdict (None: unparsable), and the
    probability of A against B at the place where the verdict stands (None where the text has no verdict, or the
    tokenizer has no single token for each letter there)."""

    prompt: str
    text: str
    verdict: Verdict | None
    p_a: float | None
    prompt_tokens: int
    tokens: int
    finished: bool


def judge_answers(
    vlm: "Vlm",
    prompt: JudgePrompt,
    records: "Sequence[Record]",
    open_image: Callable[[str, str], Image],
    *,
    decoding: "Decoding",
    batch_size: int,
    progress: Progress,
    samples: int = 1,
    probabilities: bool = False,
) -> list[list[Judged]]:
    """`samples` answers of the judge to each record, which holds an image (`ask_in_batches`), question, a, b and key.

    The noise of sampled answers follows from `key`. An answer that was cut off at its length limit has no verdict.
    `batch_size` counts answers.
    `probabilities` reads `Judged.p_a` too, in a second pass behind each reason.
    """
    from pipeline_lib.vlm.batches import ask_in_batches
    from pipeline_lib.vlm.chat import render_chat, tokens
    from pipeline_lib.vlm.generate import Question, generate_answers

    chats = [render_chat(vlm.processor, prompt.ask(record["question"], record["a"], record["b"])) for record in records]
    # Prompts of one length are prefilled together, so they belong into one batch.
    lengths = [len(tokens(vlm.processor.tokenizer, chat.prompt)) for chat in chats]
    order = sorted(range(len(chats)), key=lengths.__getitem__)

    def ask(batch: "list[Record]", pictures: list[list[Image]]) -> list[list[Judged]]:
        asked = [
            Question(record["chat"], images, [""] * samples, key=record["key"])
            for record, images in zip(batch, pictures, strict=True)
        ]
        by_question = generate_answers(vlm, asked, decoding).answers
        found = [answer for answers in by_question for answer in answers]
        questions = [question for question in asked for _ in range(samples)]
        verdicts = [_last_verdict(answer.text) if answer.finished else None for answer in found]
        read = _probabilities(vlm, questions, found, verdicts) if probabilities else {}
        judged = [
            Judged(
                question.chat.prompt,
                answer.text.strip(),
                None if verdict is None else _letter(verdict),
                read.get(at),
                answer.prompt_tokens,
                answer.tokens,
                answer.finished,
            )
            for at, (question, answer, verdict) in enumerate(zip(questions, found, verdicts, strict=True))
        ]
        return [judged[at : at + samples] for at in range(0, len(judged), samples)]

    size = max(1, batch_size // samples)
    ordered = [records[at] | {"chat": chats[at]} for at in order]
    found = dict(zip(order, ask_in_batches(vlm.model, ordered, open_image, size, ask, progress), strict=True))
    return [found[at] for at in range(len(records))]


def _probabilities(
    vlm: "Vlm", questions: "list[Question]", answers: "list[Generated]", verdicts: list[re.Match[str] | None]
) -> dict[int, float]:
    """The probability of A against B where each verdict stands, behind its reason."""
    from pipeline_lib.vlm.generate import Greedy, NextTokens, generate_answers

    asked: dict[tuple[int, int], list[int]] = {}
    again: dict[int, Question] = {}
    for at, (question, answer, verdict) in enumerate(zip(questions, answers, verdicts, strict=True)):
        if verdict is None:
            continue
        place = next(verdict.start(group) for group in (1, 2, 3) if verdict[group])
        before = question.chat.prompt + answer.text[:place]
        if found := _letter_tokens(vlm, before):
            text, ids = found
            again[at] = question._replace(chat=question.chat._replace(prompt=text), beginnings=())
            asked.setdefault(ids, []).append(at)
    read: dict[int, float] = {}
    for ids, rows in asked.items():
        once = Greedy(max_new_tokens=1)
        readouts = generate_answers(vlm, [again[at] for at in rows], once, NextTokens("", ids)).readouts
        read |= {at: readout.distribution[0] for at, readout in zip(rows, readouts, strict=True)}
    return read


def _letter_tokens(vlm: "Vlm", before: str) -> tuple[str, tuple[int, int]] | None:
    """The text behind which the tokens of A and B stand, and these tokens; None where they are not one token each."""
    from pipeline_lib.vlm.chat import tokens

    for text in (before, before.rstrip(" ")):  # most tokenizers put the blank into the letter's token
        own = tokens(vlm.processor.tokenizer, text)
        ends = [tokens(vlm.processor.tokenizer, f"{before}{letter}") for letter in ("A", "B")]
        if all(ids[:-1] == own for ids in ends):
            return text, (ends[0][-1], ends[1][-1])
    return None
