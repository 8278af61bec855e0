"""What the paper's fitted SRCC says of runs that learnt nothing: `python -m bench.protocol --store STORE RUN RUN ..`.

Each run needs its control (`whyscore control`, or `whyscore seeds --controls`). For several numbers of validation
images, drawn many times, reference values are fitted anew, and SRCC on test is measured: zero-shot, final model, and
final model of the control, by the fitted, the monotone and the unfitted reading. Nothing is trained, no model is asked.
The table is in docs/paper-protocol.md.
"""

import argparse
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline_lib.errors import StoreError
from pipeline_lib.metrics.figures import once, srcc
from pipeline_lib.metrics.readings import fit_monotone_values
from pipeline_lib.metrics.scores import fit_reference_values
from pipeline_lib.store import ArtifactStore
from pipeline_lib.store.runs import RunFolder, control_name, read_run

Array = NDArray[np.float64]

SIZES = (20, 50, 100, 200, 500)
READINGS = ("fitted", "monotone", "unfitted")


class Answers(NamedTuple):
    """Digit distributions and true scores of a model on validation and on test."""

    val: Array  # (n, 10)
    val_true: Array
    test: Array
    test_true: Array


class Gains(NamedTuple):
    """SRCC on test of final less zero-shot, for the run and for its control, one value a draw of validation images."""

    run: Array
    control: Array


def gains(
    zero_shot: Answers, final: Answers, control: Answers, means: Array, reading: str, draws: NDArray[np.int64]
) -> Gains:
    """The gains of a run and of its control; `draws` has shape (repeats, size): rows of the validation images."""

    def measured(model: Answers, rows: NDArray[np.int64]) -> float:
        p, true = model.val[rows], model.val_true[rows]
        values = {
            "fitted": lambda: fit_reference_values(p, true),
            "monotone": lambda: fit_monotone_values(p, true, means),
            "unfitted": lambda: means,
        }[reading]()
        return float(srcc(model.test_true, model.test @ values, once(len(model.test)))[0])

    found = np.array([[measured(model, rows) for model in (zero_shot, final, control)] for rows in draws])
    return Gains(found[:, 1] - found[:, 0], found[:, 2] - found[:, 0])


def _answers(store: ArtifactStore, run: RunFolder, last: bool) -> tuple[Answers, Array]:
    if (ends := run.ends()) is None:
        raise StoreError(f"run {run.name} has no evaluated models")
    ref = run.find(ends[last].role("predictions"))
    if ref is None:
        raise StoreError(f"run {run.name} has no predictions of {ends[last].name}")
    table = store.read_table(ref.address, "predictions")
    p = np.array(table["score_distribution"].to_pylist())
    true, split = table["score"].to_numpy(), np.array(table["split"].to_pylist())
    means = store.read_table(ref.address, "reference_values")["unfitted"].to_numpy()
    return Answers(p[split == "val"], true[split == "val"], p[split == "test"], true[split == "test"]), means


def main() -> None:
    """Print a row for each run, reading and number of validation images, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="names of runs that have a control")
    parser.add_argument("--store", default="whyscore-data/store")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    store = ArtifactStore(options.store)
    print("| run | reading |" + "".join(f" {size} |" for size in SIZES) + "\n| --- | --- |" + " --- |" * len(SIZES))
    for name in options.runs:
        run, control = read_run(store, name), read_run(store, control_name(name))
        if run is None or control is None:
            raise StoreError(f"{options.store} has no run {name} with a control; make it with `whyscore control`")
        (zero_shot, means), (final, _), (permuted, _) = (
            _answers(store, folder, last) for folder, last in ((run, False), (run, True), (control, True))
        )
        for reading in READINGS:
            cells = []
            for size in SIZES:
                rng = np.random.default_rng([options.seed, size])
                draws = np.stack([rng.permutation(len(zero_shot.val))[:size] for _ in range(options.repeats)])
                found = gains(zero_shot, final, permuted, means, reading, draws)
                cells.append(f"{_gain(found.run)} / {_gain(found.control)}")
            print(f"| {name} | {reading} | " + " | ".join(cells) + " |", flush=True)


def _gain(values: Array) -> str:
    return f"{np.median(values):+.3f}".replace("0.", ".", 1)


if __name__ == "__main__":
    main()
