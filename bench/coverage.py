"""How often 95 % intervals contain the true figure, by the design of the test set: `python -m bench.coverage`.

A design is a number of groups, images in each, and a group effect: the share of the variance of scores and of the
errors of predictions that images of a group have in common. Scores have variance 1, predictions are scores plus
errors of variance .56, so the true PLCC is .8. `--unequal` prints a second table, for groups of unequal sizes, and
`--ranks` one for SRCC. All are in docs/experiments.md; the threshold in `pipeline_lib/metrics/intervals.py` comes from
them.
"""

import argparse
import itertools
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline_lib.metrics.figures import srcc
from pipeline_lib.metrics.intervals import effective_groups, expanded_percentiles, grouped_estimates

Array = NDArray[np.float64]

GROUPS = (5, 10, 16, 25, 40, 60, 100)
IMAGES = (1, 5, 25, 125)
EFFECTS = (0.0, 0.3)
RANK_GROUPS = (6, 8, 10, 16, 40, 100)
UNEQUAL = {
    "1 of 475, 19 of 25": [475] + [25] * 19,
    "5 of 100, 35 of 5": [100] * 5 + [5] * 35,
    "8 of 60, 12 of 10": [60] * 8 + [10] * 12,
    "10, 20, .. 200": list(range(10, 201, 10)),
}
PLCC = 0.8
KINDS = ("images", "groups", "groups, widened")
OVER_IMAGES = ((16, 125), (40, 25))  # designs where images are resampled too, which takes long


def coverage(groups: int, images: int, effect: float, *, repeats: int, samples: int, seed: int) -> Array:
    """Shares of repeats whose interval contains the true PLCC, and the true mean error 0; shape (3 kinds, 2 figures).

    Kinds: percentiles over resampled images, over resampled groups, and the latter widened (`grouped_estimate`).
    """
    hits = np.zeros((3, 2))
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, groups, images, int(100 * effect), repeat])
        scale = np.sqrt([1, PLCC**-2 - 1])
        common, own = rng.normal(size=(2, groups, 1)), rng.normal(size=(2, groups, images))
        score, error = scale[:, None, None] * (np.sqrt(effect) * common + np.sqrt(1 - effect) * own)
        for kind, ends in enumerate(_ends(score, error, rng, samples)):
            for figure, true in enumerate((PLCC, 0.0)):
                low, high = ends[figure]
                hits[kind, figure] += low <= true <= high
    return hits / repeats


def _ends(score: Array, error: Array, rng: np.random.Generator, samples: int) -> list[list[tuple[float, float]]]:
    of_groups = _figures(*_sums(score, error), rng, samples)
    plain = [_percentiles(values) for values in of_groups]
    widened = [expanded_percentiles(values, len(score), 0.95) for values in of_groups]
    if score.shape not in OVER_IMAGES:
        return [[(np.nan, np.nan)] * 2, plain, widened]
    of_images = _figures(*_sums(score.reshape(-1, 1), error.reshape(-1, 1)), rng, samples)
    return [[_percentiles(values) for values in of_images], plain, widened]


def _percentiles(values: Array) -> tuple[float, float]:
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def _sums(score: Array, error: Array) -> tuple[Array, int]:
    """What PLCC and the mean error follow from, summed in each group, shape (groups, 5)."""
    x, y = score, score + error
    return np.stack([part.sum(axis=1) for part in (x, y, x * x, y * y, x * y)], axis=1), score.shape[1]


def _figures(sums: Array, images: int, rng: np.random.Generator, samples: int) -> tuple[Array, Array]:
    """PLCC and mean error of bootstrap samples of the rows of `sums`, shape (samples,) each."""
    n = len(sums)
    times = rng.multinomial(n, np.full(n, 1 / n), size=samples)
    x, y, xx, yy, xy = (times @ sums).T / (n * images)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (xy - x * y) / np.sqrt((xx - x * x) * (yy - y * y)), y - x


def unequal_coverage(sizes: list[int], effect: float, *, repeats: int, samples: int, seed: int) -> tuple[float, float]:
    """Shares of repeats whose interval contains the true mean error: widened for all groups, for the effective ones."""
    images, effective = np.array(sizes, dtype=np.float64), effective_groups(np.repeat(np.arange(len(sizes)), sizes))
    hits = np.zeros(2)
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, *sizes, int(100 * effect), repeat])
        own = np.sqrt((1 - effect) / images) * rng.normal(size=len(sizes))
        means = np.sqrt(effect) * rng.normal(size=len(sizes)) + own
        times = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=samples)
        spread = (times @ (images * means)) / (times @ images)
        for kind, groups in enumerate((len(sizes), effective)):
            low, high = expanded_percentiles(spread, groups, 0.95)
            hits[kind] += low <= 0.0 <= high
    return float(hits[0] / repeats), float(hits[1] / repeats)


