"""A survey as text for a terminal."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from pipeline_lib.checks.survey import Survey, crosses_splits, duplicates, histogram
from pipeline_lib.config.base import SPLITS
from pipeline_lib.data.leaks import leaked
from pipeline_lib.data.near_duplicates import BITS, pair_text, share_of_evaluated

_SHOWN = 20
_BAR = 48


def render_survey(survey: Survey) -> str:
    """Counts, histogram, the method's own lines, images, duplicates, near-duplicates and problems, in that order."""
    parts = [
        *(_counts(survey), _scores(survey), *map(iter, survey.more), _images(survey)),
        *(_duplicates(survey), _near_duplicates(survey), _verdict(survey)),
    ]
    return "\n\n".join("\n".join(lines) for part in parts if (lines := list(part)))


def render_surveys(surveys: Sequence[tuple[str, Survey]]) -> str:
    """The surveys of several tables, each below its title; an empty title stands for the only table."""
    texts = [(f"== {title} ==\n" if title else "") + render_survey(survey) for title, survey in surveys]
    return "\n\n\n".join(texts)


def render_unreadable(survey: Survey) -> str:
    """A line for every missing or unreadable image: name, tab, reason."""
    return "".join(f"{row['image']}\t{row['reason']}\n" for row in survey.unreadable.to_pylist())


def _counts(survey: Survey) -> Iterator[str]:
    rows = survey.rows
    counts = Counter(rows["split"])
    splits = [f"{counts[split]} {split}" for split in SPLITS]
    other = sum(count for split, count in counts.items() if split not in SPLITS)
    yield f"rows    {len(rows)}: {', '.join(splits)}" + (f", {other} in no split" if other else "")
    groups = rows["group"].nunique()
    yield f"groups  {groups}" + (" (each image its own)" if groups == len(rows) else "")
    more = [name for name in rows.columns if name not in ("image", "score", "split", "group")]
    yield f"further columns  {', '.join(more) if more else 'none'}"
    yield from (f"note    {note}" for note in survey.notes)


def _scores(survey: Survey) -> Iterator[str]:
    if "score" not in survey.rows:
        return
    scores = survey.rows["score"].to_numpy(np.float64)
    bars = histogram(scores)
    if not bars:
        yield "scores  none is usable"
        return
    usable = scores[np.isfinite(scores)]
    facts = {"mean": usable.mean(), "sd": usable.std(), "min": usable.min(), "median": np.median(usable)}
    facts["max"] = usable.max()
    values = f"{len(np.unique(usable))} distinct value(s)"
    yield f"scores  {', '.join(f'{name} {value:.4g}' for name, value in facts.items())}; {values}"
    ends = [(f"{bar.low:g}", f"{bar.high:g}") for bar in bars]
    width = max(len(text) for pair in ends for text in pair)
    most = max(bar.images for bar in bars)
    for bar, (low, high) in zip(bars, ends, strict=True):
        length = -(-bar.images * _BAR // most)  # rounded up: one image is seen
        yield f"  {low:>{width}} .. {high:>{width}}  {'#' * length:<{_BAR}} {bar.images}"


def _images(survey: Survey) -> Iterator[str]:
    read = [fact for fact in survey.facts if not fact.problem]
    missing = survey.unreadable
    yield f"images  {len(read)} readable, {missing.num_rows} missing or unreadable"
    if read:
        for name, sides in (
            ("longest side", [max(fact.width_px, fact.height_px) for fact in read]),
            ("shortest side", [min(fact.width_px, fact.height_px) for fact in read]),
        ):
            yield f"  {name}: min {min(sides)}, median {np.median(sides):.0f}, max {max(sides)} px"
        formats = Counter(fact.format for fact in read).most_common()
        yield f"  formats: {', '.join(f'{count} {name}' for name, count in formats)}"
    yield from (f"  {row['image']}: {row['reason']}" for row in missing.slice(0, _SHOWN).to_pylist())
    if missing.num_rows > _SHOWN:
        yield f"  .. and {missing.num_rows - _SHOWN} more"


def _duplicates(survey: Survey) -> Iterator[str]:
    found = duplicates(survey.rows, survey.facts)
    leaks = [duplicate for duplicate in found if crosses_splits(duplicate)]
    if not found:
        yield "duplicates  none: all readable images differ in content"
        return
    yield f"duplicates  {len(found)} image(s) have more than one name"
    if leaks:
        yield f"  LEAK: {len(leaks)} of them in more than one split, so figures look too good; group or remove them"
    for duplicate in sorted(found, key=crosses_splits, reverse=True)[:_SHOWN]:
        scores = [f", score {score:g}" for score in duplicate.scores] or [""] * len(duplicate.images)
        seen = zip(duplicate.images, duplicate.splits, scores, strict=True)
        yield "  " + " = ".join(f"{image} ({split or 'no split'}{score})" for image, split, score in seen)
    if len(found) > _SHOWN:
        yield f"  .. and {len(found) - _SHOWN} more"


def _near_duplicates(survey: Survey) -> Iterator[str]:
    rule = f"hashes at most {survey.near_bits} of {BITS} bits apart and alike in brightness, in any orientation"
    if not survey.near:
        yield f"near-duplicates  none between splits ({rule})"
        return
    images, splits = list(survey.rows["image"]), list(survey.rows["split"])
    share = share_of_evaluated(survey.near, splits)
    yield f"near-duplicates  {len(survey.near)} pair(s) between splits ({rule})"
    yield f"  {100 * share:.3g} % of the validation and test images are in a pair; group or remove them"
    for pair in sorted(survey.near, key=lambda pair: -pair.correlation)[:_SHOWN]:
        yield "  " + pair_text(pair, images, splits)
    if len(survey.near) > _SHOWN:
        yield f"  .. and {len(survey.near) - _SHOWN} more"


def _verdict(survey: Survey) -> Iterator[str]:
    if not survey.problems:
        leaks = len(leaked([fact.sha256 for fact in survey.facts], list(survey.rows["split"])))
        near = len({place for pair in survey.near for place in pair[:2]})
        rest = [f"{leaks} validation and test image(s) that are copies"] if leaks else []
        rest += [f"{near} near-duplicate(s) between splits"] if near else []
        yield f"Nothing that stops a run; look at the {' and the '.join(rest)}." if rest else "No problem found."
        return
    yield f"{len(survey.problems)} problem(s), a run would be refused:"
    yield from (f"  {problem}" for problem in survey.problems)
