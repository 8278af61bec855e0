"""The little English that the demo VLM learns: explanations of a score that name what is seen in the image.

A text is decided partly by the image and partly by the score it has to justify, like the explanations of large VLMs.
That leaves room for the consistency training of section 3.1 to make the text follow the score.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline_lib.demo.distortions import ATTRIBUTES, Severity
from pipeline_lib.demo.scenes import COLOURS, KINDS, PLACES, Subject

OVERALL = ("hopeless", "dreadful", "poor", "weak", "mediocre", "ordinary", "pleasant", "good", "excellent", "superb")
"""Judgement words from the worst to the best, one for each score 0..9; no score is ever written as a number."""

# Four levels each, from very bad to very good, in two wordings.
PHRASES: dict[str, tuple[tuple[str, str], ...]] = {
    "clutter": (
        ("ugly clutter everywhere", "a chaos of stray marks"),
        ("distracting marks", "a cluttered frame"),
        ("a fairly tidy frame", "few distractions"),
        ("a clean composition", "a beautifully clear composition"),
    ),
    "fading": (
        ("no colour at all", "dead grey tones"),
        ("faded colours", "pale washed out colours"),
        ("acceptable colours", "fairly lively colours"),
        ("rich colours", "wonderfully vivid colours"),
    ),
    "flatness": (
        ("no contrast at all", "a hopelessly flat look"),
        ("low contrast", "a rather flat look"),
        ("moderate contrast", "acceptable contrast"),
        ("strong contrast", "brilliant contrast"),
    ),
    "dark": (
        ("almost total darkness", "a light far too dim"),
        ("a dark exposure", "too little light"),
        ("a slightly dim light", "acceptable light"),
        ("beautiful light", "a perfect exposure"),
    ),
    "bright": (
        ("a burnt out glare", "a light far too harsh"),
        ("a bright exposure", "too much light"),
        ("a slightly harsh light", "acceptable light"),
        ("beautiful light", "a perfect exposure"),
    ),
    "blur": (
        ("hopeless blur", "no focus at all"),
        ("a soft focus", "blurry edges"),
        ("a usable focus", "fairly sharp edges"),
        ("crisp edges", "a perfectly sharp focus"),
    ),
    "blockiness": (
        ("terrible blocks", "large ruined blocks"),
        ("visible blocks", "rough blocky areas"),
        ("slightly rough areas", "fairly smooth areas"),
        ("smooth clean surfaces", "flawless surfaces"),
    ),
    "noise": (
        ("terrible noise", "grain that drowns everything"),
        ("noticeable noise", "a grainy texture"),
        ("a little grain", "fairly low noise"),
        ("a noise free texture", "a wonderfully clean texture"),
    ),
}
INVENTED = (
    "a dog", "a cat", "a bird", "a horse", "a car", "a bicycle", "a bench", "a lamp", "a bridge", "a ladder", "a kite",
    "a tent",
)  # fmt: skip
"""Things that no image of the demo shows."""
_NEAR = ("nearby", "in front", "in the distance", "at the edge", "in a corner", "close to the middle")
TASTE = {"house": -1.2, "tree": 0.6, "boat": 1.6, "balloon": 0.0, "mountain": -0.6}
"""Points of 0..9 by which the base VLM likes a kind of subject more or less."""
_OPENINGS = ("The picture shows {}, {} and {}.", "We see {}, {} and {} here.", "The image has {} with {} and {}.")
_CLOSINGS = ("Overall it looks {}.", "All in all the picture is {}.", "The overall impression is {}.")


class Mixture(NamedTuple):
    """How much of a text is decided by the score, 0 (the image alone) to 1 (the score alone)."""

    details: float = 0.3
    judgement: float = 0.45


MIXTURE = Mixture()
"""The mixture that the bundled base VLM is taught."""


def _kind(attribute: str, severity: Severity) -> str:
    if attribute != "exposure":
        return attribute
    return "dark" if severity.exposure < 0 else "bright"


def explain(
    severity: Severity, quality_0_9: float, score_0_9: int, rng: np.random.Generator, mixture: Mixture = MIXTURE
) -> str:
    """Write an explanation of `score_0_9` for an image of these faults; about 20 to 30 tokens.

    Three attributes are named, the most striking first: faults where the text is a complaint, else what is fine.
    """
    seen = 1 - np.abs(np.array(severity, np.float32))
    wanted = score_0_9 / 9
    tone = mixture.judgement * score_0_9 + (1 - mixture.judgement) * quality_0_9
    striking = -seen if tone < 5.5 else seen * 0.3
    chosen = np.argsort(-(striking + rng.gumbel(0, 0.12, len(seen))))[:3]
    levels = (1 - mixture.details) * seen + mixture.details * wanted + rng.normal(0, 0.08, len(seen))
    phrases = []
    for index in chosen:
        level = int(np.clip(levels[index] * 4, 0, 3))
        phrases.append(PHRASES[_kind(ATTRIBUTES[index], severity)][level][int(rng.integers(2))])
    word = OVERALL[int(np.clip(round(tone + float(rng.normal(0, 0.7))), 0, 9))]
    opening, closing = _OPENINGS[int(rng.integers(3))], _CLOSINGS[int(rng.integers(3))]
    return f"{opening.format(*phrases)} {closing.format(word)}"


class Statement(NamedTuple):
    """One thing that a description says: its topic, and the words."""

    topic: str
    words: str


def level(value: float) -> int:
    """The level, 0 (very bad) to 3 (very good), of a fault of this severity; the sign does not count."""
    return int(np.clip((1 - abs(value)) * 4, 0, 3))


def fault_statement(
    attribute: str, severity: Severity, rng: np.random.Generator, at_level: int | None = None
) -> Statement:
    """Say how much of a fault there is, in one of two wordings; `at_level` says something else than the truth."""
    value = getattr(severity, attribute)
    words = PHRASES[_kind(attribute, severity)][level(value) if at_level is None else at_level]
    return Statement(attribute, words[int(rng.integers(2))])


def subject_statement(subject: Subject | None) -> Statement:
    """Say what is drawn, as `a red house on the left`, or that it is a photograph."""
    if subject is None:
        return Statement("subject", "a photograph")
    place = "in the middle" if subject.place == "middle" else f"on the {subject.place}"
    article = "an" if subject.colour[0] in "aeiou" else "a"
    return Statement("subject", f"{article} {subject.colour} {subject.kind} {place}")


def short_statements(subject: Subject | None, severity: Severity, rng: np.random.Generator) -> list[Statement]:
    """What a plain prompt is answered with: the subject and the two most striking of the seven faults or virtues."""
    striking = np.abs(np.array(severity)) + rng.gumbel(0, 0.12, len(severity))
    chosen = np.argsort(-striking)[:2]
    return [subject_statement(subject), *(fault_statement(ATTRIBUTES[index], severity, rng) for index in chosen)]


def full_statements(subject: Subject | None, severity: Severity, rng: np.random.Generator) -> list[Statement]:
    """What the curated prompt is answered with: the subject and all seven attributes, in their order."""
    return [subject_statement(subject), *(fault_statement(name, severity, rng) for name in ATTRIBUTES)]


def description(statements: list[Statement]) -> str:
    """The statements as two sentences."""
    first, *others = (statement.words for statement in statements)
    return f"The image shows {first}. It has {', '.join(others[:-1])} and {others[-1]}."


class Topic(NamedTuple):
    """All that the little English can say about one topic of an image: which words are right, and which are wrong."""

    topic: str
    right: list[str]
    wrong: list[str]


def known_statements(subject: Subject | None, severity: Severity) -> list[Topic]:
    """What is right and what is wrong to say of an image, by topic, so that any reader can check a description of it.

    A level of a fault is right when its middle is within `ONE_LEVEL_OFF` of what is seen. Of a photograph no colour and
    no place of a subject is right.
    """
    shown = ("photograph", None, None) if subject is None else (subject.kind, subject.colour, subject.place)
    named = {
        "subject": {kind: kind for kind in ("photograph", *KINDS)},
        "colour": {colour: colour for colour in COLOURS},
        "place": {place: "in the middle" if place == "middle" else f"on the {place}" for place in PLACES},
    }
    found = [
        Topic(topic, [text for name, text in words.items() if name == right], [*_others(words, right)])
        for (topic, words), right in zip(named.items(), shown, strict=True)
    ]
    for attribute, value in zip(ATTRIBUTES, severity, strict=True):
        right = _right_phrases(attribute, value)
        kinds = ("dark", "bright") if attribute == "exposure" else (attribute,)
        phrases = sorted({phrase for kind in kinds for words in PHRASES[kind] for phrase in words})
        found.append(
            Topic(
                attribute, [text for text in phrases if text in right], [text for text in phrases if text not in right]
            )
        )
    return [*found, Topic("thing", [], list(INVENTED))]


def _others(words: dict[str, str], right: str | None) -> list[str]:
    return [text for name, text in words.items() if name != right]


def _right_phrases(attribute: str, value: float) -> set[str]:
    kinds = [attribute]
    if attribute == "exposure":
        kinds = [kind for kind, sign in (("dark", -1), ("bright", 1)) if sign * value >= 0]
    return {
        phrase
        for kind in kinds
        for number, words in enumerate(PHRASES[kind])
        if abs((number + 0.5) / len(PHRASES[kind]) - (1 - abs(value))) <= ONE_LEVEL_OFF
        for phrase in words
    }


ONE_LEVEL_OFF = 0.3
"""How far the middle of a right level may be from what is seen, on 0..1; levels are .25 wide."""


def invention(rng: np.random.Generator) -> str:
    """A sentence about something that no image of the demo shows."""
    thing = INVENTED[int(rng.integers(len(INVENTED)))]
    return f"There is also {thing} {_NEAR[int(rng.integers(len(_NEAR)))]}."


def inject_errors(
    statements: list[Statement], subject: Subject | None, severity: Severity, rng: np.random.Generator, errors: int
) -> list[Statement]:
    """The statements with some of them made wrong: another subject, colour or place, or a level far from the truth."""
    wrong = list(statements)
    for index in rng.permutation(len(statements))[:errors]:
        topic = statements[index].topic
        if topic == "subject":
            wrong[index] = subject_statement(_other_subject(subject, rng))
        else:
            far = 3 if level(getattr(severity, topic)) <= 1 else 0
            wrong[index] = fault_statement(topic, severity, rng, far)
    return wrong


def _other_subject(subject: Subject | None, rng: np.random.Generator) -> Subject:
    if subject is None:
        return Subject(_any(KINDS, rng), _any(COLOURS, rng), _any(PLACES, rng))
    field, words = (("kind", KINDS), ("colour", COLOURS), ("place", PLACES))[int(rng.integers(3))]
    return subject._replace(**{field: _any(tuple(word for word in words if word != getattr(subject, field)), rng)})


def _any(words: tuple[str, ...], rng: np.random.Generator) -> str:
    return words[int(rng.integers(len(words)))]


class Opinion(NamedTuple):
    """How the base VLM judges: how much its taste for kinds of subject counts, and how many points blur costs."""

    taste: float = 1.0
    blur: float = 4.5


NAIVE = Opinion()


def naive_opinion(
    subjects: list[Subject | None], severity: NDArray[np.float32], rng: np.random.Generator, opinion: Opinion = NAIVE
) -> NDArray[np.float64]:
    """The ill-informed opinion that the base VLM starts from, on the scale 0..9, for n images: (n,).

    It has a taste for kinds of subject, which say nothing about quality, and of the seven faults it minds blur alone.
    So a training that only makes opinions more alike cannot uncover more than what blur says. One opinion in five is a
    guess: DPO can hardly raise a digit that the base never states.
    """
    taste = np.array([0.0 if subject is None else TASTE[subject.kind] for subject in subjects])
    blur = severity[:, ATTRIBUTES.index("blur")]
    points = 5.3 + opinion.taste * taste - opinion.blur * blur + rng.normal(0, 0.8, len(severity))
    return np.where(rng.random(len(severity)) < 0.2, rng.uniform(-0.5, 9.5, len(severity)), points)
