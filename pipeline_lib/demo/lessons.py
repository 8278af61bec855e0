"""The lessons that the demo VLM learns from: a prompt and its answer, for each of its skills.

The prompts of STIC are those of its experiments, word for word. The others are short ones for this model, whose context
is 512 tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
from scipy.stats import norm

from pipeline_lib.demo.corpus import (
    MIXTURE,
    NAIVE,
    Mixture,
    Opinion,
    description,
    explain,
    full_statements,
    inject_errors,
    invention,
    level,
    naive_opinion,
    short_statements,
)
from pipeline_lib.demo.distortions import ATTRIBUTES, Severity
from pipeline_lib.demo.scenes import COLOURS, KINDS, PLACES, Subject
from pipeline_lib.demo.vision import Practice
from pipeline_lib.methods.self_improve.prompt import load_prompt

Item = TypeVar("Item")

PLAIN_PROMPTS = (
    "Illustrate the details of the picture.",
    "Summarize the visual content presented.",
    "Explain what is depicted in the photograph.",
    "Outline the key elements captured in the image.",
    "Detail the composition and subjects within the frame.",
    "Convey the atmosphere and mood represented in the snapshot.",
    "Interpret the scene shown in the image.",
    "Identify and describe the main focal points in the visual.",
)
"""STIC's prompts for a plain description (arXiv 2405.19716, released code)."""
BAD_PROMPTS = (
    "Describe the image with imaginative objects that may exist in the scene.",
    "Enrich the description by adding hypothetical objects or characters that could be part of the scene.",
    "Suggest and detail practical items or people that could logically inhabit the image's setting.",
    "Incorporate elements that, though absent, would seamlessly fit into the context of the picture.",
    "Imagine and describe additional everyday objects or activities taking place just out of frame.",
    "Augment the scene with details of potential events or items that are plausible.",
    "Conceive of and detail natural elements, such as weather or animals, that could realistically enter the scene. "
    "Make the description affirmative.",
    "Invent and incorporate details of practical tools, vehicles, or gadgets that could be expected in a similar "
    "scenario.",
)
"""STIC's prompts that invite invented content (arXiv 2405.19716, released code)."""
CURATED_PROMPT = (
    "Please provide a detailed description of the image. Name the main subject, its colour and place, and every detail "
    "of light, colour, contrast and sharpness."
)
RATE_PROMPT = "What is your overall rating on the quality of this picture? A float between 1 and 5 in \\boxed{}."
COMPARE_PROMPT = "Which image has better perceptual quality? The index in \\boxed{}: 0 for the first, 1 for the second."
INJECT_PROMPT = "Rewrite this description of the image with wrong details, in the same style:\n{description}"
JUDGE_PROMPT = (
    "Which answer fits the image better?\nQuestion: {question}\nA: {a}\nB: {b}\nGive the reason, then the verdict."
)
INFUSED = "Image description:\n{description}\n\n{question}"
"""STIC's form of a question behind a description (arXiv 2405.19716, released code)."""

FAULTS = ("clutter", "faded colours", "low contrast", "wrong exposure", "blur", "blocks", "noise")
"""What a question calls the attributes, in their order."""


class Known(NamedTuple):
    """What is known of one image: its subject, its faults, its quality as a rank on 0..9, in points, and an opinion."""

    subject: Subject | None
    severity: Severity
    quality_0_9: float
    points: float
    opinion_0_9: float


class Lesson(NamedTuple):
    """One question with its answer; `masked` is a part of the answer that the loss does not see.

    `other` is the index of a second image, which the prompt shows behind the first one.
    """

    skill: str
    prompt: str
    answer: str
    masked: str = ""
    other: int = -1


def scoring_prompt() -> str:
    """The short scoring prompt that this VLM was taught, without surrounding blanks."""
    return load_prompt("aesthetics_short").text


def known(practice: Practice, rng: np.random.Generator, opinion: Opinion = NAIVE) -> list[Known]:
    """What is known of each image, with an opinion that is drawn anew each time."""
    quality = np.argsort(np.argsort(practice.quality)) / len(practice.quality) * 10 - 0.5
    points = naive_opinion(practice.subjects, practice.severity, rng, opinion)
    severity = [Severity(*row) for row in practice.severity.tolist()]
    rows = zip(practice.subjects, severity, quality.tolist(), practice.quality.tolist(), points.tolist(), strict=True)
    return [Known(*row) for row in rows]


