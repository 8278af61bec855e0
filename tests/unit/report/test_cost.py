"""Device hours and their price, from manifests."""

from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.report.cost import Cost, cost_of, cost_text
from pipeline_lib.store import ArtifactStore, Manifest


def manifest(store: ArtifactStore, at: str, seconds: float, **device: Any) -> Manifest:
    with store.attempt() as attempt:
        store.publish(f"steps/{at}", attempt, {})
    found = store.lookup(f"steps/{at}")
    assert isinstance(found, Manifest)
    return found.model_copy(update={"seconds": seconds, **device})


def test_seconds_count_for_each_device_and_only_where_a_model_ran(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    found = cost_of(
        [
            manifest(store, "train/a", 1800.0, device="NVIDIA X", device_count=4),
            manifest(store, "evaluate/a", 360.0, device="cpu"),
            manifest(store, "evaluate/b", 360.0, device="mps"),
            manifest(store, "swap/a", 9000.0),  # no model, or of a version that did not say
        ]
    )
    assert found == Cost(gpu_s=7200.0, other_s=720.0)


@pytest.mark.parametrize(
    "cost,usd,said",
    [
        (Cost(), 2.0, ""),
        (Cost(7200.0), None, "2 GPU hours"),
        (Cost(5.0), None, "under 0.01 GPU hours"),
        (Cost(7200.0), 1.5, "2 GPU hours (3.00 USD at 1.5 USD an hour)"),
        (Cost(0.0, 720.0), 1.0, "0.2 device hours without a GPU (0.20 USD at 1 USD an hour)"),
        (Cost(7200.0, 720.0), 1.0, "2 GPU hours and 0.2 device hours without a GPU (2.20 USD at 1 USD an hour)"),
    ],
)
def test_a_cpu_is_not_called_a_gpu(cost: Cost, usd: float | None, said: str) -> None:
    assert cost_text(cost, usd) == said
