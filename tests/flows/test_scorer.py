"""`Scorer` gives what `whyscore predict` gives, from a recipe, an exported folder, an exported adapter and a hub."""

import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import FrozenInstanceError, asdict, fields
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline_lib.errors import ModelError, RecipeError, StoreError
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.methods.self_improve.tables import NEW_PREDICTIONS
from pipeline_lib.progress import listening
from pipeline_lib.store import ArtifactStore
from pipeline_lib.vlm.model_ref import BUNDLED
from tests.conftest import ROOT
from tests.unit.vlm.test_hub import COMMIT, Hub
from whyscore import ScoredImage, Scorer
from whyscore.commands.models import export_run as export

TEST_IMAGES = [f"test-{n:05d}.jpg" for n in range(6)]


@pytest.fixture
def images(finished: Any, tmp_path: Path) -> list[Path]:
    """Images of many kinds: some twice, one that is broken, one that is turned."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in TEST_IMAGES:
        shutil.copy(finished[0] / "data" / "images" / name, folder / name)
    shutil.copy(folder / TEST_IMAGES[0], folder / "twice.jpg")
    (folder / "broken.jpg").write_text("no picture")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(folder / TEST_IMAGES[1]).resize((90, 60)).save(folder / "turned.png", exif=exif)
    return sorted(folder.iterdir())


def predicted(recipe: SelfImproveRecipe, images: list[Path]) -> list[dict[str, Any]]:
    """What the flow says."""
    from flows.predict import predict

    ref = predict(recipe, [str(image) for image in images])
    return ArtifactStore(recipe.runtime.store).read_table(ref.address, "new_predictions").to_pylist()


def check_same(scored: list[ScoredImage], rows: list[dict[str, Any]], *, within: float = 1e-6) -> None:
    assert [field.name for field in fields(ScoredImage)] == NEW_PREDICTIONS.schema.names
    assert len(scored) == len(rows)
    for found, row in zip(map(asdict, scored), rows, strict=True):
        for name in ("predicted", "interval_low", "interval_high", "digit_mass"):
            assert found.pop(name) == pytest.approx(row[name], abs=within), name
        distribution = found.pop("score_distribution")
        assert distribution is None or distribution == pytest.approx(row["score_distribution"], abs=within)
        assert found == {name: row[name] for name in found}


def test_a_scorer_says_what_predict_says(again: SelfImproveRecipe, images: list[Path]) -> None:
    rows = predicted(again, images)
    assert len([row for row in rows if row["problem"]]) == 1
    assert all(row["interval_low"] < row["predicted"] < row["interval_high"] for row in rows if not row["problem"])
    scorer = Scorer.of_run(again)
    said: list[str] = []
    with listening(lambda progress, line: said.append(f"{progress.done}/{progress.total}")):
        check_same(scorer.score(images), rows)
    assert said[-1] == "9/9"
    one = scorer.score(str(images[1]))
    check_same([one], [rows[1]])
    with pytest.raises(FrozenInstanceError):
        one.predicted = 9.0  # type: ignore[misc]
    assert scorer.score([]) == []
    assert scorer.name == "ite-2 merged of run small" and scorer.reading == "unfitted"
    for batch_size in (1, 2):  # images are taken in parts
        check_same(Scorer.of_run(again, batch_size=batch_size).score(iter(images)), rows)


def test_an_open_image_is_read_as_its_file(again: SelfImproveRecipe, images: list[Path]) -> None:
    good = [path for path in images if path.name != "broken.jpg"]
    scorer = Scorer.of_run(again)
    of_files, opened = scorer.score(good), scorer.score([Image.open(path) for path in good])
    for found, row in zip(opened, of_files, strict=True):
        assert found.image == row.image and found.image_sha256 != ""
        assert (found.predicted, found.text) == (pytest.approx(row.predicted, abs=1e-6), row.text)
    in_memory = scorer.score([Image.open(path).copy() for path in good[:2]])
    assert [row.image for row in in_memory] == ["image 1", "image 2"]
    assert scorer.score(Image.new("RGB", (0, 0))).problem is not None


def test_a_model_is_chosen_by_its_iteration_and_kind(
    again: SelfImproveRecipe, finished: Any, images: list[Path]
) -> None:
    recipe = str(finished[0] / "small.yaml")
    scorer = Scorer.load(recipe, iteration=1, kind="score", device="cpu")
    assert scorer.name == "ite-1 score of run small"
    assert scorer.score(images[1]).score_distribution != Scorer.load(recipe).score(images[1]).score_distribution
    with pytest.raises(StoreError, match="iteration 7"):
        Scorer.load(recipe, iteration=7)


@pytest.mark.parametrize("adapter_only", [False, True])
def test_an_export_says_what_its_run_says(
    again: SelfImproveRecipe, images: list[Path], tmp_path: Path, adapter_only: bool
) -> None:
    folder = tmp_path / "exported"
    export(again, folder, None, None, adapter_only)
    of_run, exported = Scorer.of_run(again), Scorer.load(folder)
    known = list(map(asdict, of_run.score(images)))
    check_same(exported.score(images), known, within=1e-5)  # its weights were folded in another program's order
    assert (exported.reading, exported.score_column) == (of_run.reading, of_run.score_column)
    assert exported.name == f"ite-2 merged of {folder}"
    with pytest.raises(ModelError, match="one exported model"):
        Scorer.load(folder, iteration=1)
    facts = json.loads((folder / "whyscore.json").read_text())
    assert "split" not in facts and not any("jpg" in str(value) for value in facts["interval"].values())

    if adapter_only:
        copy = shutil.copytree(BUNDLED, tmp_path / "base")
        check_same(Scorer.load(folder, base=str(copy)).score(images), known, within=1e-5)
        (folder / "whyscore.json").write_text(json.dumps(facts | {"base_fingerprint": "0" * 64}))
        with pytest.raises(ModelError, match="other files"):
            Scorer.load(folder)
    else:
        with pytest.raises(ModelError, match="whole model"):
            Scorer.load(folder, base="bundled")


def test_an_older_export_has_no_interval_and_an_unknown_one_is_refused(
    again: SelfImproveRecipe, images: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "exported"
    export(again, folder, None, None, True)
    path = folder / "whyscore.json"
    facts = json.loads(path.read_text())
    older = {name: value for name, value in facts.items() if name not in ("interval", "score_column")} | {"format": 1}
    path.write_text(json.dumps(older))
    found, known = Scorer.load(folder).score(images[1]), Scorer.of_run(again).score(images[1])
    assert found.predicted == pytest.approx(known.predicted) and found.interval_low is None
    for wrong, named in (
        ({"format": 3}, "format 3"),
        ({"format": None}, "format None"),
        ({"reference_values": [1.0]}, "reference_values"),
        ({"dtype": "int8"}, "dtype"),
        ({"chat": "<another>"}, "chat template"),
    ):
        path.write_text(json.dumps(facts | wrong))
        with pytest.raises(ModelError, match=named):
            Scorer.load(folder)
    path.write_text("{")
    with pytest.raises(ModelError, match=r"whyscore\.json cannot be read"):
        Scorer.load(folder)
    path.unlink()
    with pytest.raises(ModelError, match="predict --export"):
        Scorer.load(folder)


def test_what_is_no_model_is_said(finished: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no\.such\.thing: expected the recipe file"):
        Scorer.load("no.such.thing")
    with pytest.raises(RecipeError, match=r"cannot read recipe"):
        Scorer.load("absent.yaml")
    with pytest.raises(RecipeError, match="evo_quality"):
        Scorer.load(ROOT / "recipes" / "evo_quality" / "demo.yaml")
    with pytest.raises(RecipeError, match="revision"):
        Scorer.load(finished[0] / "small.yaml", revision=COMMIT)


def test_an_export_on_a_hub_is_found_by_its_id(again: SelfImproveRecipe, images: list[Path], tmp_path: Path) -> None:
    """A server on loopback that answers as the hub does; the hub itself is not asked."""
    folder = tmp_path / "exported"
    export(again, folder, None, None, False)
    handler = type("ExportHub", (Hub,), {"folder": folder, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ask = (
        "import sys; from whyscore import Scorer;"
        "s = Scorer.load('owner/tiny', revision=sys.argv[2] or None); print(s.name); print(s.score(sys.argv[1]).text)"
    )
    env = {
        **os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip

    def said(revision: str) -> str:
        command = [sys.executable, "-c", ask, str(images[1]), revision]
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout

    text = Scorer.of_run(again).score(images[1]).text
    try:
        assert said("").split("\n", 1) == ["ite-2 merged of owner/tiny", f"{text}\n"]
    finally:
        server.shutdown()
        server.server_close()
    assert said(COMMIT).endswith(f"{text}\n")  # without network
    assert not any(name.endswith(".py") for name in os.listdir(next((tmp_path / "home").rglob("whyscore.json")).parent))


def test_importing_whyscore_loads_nothing_large() -> None:
    code = (
        "import sys, whyscore; sys.exit(bool({'torch', 'prefect', 'transformers', 'pandas'} & set(sys.modules))"
        " or whyscore.Scorer.__name__ != 'Scorer' or 'prefect' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