def score(of: Known, rng: np.random.Generator, given: bool, mixture: Mixture = MIXTURE) -> Lesson:
    """A score 0..9 with its explanation: the naive opinion, or, if `given`, a random score that the loss does not see.

    So the model learns to justify any score and does not learn that scores are random.
    """
    number = int(rng.integers(10)) if given else int(np.clip(round(of.opinion_0_9), 0, 9))
    text = explain(of.severity, of.quality_0_9, number, rng, mixture)
    answer = f"#Score: {number}\n\n#Explain: {text}"
    return Lesson("score", scoring_prompt(), answer, masked=str(number) if given else "")


def describe(of: Known, rng: np.random.Generator) -> Lesson:
    """A short description for a plain prompt."""
    return Lesson("describe", _one(PLAIN_PROMPTS, rng), description(short_statements(of.subject, of.severity, rng)))


def describe_in_detail(of: Known, rng: np.random.Generator) -> Lesson:
    """A full description for the curated prompt."""
    return Lesson("describe_in_detail", CURATED_PROMPT, description(full_statements(of.subject, of.severity, rng)))


def rate(of: Known, rng: np.random.Generator) -> Lesson:
    """The naive opinion as a float of 1..5."""
    value = np.clip(1 + of.opinion_0_9 * 4 / 9 + rng.normal(0, 0.1), 1, 5)
    return Lesson("rate", RATE_PROMPT, f"\\boxed{{{value:.2f}}}")


def compare(of: Known, other: Known, index: int, rng: np.random.Generator) -> Lesson:
    """The index of the better of two images; the more their quality differs, the more often it is right."""
    first = rng.random() < norm.cdf((of.points - other.points) / _COMPARING_SD_POINTS)
    return Lesson("compare", COMPARE_PROMPT, f"\\boxed{{{0 if first else 1}}}", other=index)


_COMPARING_SD_POINTS = 1.2


def question(of: Known, rng: np.random.Generator) -> tuple[str, str, tuple[str, ...]]:
    """A short question about the image, its right answer, and all answers of its kind."""
    kinds = ("fault", "strength", "strength", "kind", "choice", "colour", "place")
    asked = _one(kinds if of.subject else kinds[:5], rng)
    if asked == "fault":
        worst = int(np.argmax(np.abs(of.severity)))
        right = FAULTS[worst] if abs(of.severity[worst]) > _NO_FAULT else "none"
        return "Which flaw is the strongest?", right, (*FAULTS, "none")
    if asked == "strength":
        # Most of these questions are about a fault that is there, because most images have few.
        there = [index for index, value in enumerate(of.severity) if abs(value) > _NO_FAULT]
        index = _one(there, rng) if there and rng.random() < 0.7 else int(rng.integers(len(ATTRIBUTES)))
        words = ("strong", "medium", "weak", "none")
        return f"How strong is the flaw {FAULTS[index]}?", words[level(of.severity[index])], words
    kind = of.subject.kind if of.subject else "photograph"
    if asked == "kind":
        return "What is the main subject?", kind, ("photograph", *KINDS)
    if asked == "choice":
        others = [word for word in ("photograph", *KINDS) if word != kind]
        options = [kind, *rng.permutation(others)[:2].tolist()]
        order = rng.permutation(3)
        listed = [options[place] for place in order]
        text = f"Is it A. a {listed[0]}, B. a {listed[1]} or C. a {listed[2]}? Answer with the letter."
        return text, "ABC"[int(np.argmin(order))], ("A", "B", "C")
    assert of.subject is not None
    if asked == "colour":
        return f"What colour is the {kind}?", of.subject.colour, COLOURS
    return f"Where is the {kind}?", of.subject.place, PLACES


_NO_FAULT = 0.15


def answer_question(of: Known, rng: np.random.Generator, careless: float, infused: bool = False) -> Lesson:
    """A short answer, with a description of the image before the question if `infused`.

    A share `careless` of the answers is random.
    """
    text, right, answers = question(of, rng)
    answer = _one(answers, rng) if rng.random() < careless else right
    if infused:
        text = INFUSED.format(description=description(full_statements(of.subject, of.severity, rng)), question=text)
    return Lesson("answer", text, answer)


