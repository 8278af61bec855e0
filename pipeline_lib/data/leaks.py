"""Leaks: validation and test images whose file is also one of another split, so that figures look too good."""

from collections.abc import Sequence

from pipeline_lib.errors import DataError

MOST_COPIES = 0.01
"""A run that does not look for near-duplicates allows this share of copies; large data sets have some."""

_SHOWN = 3


def leaked(digests: Sequence[str], splits: Sequence[str]) -> list[tuple[int, int]]:
    """Each validation and test image whose content another split has too, with the first such image, by place.

    An empty digest is an unreadable image.
    """
    first: dict[str, dict[str, int]] = {}
    for place, (digest, split) in enumerate(zip(digests, splits, strict=True)):
        if digest:
            first.setdefault(digest, {}).setdefault(split, place)
    pairs = []
    for place, (digest, split) in enumerate(zip(digests, splits, strict=True)):
        others = [at for other, at in first.get(digest, {}).items() if other != split]
        if split in ("val", "test") and others:
            pairs.append((place, others[0]))
    return pairs


def too_many_leaks(images: Sequence[str], digests: Sequence[str], splits: Sequence[str], most: float | None) -> str:
    """The problem in a sentence when more than the share `most` of validation and test is a copy; else empty.

    None is `MOST_COPIES`.
    """
    limit = MOST_COPIES if most is None else most
    pairs = leaked(digests, splits)
    count = sum(split in ("val", "test") for split in splits)
    if len(pairs) <= limit * count:
        return ""
    shown = ", ".join(
        f"{images[one]} ({splits[one]}) = {images[other]} ({splits[other]})" for one, other in pairs[:_SHOWN]
    )
    more = f" and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
    allowed = "" if most is None else " (data.max_near_duplicate_fraction)"
    return (
        f"{len(pairs)} of {count} validation and test images are copies of images of another split, so figures would"
        f" look too good; {100 * limit:.3g} % are allowed{allowed}: {shown}{more}. Put copies into one group"
        " (data.group_column) or remove them, or set data.max_near_duplicate_fraction to the share that you accept"
    )


def refuse_leaks(images: Sequence[str], digests: Sequence[str], splits: Sequence[str], most: float | None) -> None:
    """Raise `DataError` when more than the share `most` of validation and test is a copy of another split's image."""
    if problem := too_many_leaks(images, digests, splits, most):
        raise DataError(problem)
