"""When and in what time a report was made: in the copy for people, never in the artifact."""

from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.report.provenance import MARK, filled, provenance, provenance_text
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.store.gc import reachable
from pipeline_lib.store.runs import RunFolder, copied

REPORT = ArtifactRef(stage="report", key="r")


def published(store: ArtifactStore, stage: str, arguments: dict[str, Any], seconds: float, **device: Any) -> None:
    with store.attempt() as attempt:
        attempt.started -= seconds
        for name, value in device.items():
            setattr(attempt, name, value)
        if stage == "report":
            (attempt.folder / "report.html").write_text(f"<p>Seed 0. {MARK}</p>")
            (attempt.folder / "model_card.md").write_text(MARK)
        store.publish(f"steps/{stage}/r", attempt, arguments)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    store = ArtifactStore(str(tmp_path))
    published(store, "generate", {}, 3600, device="NVIDIA <X>")
    published(store, "train", {"pairs": {"stage": "generate", "key": "r"}}, 1800, device="NVIDIA <X>", device_count=4)
    published(store, "other", {}, 9000, device="cpu")
    published(store, "report", {"adapter": {"stage": "train", "key": "r"}}, 0)
    return store


def test_facts_are_of_the_artifact_and_of_what_it_was_made_from(store: ArtifactStore) -> None:
    found = provenance(reachable(store, ["steps/report/r", "steps/other/r"]), REPORT.address)
    assert found.stages == 3 and found.devices == ("NVIDIA <X>",)
    assert found.seconds == pytest.approx(5400, abs=5) and found.cost.gpu_s == pytest.approx(10800, abs=20)
    said = provenance_text(found)
    assert said.endswith("Its 3 stages took 1 h 30 min of computing on NVIDIA <X>, 3 GPU hours.")
    assert found.published is not None and found.published[:10] in said and "by WhyScore" in said


def test_only_the_copy_has_them(store: ArtifactStore) -> None:
    run = RunFolder(store, "one", {}, ArtifactRef(stage="images", key="k"))
    run.copy_out(REPORT, "report", filled(store, REPORT))
    page = store.files.read(copied(store, "one", "report", "report.html")).decode()
    assert page.startswith("<p>Seed 0. Made on ") and "NVIDIA &lt;X&gt;" in page and MARK not in page
    assert store.files.read(copied(store, "one", "report", "model_card.md")).decode() == MARK
    assert MARK.encode() in store.read_file(REPORT.address, "report.html")


def test_manifests_of_earlier_versions_say_less(store: ArtifactStore) -> None:
    manifests = {
        at: one.model_copy(update={"published": None, "device": None, "versions": {}})
        for at, one in reachable(store, [REPORT.address]).items()
    }
    said = provenance_text(provenance(manifests, REPORT.address))
    assert said == "Its 3 stages took 1 h 30 min of computing."
