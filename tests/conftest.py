"""What all tests share: no network, one thread, a tiny model, and the label files when they are there."""

import os
from pathlib import Path

for _name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ[_name] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402 - what is imported later reads the settings above

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def label_files() -> Path:
    """Real AADB, AVA and KonIQ label files, beside the repository; without them the test is skipped."""
    folder = ROOT.parent / "shared" / "data"
    if not (folder / "imgListTrainRegression_score.txt").exists():
        pytest.skip("the real label files are not on this machine")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved Llava of random weights, small enough to train in a second; do not write to it, copy it."""
    from tests.tiny import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")