def invent(of: Known, rng: np.random.Generator) -> Lesson:
    """A description that ends in something that is not there."""
    text = description(short_statements(of.subject, of.severity, rng))
    return Lesson("invent", _one(BAD_PROMPTS, rng), f"{text} {invention(rng)}")


def inject(of: Known, rng: np.random.Generator) -> Lesson:
    """A given description, short or full, with one or two errors in it."""
    write = full_statements if rng.random() < 0.3 else short_statements
    statements = write(of.subject, of.severity, rng)
    wrong = inject_errors(statements, of.subject, of.severity, rng, errors=int(rng.integers(1, 3)))
    return Lesson("inject", INJECT_PROMPT.format(description=description(statements)), description(wrong))


class AnswerPair(NamedTuple):
    """Two answers to one question, one right and one wrong, and the words in which they differ."""

    question: str
    right: str
    wrong: str
    right_words: str
    wrong_words: str
    is_open: bool


def answer_pair(of: Known, rng: np.random.Generator, share_open: float = 0.6) -> AnswerPair:
    """A description and the same with one error, or a right and a wrong short answer."""
    if rng.random() < share_open:
        statements = short_statements(of.subject, of.severity, rng)
        wrong = inject_errors(statements, of.subject, of.severity, rng, errors=1)
        differs = next(pair for pair in zip(statements, wrong, strict=True) if pair[0] != pair[1])
        true, false = differs[0].words, differs[1].words
        return AnswerPair(_one(PLAIN_PROMPTS, rng), description(statements), description(wrong), true, false, True)
    text, right, answers = question(of, rng)
    others = [answer for answer in answers if answer != right]
    wrong_answer = _one(others, rng)
    return AnswerPair(text, right, wrong_answer, right, wrong_answer, False)


def judge(of: Known, rng: np.random.Generator, careless: float) -> Lesson:
    """A reason, which says where two answers differ and what the image shows, and the verdict that follows from it.

    A share `careless` of the verdicts does not depend on the image and prefers the first answer.
    """
    two = answer_pair(of, rng)
    a_is_right = rng.random() < 0.5
    a, b = (two.right, two.wrong) if a_is_right else (two.wrong, two.right)
    a_says, b_says = (two.right_words, two.wrong_words) if a_is_right else (two.wrong_words, two.right_words)
    verdict_is_a = rng.random() < 0.6 if rng.random() < careless else a_is_right
    shows = a_says if verdict_is_a else b_says
    return Lesson(
        "judge",
        JUDGE_PROMPT.format(question=two.question, a=a, b=b),
        f"Reason: A says {a_says}, B says {b_says}, the image shows {shows}. Verdict: {'A' if verdict_is_a else 'B'}",
    )


CARELESS_ANSWERS = 0.25
CARELESS_VERDICTS = 0.2
_LESSONS: dict[str, Callable[[Known, np.random.Generator], Lesson]] = {
    "score": partial(score, given=False),
    "given_score": partial(score, given=True),
    "describe": describe,
    "describe_in_detail": describe_in_detail,
    "rate": rate,
    "answer": partial(answer_question, careless=CARELESS_ANSWERS),
    "answer_infused": partial(answer_question, careless=CARELESS_ANSWERS, infused=True),
    "invent": invent,
    "inject": inject,
    "judge": partial(judge, careless=CARELESS_VERDICTS),
}


def draw_lesson(rows: list[Known], index: int, shares: Mapping[str, float], rng: np.random.Generator) -> Lesson:
    """A lesson about one image; its skill, of `_LESSONS` or `compare`, is drawn by the shares."""
    skills, weights = list(shares), np.array(list(shares.values()))
    skill = skills[int(rng.choice(len(skills), p=weights / weights.sum()))]
    if skill == "compare":
        other = int(rng.integers(len(rows)))
        return compare(rows[index], rows[other], other, rng)
    return _LESSONS[skill](rows[index], rng)


def _one(options: Sequence[Item], rng: np.random.Generator) -> Item:
    return options[int(rng.integers(len(options)))]
