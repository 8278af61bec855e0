"""Time and memory of what works on tables alone, against the number of images: `python -m bench.growth`.

1,000, 10,000 and 100,000 invented rows, images of 16 x 16 pixels. Each part runs in a process of its own on files that
another one wrote, so that its peak memory is its own; the time is CPU seconds of the part
(so that a busy machine disturbs less), without imports. The last column
is the exponent of the growth from the rows before: 1 is linear.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bench.results import add_rows

ROWS = (1_000, 10_000, 100_000)
LIMIT_MB = 2_000
GRADES = ("blurred and badly lit", "plain but acceptable", "sharp, balanced and vivid")
HEADER = ["part", "rows", "CPU seconds", "rows a second", "peak memory, MB", "of it before the part, MB", "exponent"]


def write(folder: Path, rows: int) -> None:
    """Images, their table, score pairs, and the answers of a model that is neither good nor bad."""
    from pipeline_lib.methods.self_improve.bins import assign_bins, bins_table, fit_bins

    rng = np.random.default_rng(rows)
    scores = np.clip(rng.normal(5.4, 0.9, rows), 1, 10).round(3)
    splits = rng.choice(["train", "val", "test"], rows, p=[0.8, 0.1, 0.1])
    train = splits == "train"
    names = [f"{at // 1000:03d}/{at:06d}.png" for at in range(rows)]
    for at, name in enumerate(names):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), at % 251, np.uint8)).save(path)
    table = pa.table({"image": names, "score": scores, "split": splits})
    pq.write_table(table, folder / "images" / "scores.parquet")

    fitted = fit_bins(scores[train])
    bins = assign_bins(scores, fitted.edges)
    pq.write_table(bins_table(fitted, bins[train]), folder / "bins.parquet")
    digests = [f"{at:064x}" for at in range(rows)]

    def texts(stated: np.ndarray) -> list[str]:
        words = rng.integers(0, 1000, (rows, 12)).tolist()
        return [
            f"The photograph is {GRADES[min(score // 4, 2)]}; it has " + ", ".join(f"trait{word}" for word in found)
            for score, found in zip(stated.tolist(), words, strict=True)
        ]

    stated = np.clip(bins + rng.integers(-2, 3, rows), 0, 9)
    wrong = (bins + 5) % 10
    sides = {
        side: [f"#Score: {score}\n\n#Explain: {text}" for score, text in zip(of.tolist(), texts(of), strict=True)]
        for side, of in (("chosen", bins), ("rejected", wrong))
    }
    of_pairs: dict[str, Any] = {"image": names, "image_sha256": digests, "prompt": ["Rate it."] * rows, **sides}
    of_pairs |= {"true_score": pa.array(bins, pa.int8()), "wrong_score": pa.array(wrong, pa.int8())}
    of_pairs |= {name: pa.array([40] * rows, pa.int32()) for name in ("prompt_tokens", "chosen_tokens")}
    of_pairs |= {"rejected_tokens": pa.array([40] * rows, pa.int32())}
    of_pairs |= {f"{side}_finished": [True] * rows for side in sides}
    pq.write_table(pa.table(of_pairs), folder / "score_pairs.parquet")

    weights = np.exp(-0.5 * ((np.arange(10) - stated[:, None]) / 1.2) ** 2) + 1e-4
    distribution = pa.FixedSizeListArray.from_arrays(pa.array((weights / weights.sum(1, keepdims=True)).ravel()), 10)
    explanations = texts(stated)
    answers: dict[str, Any] = {"image": names, "image_sha256": digests, "score": scores}
    answers |= {"split": ["val", "test"] * (rows // 2)}
    answers |= {"bin": pa.array(bins, pa.int8()), "score_distribution": distribution, "digit_mass": [0.99] * rows}
    answers |= {"text": explanations, "text_tokens": pa.array([40] * rows, pa.int32()), "parsed": [True] * rows}
    answers |= {"stated_score": pa.array(stated, pa.int8()), "explanation": explanations}
    pq.write_table(pa.table(answers), folder / "answers.parquet")


def discretize(folder: Path) -> Callable[[], object]:
    """Read the table, open every image, fit the bins."""
    from pipeline_lib.config.base import Data
    from pipeline_lib.data.table import read_image_list
    from pipeline_lib.methods.self_improve.discretize import discretize_scores

    data = Data(table=str(folder / "images" / "scores.parquet"))
    return lambda: discretize_scores(read_image_list(data, 0), 0.0, 100.0)


def swap(folder: Path) -> Callable[[], object]:
    """Consistency pairs of 30 % of the score pairs."""
    from pipeline_lib.methods.self_improve.swap import make_consistency_pairs

    pairs = pq.read_table(folder / "score_pairs.parquet")
    return lambda: make_consistency_pairs(pairs, 0.3, 0, 1)


def answers_images(answers: pa.Table) -> pa.Table:
    """The images of some answers, each a group of its own."""
    return pa.table({"image": answers["image"], "group": answers["image"]})


def evaluate(folder: Path) -> Callable[[], object]:
    """Reference values, metrics and 1,000 bootstrap resamples of half the rows on validation and half on test."""
    from pipeline_lib.methods.self_improve.evaluation import evaluate_answers
    from pipeline_lib.methods.self_improve.recipe import Evaluation

    answers, bins = pq.read_table(folder / "answers.parquet"), pq.read_table(folder / "bins.parquet")
    return lambda: evaluate_answers(answers, answers_images(answers), ("val", "test"), bins, Evaluation(), 0)


def report(folder: Path) -> Callable[[], object]:
    """The page of a run of four models, whose predictions and verdicts are read from disk as in the stage."""
    from pipeline_lib.methods.self_improve.evaluation import evaluate_answers
    from pipeline_lib.methods.self_improve.judge_metrics import judge_metrics
    from pipeline_lib.methods.self_improve.prompt import load_prompt
    from pipeline_lib.methods.self_improve.recipe import Evaluation, SelfImproveRecipe
    from pipeline_lib.methods.self_improve.report.contents import Judged, ModelResults, RunResults
    from pipeline_lib.methods.self_improve.report.differences import differences
    from pipeline_lib.methods.self_improve.report.page import render_report
    from pipeline_lib.methods.self_improve.round_trip import fit_judge, judge_predictions, load_judge

    bins = pq.read_table(folder / "bins.parquet")
    fields = {"name": "growth", "iterations": 2, "data": {"table": "scores.csv"}, "model": {"id": "bundled"}}
    recipe = SelfImproveRecipe.model_validate(fields)
    if not (folder / "verdicts.parquet").exists():  # by a process before, whose memory is not counted
        few = Evaluation(bootstrap_samples=100)
        answers = pq.read_table(folder / "answers.parquet")
        found = evaluate_answers(answers, answers_images(answers), ("val", "test"), bins, few, 0)
        judge = fit_judge(pq.read_table(folder / "score_pairs.parquet").slice(0, 1000), 0.2, 0)
        verdicts = judge_predictions(load_judge(judge.terms), found.predictions)
        tables = {"predictions": found.predictions, "metrics": found.metrics, "values": found.reference_values}
        tables |= {"holdout": judge.holdout, "judged": judge_metrics(verdicts, few, 0), "verdicts": verdicts}
        for name, table in tables.items():
            pq.write_table(table, folder / f"{name}.parquet")

    def load(name: str) -> pa.Table:
        return pq.read_table(folder / f"{name}.parquet")

    def work() -> str:
        predictions = load("predictions")
        rows = predictions.num_rows
        images = predictions.select(["image", "image_sha256", "score", "bin", "split"])
        for name, value in (("width_px", 16), ("height_px", 16)):
            images = images.append_column(name, pa.array([value] * rows, pa.int32()))
        kinds = ((0, "zero-shot"), (1, "score"), (2, "score"), (2, "merged"))
        models = [
            ModelResults(
                iteration, kind, load("predictions"), load("values"), load("metrics"),  # type: ignore[arg-type]
                Judged(load("verdicts"), load("judged")), None, None,
            )
            for iteration, kind in kinds
        ]  # fmt: skip
        unreadable = pa.table({"image": pa.array([], pa.string()), "reason": pa.array([], pa.string())})
        changes = differences(models, recipe.evaluation, 0)
        results = RunResults(
            recipe, load_prompt(recipe.prompt), "growth", images, bins, unreadable, load("holdout"), models, changes
        )
        return render_report(results, lambda image, digest: Image.new("RGB", (16, 16)))

    return work


PARTS = {part.__name__: part for part in (discretize, swap, evaluate, report)}


def _memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _measure(part: str, folder: Path) -> None:
    """In a process of its own: prints seconds, peak memory, and the peak before the part began."""
    work = PARTS[part](folder)
    before, start = _memory_mb(), time.process_time()
    work()
    print(json.dumps([time.process_time() - start, _memory_mb(), before]))


def _child(*arguments: str) -> str:
    command = [sys.executable, "-m", "bench.growth", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """The command line; a child process is told its part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--child", nargs=2, metavar=("PART", "FOLDER"))
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    if options.child:
        return _measure(options.child[0], Path(options.child[1]))
    if options.write:
        return write(options.write, options.rows[0])
    table: list[list[str]] = []
    earlier: dict[str, tuple[int, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for rows in options.rows:
            folder = Path(scratch) / str(rows)
            folder.mkdir()
            _child("--rows", str(rows), "--write", str(folder))
            _child("--child", "report", str(folder))  # writes what it reads when it is measured
            for part in PARTS:
                seconds, peak, before = json.loads(_child("--child", part, str(folder)))
                exponent = ""
                if part in earlier:
                    fewer, faster = earlier[part]
                    exponent = f"{math.log(seconds / faster) / math.log(rows / fewer):.2f}"
                earlier[part] = rows, seconds
                over = "**" if peak > LIMIT_MB else ""
                figures = [f"{seconds:.2f}", f"{rows / seconds:,.0f}", f"{over}{peak:,.0f}{over}", f"{before:,.0f}"]
                table.append([part, f"{rows:,}", *figures, exponent])
                print(" | ".join(table[-1]), flush=True)
    add_rows("Growth with the number of images", HEADER, sorted(table, key=lambda row: list(PARTS).index(row[0])))
    return None


if __name__ == "__main__":
    main()
