"""The little English that the demo VLM learns: explanations of a score that name what is seen in the picture.

A text is decided partly by the picture and partly by the score it has to justify, like the explanations of large VLMs.
That leaves room for the consistency training of section 3.1 to make the text follow the score.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline_lib.demo.distortions import ATTRIBUTES, Severity

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
_OPENINGS = ("The picture shows {}, {} and {}.", "We see {}, {} and {} here.", "The image has {} with {} and {}.")
_CLOSINGS = ("Overall it looks {}.", "All in all the picture is {}.", "The overall impression is {}.")


class Mixture(NamedTuple):
    """How much of a text is decided by the score, 0 (the picture alone) to 1 (the score alone)."""

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
    """Write an explanation of `score_0_9` for a picture of these faults; about 20 to 30 tokens.

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


def describe(severity: Severity, rng: np.random.Generator) -> str:
    """Name every attribute as it is, with no judgement: the practice that teaches the language model to look."""
    parts = []
    for attribute, value in zip(ATTRIBUTES, severity, strict=True):
        level = int(np.clip((1 - abs(value)) * 4, 0, 3))
        parts.append(PHRASES[_kind(attribute, severity)][level][int(rng.integers(2))])
    return "The picture shows " + ", ".join(parts) + "."


def naive_scores(severity: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.int64]:
    """The ill-informed opinion that the base VLM starts from, for n pictures: (n, 7) severities to (n,) scores 0..9.

    It likes bright and colourful pictures, and sees little wrong with blur, noise or blocks. One opinion in five is a
    mere guess, so that no digit is ever out of reach: DPO can hardly raise what the base never says.
    """
    column = {name: severity[:, index] for index, name in enumerate(ATTRIBUTES)}
    opinion = (
        6.0 - 2.2 * column["fading"] - 2.0 * column["flatness"] + 2.0 * column["exposure"] + 0.4 * column["clutter"]
    )
    rounded = np.clip(np.round(opinion + rng.normal(0, 1.3, len(severity))), 0, 9).astype(np.int64)
    guesses = rng.integers(0, 10, len(severity), dtype=np.int64)
    is_guess = rng.random(len(severity)) < 0.2
    return np.where(is_guess, guesses, rounded)