def rank_coverage(
    groups: int, images: int, effect: float, *, repeats: int, samples: int, seed: int
) -> tuple[float, float]:
    """Shares of repeats whose widened interval contains the true SRCC of a continuous and of a ten-bin prediction.

    The true values are those of a million images of the same design.
    """
    hits = np.zeros(2)
    true = _true_srcc()
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, groups, images, int(100 * effect), repeat])
        scale = np.sqrt([1, PLCC**-2 - 1])
        common, own = rng.normal(size=(2, groups, 1)), rng.normal(size=(2, groups, images))
        score, error = scale[:, None, None] * (np.sqrt(effect) * common + np.sqrt(1 - effect) * own)
        score, predicted = score.ravel(), (score + error).ravel()
        figures = {
            name: partial(srcc, score, values)
            for name, values in {"continuous": predicted, "bins": _bins(predicted)}.items()
        }
        names = np.repeat(np.arange(groups), images)
        found = grouped_estimates(figures, groups=names, samples=samples, confidence=0.95, seed=repeat)
        for at, name in enumerate(figures):
            hits[at] += found[name].low <= true[at] <= found[name].high
    return float(hits[0] / repeats), float(hits[1] / repeats)


@cache
def _true_srcc() -> tuple[float, float]:
    rng = np.random.default_rng(0)
    score = rng.normal(size=1_000_000)
    predicted = score + np.sqrt(PLCC**-2 - 1) * rng.normal(size=len(score))
    once = np.ones((1, len(score)))
    return float(srcc(score, predicted, once)[0]), float(srcc(score, _bins(predicted), once)[0])


def _bins(predicted: Array) -> Array:
    """Ten bins of about equal size, as stated digits are."""
    edges = stats.norm.ppf(np.arange(1, 10) / 10) / PLCC
    return np.digitize(predicted, edges).astype(np.float64)


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=800)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--unequal", action="store_true")
    parser.add_argument("--ranks", action="store_true", help="coverage of SRCC, continuous and of ten bins")
    options = parser.parse_args()
    settings = {"repeats": options.repeats, "samples": options.samples, "seed": options.seed}
    if options.ranks:
        print("| groups | images a group | group effect | SRCC, continuous | SRCC, ten bins |\n" + "| --- " * 5 + "|")
        for groups, images, effect in itertools.product(RANK_GROUPS, (1, 5), EFFECTS):
            if images > 1 or effect == 0:
                cells = [_share(share) for share in rank_coverage(groups, images, effect, **settings)]
                print(f"| {groups} | {images} | {effect:g} | {' | '.join(cells)} |", flush=True)
        return
    if options.unequal:
        print("| images of the groups | effective groups | group effect | for all groups | for the effective groups |")
        print("| --- " * 5 + "|")
        for (name, sizes), effect in itertools.product(UNEQUAL.items(), EFFECTS):
            shares = unequal_coverage(sizes, effect, **settings)
            effective = effective_groups(np.repeat(np.arange(len(sizes)), sizes))
            print(f"| {name} | {effective:.1f} | {effect:g} | " + " | ".join(_share(share) for share in shares) + " |")
        return
    print("| groups | images a group | group effect | " + " | ".join(f"PLCC, {kind}" for kind in KINDS), end=" | ")
    print(" | ".join(f"mean error, {kind}" for kind in KINDS) + " |\n" + "| --- " * 9 + "|")
    for groups, images, effect in itertools.product(GROUPS, IMAGES, EFFECTS):
        if images == 1 and effect > 0:
            continue
        found = coverage(groups, images, effect, **settings)
        cells = [f"{groups}", f"{images}", f"{effect:g}", *(_share(share) for share in found.T.flat)]
        if (groups, images) not in OVER_IMAGES:
            cells[3] = cells[6] = "-"
        print("| " + " | ".join(cells) + " |", flush=True)


def _share(share: float) -> str:
    return f"{share:.3f}".removeprefix("0")


if __name__ == "__main__":
    main()
