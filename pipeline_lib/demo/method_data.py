"""Write what the methods without scores need: images with variants, questions with answers, pairs of answers.

Ordinary files and tables, as anybody's own data. All of it is drawn by the module that draws the demo data set, from
streams of its own, and knows what each image shows.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_lib.demo.corpus import known_statements
from pipeline_lib.demo.dataset import SPLITS, DrawnImage, draw_image, draw_source, save, write_whole
from pipeline_lib.demo.distortions import ATTRIBUTES, FAULTLESS, distort
from pipeline_lib.demo.lessons import Known, answer_pair, question
from pipeline_lib.demo.raters import quality_points

_UNLABELLED, _QUESTIONS, _PAIRS = 2003, 3001, 4001
"""Separate the random streams of the three kinds of data from each other and from those of the data set."""
LEVELS = (0.2, 0.4, 0.6, 0.8, 1.0)


def write_unlabelled(folder: Path, seed: int, images: int = 600, variants: int = 3) -> Path:
    """Write images without any score, some of them variants of one source, and return the path of `images.csv`.

        image,split,group,source,fault,severity
        images/00000.jpg,train,scene:00000,00000,,
        images/00000-blur-0.6.jpg,train,scene:00000,00000,blur,0.6

    The first image of a source has random faults, as those of the data set; each variant has one fault, of one of five
    severities, on the same scene or crop without faults. Same arguments, same bytes.
    """
    made_by = {"kind": "unlabelled", "format": 1, "seed": seed, "images": images, "variants": variants}

    def write(attempt: Path) -> None:
        (attempt / "images").mkdir()
        with (attempt / "images.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["image", "split", "group", "source", "fault", "severity"])
            for index in range(images):
                name, stream = f"{index:05d}", [seed, _UNLABELLED, index]
                drawn = draw_image(np.random.default_rng(stream), "train", name)
                save(drawn.pixels, attempt / f"images/{name}.jpg")
                writer.writerow([f"images/{name}.jpg", "train", drawn.group, name, "", ""])
                clean = draw_source(np.random.default_rng(stream), "train", name)
                rng = np.random.default_rng([*stream, 1])
                choices = [(fault, level) for fault in ATTRIBUTES for level in LEVELS]
                for chosen in sorted(rng.choice(len(choices), variants, replace=False).tolist()):
                    fault, level = choices[chosen]
                    signed = level * (-1 if fault == "exposure" and rng.random() < 0.5 else 1)
                    severity = FAULTLESS._replace(**{fault: signed})
                    path = f"images/{name}-{fault}-{level}.jpg"
                    save(distort(clean.pixels, severity, rng), attempt / path)
                    writer.writerow([path, "train", drawn.group, name, fault, signed])

    write_whole(folder, made_by, write)
    return folder / "images.csv"


def write_questions(folder: Path, seed: int, train: int = 600, val: int = 200, test: int = 300) -> Path:
    """Write images with two questions each, and return the path of `questions.jsonl`.

    A line has `image`, `split`, `group`, `question`, `answer`, `choices` (all answers of its kind) and `shows` (the
    kinds of subject that are in the image). A line of validation or test also has `statements`: by topic, what is right
    and what is wrong to say in a description of the image. Same arguments, same bytes.
    """
    counts = {"train": train, "val": val, "test": test}

    def lines(attempt: Path) -> Iterator[dict[str, Any]]:
        for split, drawn, of, name in _images(seed, _QUESTIONS, counts):
            save(drawn.pixels, attempt / name)
            rng = np.random.default_rng([seed, _QUESTIONS, SPLITS.index(split), int(name[-9:-4]), 1])
            for _ in range(2):
                text, right, answers = question(of, rng)
                line: dict[str, Any] = {"image": name, "split": split, "group": drawn.group}
                line |= {"question": text, "answer": right}
                line |= {"choices": list(answers), "shows": [drawn.subject.kind] if drawn.subject else []}
                if split != "train":
                    line["statements"] = [topic._asdict() for topic in known_statements(drawn.subject, drawn.severity)]
                yield line

    return _write_lines(folder, "questions", {"seed": seed, **counts}, lines, version=2)


def write_answer_pairs(folder: Path, seed: int, count: int = 400) -> Path:
    """Write held-out pairs of answers of which it is known which is right, and return the path of `answer_pairs.jsonl`.

    A line has `image`, `split`, `group`, `question`, `answer_a`, `answer_b`, `better` (`A` or `B`) and `dimension`:
    `description` or `short answer`. The images are of the test split. Same arguments, same bytes.
    """

    def lines(attempt: Path) -> Iterator[dict[str, Any]]:
        for split, drawn, of, name in _images(seed, _PAIRS, {"test": count}):
            save(drawn.pixels, attempt / name)
            rng = np.random.default_rng([seed, _PAIRS, int(name[-9:-4]), 1])
            two = answer_pair(of, rng)
            a_is_right = bool(rng.random() < 0.5)
            line = {"image": name, "split": split, "group": drawn.group, "question": two.question}
            answers = (two.right, two.wrong) if a_is_right else (two.wrong, two.right)
            dimension = "description" if two.is_open else "short answer"
            yield line | {
                "answer_a": answers[0], "answer_b": answers[1], "better": "A" if a_is_right else "B",
                "dimension": dimension,
            }  # fmt: skip

    return _write_lines(folder, "answer_pairs", {"seed": seed, "count": count}, lines)


def _images(seed: int, stream: int, counts: dict[str, int]) -> Iterator[tuple[str, DrawnImage, Known, str]]:
    for split, count in counts.items():
        for index in range(count):
            drawn = draw_image(
                np.random.default_rng([seed, stream, SPLITS.index(split), index]), split, f"{split}-{index:05d}"
            )
            of = Known(drawn.subject, drawn.severity, 0.0, quality_points(drawn.severity), 0.0)
            yield split, drawn, of, f"images/{split}-{index:05d}.jpg"


def _write_lines(folder: Path, name: str, asked: dict[str, int], lines: Any, version: int = 1) -> Path:
    def write(attempt: Path) -> None:
        (attempt / "images").mkdir()
        with (attempt / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines(attempt))

    write_whole(folder, {"kind": name, "format": version, **asked}, write)
    return folder / f"{name}.jsonl"
