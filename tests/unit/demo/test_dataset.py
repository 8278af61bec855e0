"""The demo data: the same bytes each time, splits that share no source, scores that follow the faults."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from pipeline_lib.demo.dataset import write_dataset
from pipeline_lib.demo.distortions import ATTRIBUTES, Severity, distort
from pipeline_lib.demo.photographs import PHOTOGRAPHS, photograph
from pipeline_lib.demo.raters import mean_score, quality_points, rater_habits
from pipeline_lib.demo.scenes import scene
from pipeline_lib.errors import DataError

NONE = Severity(*[0.0] * len(ATTRIBUTES))


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        write_dataset(tmp_path / name, seed, train=12, val=6, test=6)
    assert _digests(tmp_path / "a") == _digests(tmp_path / "b")
    assert _digests(tmp_path / "a")["scores.csv"] != _digests(tmp_path / "c")["scores.csv"]


def test_sizes_do_not_change_the_pictures_that_both_have(tmp_path: Path) -> None:
    small = pd.read_csv(write_dataset(tmp_path / "small", 3, train=5, val=3, test=2))
    large = pd.read_csv(write_dataset(tmp_path / "large", 3, train=9, val=3, test=2))
    both = large[large.image.isin(small.image)].reset_index(drop=True)
    pd.testing.assert_frame_equal(small, both)
    for image in small.image:
        assert (tmp_path / "small" / image).read_bytes() == (tmp_path / "large" / image).read_bytes()


def test_splits_share_no_group_and_every_picture_is_named(tmp_path: Path) -> None:
    table = pd.read_csv(write_dataset(tmp_path / "data", 1, train=60, val=40, test=40))
    assert table.groupby("group")["split"].nunique().max() == 1
    assert table.groupby("split").size().to_dict() == {"train": 60, "val": 40, "test": 40}
    for split, rows in table.groupby("split"):
        photographs = {group.removeprefix("photo:") for group in rows.group if group.startswith("photo:")}
        assert photographs and photographs <= set(PHOTOGRAPHS[str(split)])
    assert all((tmp_path / "data" / image).is_file() for image in table.image)


def test_no_photograph_belongs_to_two_splits() -> None:
    files = [path for split in PHOTOGRAPHS.values() for path in split.values()]
    assert len(files) == len(set(files))


def test_a_complete_data_set_is_kept_and_another_one_is_never_overwritten(tmp_path: Path) -> None:
    table = write_dataset(tmp_path / "data", 1, train=3, val=2, test=2)
    before = table.stat().st_mtime_ns
    assert write_dataset(tmp_path / "data", 1, train=3, val=2, test=2).stat().st_mtime_ns == before
    with pytest.raises(DataError, match="something other"):
        write_dataset(tmp_path / "data", 2, train=3, val=2, test=2)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> float:
        raise RuntimeError("the third rater went home")

    monkeypatch.setattr("pipeline_lib.demo.dataset.mean_score", fail)
    with pytest.raises(RuntimeError, match="third rater"):
        write_dataset(tmp_path / "data", 1, train=3, val=2, test=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ATTRIBUTES)
def test_the_mean_score_falls_with_every_fault(fault: str) -> None:
    habits = rater_habits(0)

    def mean(value: float) -> float:
        severity = NONE._replace(**{fault: value})
        return float(np.mean([mean_score(severity, habits, np.random.default_rng(k)) for k in range(40)]))

    assert mean(0.0) - 0.5 > mean(0.5) > mean(1.0) + 0.5
    assert mean(1.0) > 1.0


def test_scores_rank_like_the_quality_behind_them(tmp_path: Path) -> None:
    table = pd.read_csv(write_dataset(tmp_path / "data", 2, train=150, val=1, test=1))
    quality = [quality_points(Severity(*row)) for row in table[list(ATTRIBUTES)].to_numpy()]
    correlation = spearmanr(quality, table.score).statistic
    assert 0.93 < correlation < 1.0  # raters agree, but they are not an oracle


def test_distortions_do_to_the_pixels_what_their_names_say() -> None:
    rng = np.random.default_rng(0)
    for clean in (scene(rng, 96)[0], photograph(rng, "train", 96)[0]):

        def after(clean: np.ndarray = clean, **faults: float) -> np.ndarray:
            return distort(clean, NONE._replace(**faults), np.random.default_rng(1))

        def roughness(pixels: np.ndarray) -> float:
            return float(np.abs(np.diff(pixels, axis=1)).mean())

        assert roughness(after(blur=1.0)) < roughness(after(blur=0.4)) < roughness(clean)
        assert roughness(after(noise=1.0)) > roughness(after(noise=0.4)) > roughness(clean)
        assert after(exposure=-0.8).mean() < clean.mean() < after(exposure=0.8).mean()
        assert after(flatness=0.9).std() < 0.5 * clean.std()
        assert np.ptp(after(fading=1.0), axis=2).mean() < 0.2 * np.ptp(clean, axis=2).mean()
        assert (np.abs(after(clutter=0.9) - clean).max(axis=2) > 0.1).mean() > 0.02
        seams = np.abs(np.diff(after(blockiness=1.0), axis=1)).mean(axis=(0, 2))
        assert seams[7::8].mean() > 1.5 * np.delete(seams, np.arange(7, 95, 8)).mean()
