"""Readings of a score against the number of validation images, simulated: `python -m bench.readings`.

Each repeat draws a model's digit distributions for validation and 500 test images, fits every reading on validation and
measures SRCC and RMSE on test. The tables are in docs/decisions/0017-monotone-reading.md. Scores have mean 5.5 and
standard deviation 1.3. A constant prediction counts as SRCC 0.

Four kinds of model. *calibrated*: the digit is right but for noise. *biased*: it is squeezed to 3..7.5 and piles up on
3 and 7. *permuted*: biased, and the scores are shuffled. *shape*: the expected digit says nothing, but the better the
image, the more certain the distribution.
"""

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from pipeline_lib.metrics.readings import fit_monotone_values
from pipeline_lib.metrics.scores import fit_reference_values

Array = NDArray[np.float64]
Fit = Callable[[Array, Array, Array], Array]

MODELS = ("calibrated", "biased", "permuted", "shape")
SIZES = (10, 20, 50, 100, 200, 500, 1000)
TEST = 500
WORSE = 0.01  # loss of SRCC that counts


def steps(strength: float) -> Fit:
    """Any non-decreasing values inside the scores' range, by least squares with a ridge toward the bin means.

    Such values are mixtures, with weights of sum 1, of eleven steps from the lowest to the highest score. Least squares
    over mixtures are non-negative least squares with a row of ones, scaled to sum 1 afterwards (Lawson and Hanson,
    Solving Least Squares Problems, chapter 23).
    """

    def fit(p: Array, true: Array, means: Array) -> Array:
        low, high = true.min(), true.max()
        shapes = (np.arange(10)[:, None] >= 10 - np.arange(11)).astype(float)  # column k: the k highest bins
        y, toward = (true - low) / (high - low), (means - low) / (high - low)
        rows = np.concatenate([p @ shapes - y[:, None], np.sqrt(strength) * (shapes - toward[:, None])])
        rows /= np.sqrt(len(p) + strength)
        weights, _ = optimize.nnls(np.vstack([rows, np.ones(11)]), np.append(np.zeros(len(rows)), 1.0))
        return np.asarray(low + (high - low) * (shapes @ (weights / weights.sum())))

    return fit


def affine(strength: float) -> Fit:
    """The bin means moved and stretched, with a ridge toward the bin means."""
    return lambda p, true, means: fit_monotone_values(p, true, means, strength=strength)


READINGS: dict[str, Fit] = {
    "unfitted": lambda p, true, means: means,
    "fitted": lambda p, true, means: fit_reference_values(p, true),
    **{f"steps, ridge {strength:g}": steps(strength) for strength in (0, 1, 10, 100)},
    **{f"affine, ridge {strength:g}": affine(strength) for strength in (0, 1, 3, 10)},
}
"""`affine, ridge 1` is the monotone reading of the library."""


def draw_images(model: str, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Digit distributions, shape (n, 10), and true scores, shape (n,)."""
    quality = rng.normal(size=n)
    seen = 0.8 * quality + 0.6 * rng.normal(size=n)
    digits = np.arange(10.0)
    centre: Array = 9 * stats.norm.cdf(seen)
    width: Array = np.full(n, 1.2)
    liked: Array = np.zeros(10)
    if model in ("biased", "permuted"):
        centre, liked = 3 + centre / 2, np.where(np.isin(digits, (3, 7)), 1.5, 0.0)
    if model == "shape":
        centre, width = 4.5 + 0.5 * rng.normal(size=n), np.exp(0.5 - 0.4 * seen, dtype=np.float64)
    logits = liked - (digits - centre[:, None]) ** 2 / (2 * width[:, None] ** 2) + 0.4 * rng.normal(size=(n, 10))
    if model == "permuted":
        rng.shuffle(quality)
    return special.softmax(logits, axis=1), 5.5 + 1.3 * quality


def bin_means() -> Array:
    """The mean score of each tenth of a normal distribution of scores."""
    edges = stats.norm.ppf(np.linspace(0, 1, 11))
    return np.asarray(5.5 + 1.3 * 10 * -np.diff(stats.norm.pdf(edges)))


def simulate(model: str, size: int, repeats: int, seed: int) -> dict[str, Array]:
    """SRCC and RMSE on test of each reading, shape (repeats, 2); all readings share the images."""
    means = bin_means()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in READINGS}
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, MODELS.index(model), size, repeat])
        p, true = draw_images(model, size, rng)
        test_p, test_true = draw_images(model, TEST, rng)
        for name, fit in READINGS.items():
            predicted = test_p @ fit(p, true, means)
            srcc = stats.spearmanr(test_true, predicted).statistic if np.ptp(predicted) > 1e-9 else 0.0
            found[name].append((srcc, np.sqrt(np.mean((test_true - predicted) ** 2))))
    return {name: np.array(values) for name, values in found.items()}


def main() -> None:
    """Print three tables for each kind of model, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--seed", type=int, default=17)
    options = parser.parse_args()
    for model in MODELS:
        found = {size: simulate(model, size, options.repeats, options.seed) for size in SIZES}
        for at, figure in enumerate(("SRCC", "RMSE")):
            print(f"\n{model}: {figure} on test, median (10 % and 90 % of repeats)\n")
            _print_header()
            for name in READINGS:
                cells = [np.quantile(found[size][name][:, at], [0.5, 0.1, 0.9]) for size in SIZES]
                print(f"| {name} | " + " | ".join(f"{m:.3f} ({a:.2f} {b:.2f})" for m, a, b in cells) + " |")
        print(f"\n{model}: % of repeats with SRCC more than {WORSE} below unfitted / with RMSE below unfitted\n")
        _print_header()
        for name in list(READINGS)[1:]:
            shares = []
            for size in SIZES:
                difference = found[size][name] - found[size]["unfitted"]
                worse, better = (difference[:, 0] < -WORSE).mean(), (difference[:, 1] < 0).mean()
                shares.append(f"{100 * worse:.0f} / {100 * better:.0f}")
            print(f"| {name} | " + " | ".join(shares) + " |")


def _print_header() -> None:
    print(f"| reading | {' | '.join(str(size) for size in SIZES)} |")
    print("| --- " * (len(SIZES) + 1) + "|", flush=True)


if __name__ == "__main__":
    main()
