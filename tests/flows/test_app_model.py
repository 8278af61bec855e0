"""The page with the model of a finished run: it says what `Scorer` says."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.use.app import server
from tests.unit.use.test_app import finished as scored_items
from tests.unit.use.test_app import give, opened, serving
from whyscore import Scorer
from whyscore.commands.page import _recipe, _verdict


def test_the_page_says_what_the_scorer_says(
    finished: tuple[Path, Any], again: SelfImproveRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = Scorer.of_run(again)
    verdict = _verdict(_recipe(str(finished[0] / "small.yaml"), None))
    facts = server.about(scorer, verdict)
    monkeypatch.setattr("tests.unit.use.test_app.FACTS", facts)
    paths = sorted((finished[0] / "data" / "images").glob("test-*.jpg"))[:5]
    with serving(scorer.score) as client:
        about = client.get("/api/about").json()
        batch = opened(client)
        for path in paths:
            assert give(client, batch, path.read_bytes(), path.name).status_code == 201
        assert give(client, batch, b"notes", "notes.jpg").status_code == 201
        items = scored_items(client, batch)
    assert about["model"] == scorer.name and about["verdict"] == verdict and verdict[0].startswith("Can ")
    assert about["low"] < about["high"]
    for item, expected in zip(items, scorer.score(paths), strict=False):
        found, wanted = item["scored"], asdict(expected)
        for name in ("predicted", "interval_low", "interval_high", "digit_mass"):
            assert found.pop(name) == pytest.approx(wanted.pop(name), abs=1e-6)
        assert found.pop("score_distribution") == pytest.approx(wanted.pop("score_distribution"), abs=1e-6)
        assert found | {"image": wanted["image"]} == wanted and about["low"] <= expected.predicted <= about["high"]
    assert "not an image file" in items[-1]["scored"]["problem"] and items[-1]["scored"]["image"] == "notes.jpg"
