"""The code in the README of an exported model, as it stands, gives what `predict` gives, for images of each kind."""

import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from peft import get_peft_model
from PIL import Image

from pipeline_lib.methods.evo_quality.inputs import Rater
from pipeline_lib.methods.evo_quality.prompt import load_prompts
from pipeline_lib.methods.evo_quality.ratings import rate, to_rate
from pipeline_lib.methods.self_improve.evaluation import answer_images
from pipeline_lib.methods.self_improve.prompt import Criterion, Prompt
from pipeline_lib.methods.self_improve.score_tokens import resolve_score_tokens
from pipeline_lib.methods.self_improve.tables import PREDICTIONS, REFERENCE_VALUES
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.testing.tiny import PROMPT, model_ref, picture, publish_folder
from pipeline_lib.train.lora import lora_config, save_adapter
from pipeline_lib.use.export import export_model
from pipeline_lib.use.export_folder import write_folder
from pipeline_lib.use.exports.evo_quality import export_of_rater
from pipeline_lib.use.new_images import find_new_images, keep_new_images, opener
from pipeline_lib.use.trained import Trained
from pipeline_lib.vlm.chat import render_chat
from pipeline_lib.vlm.load import load_base, load_vlm
from pipeline_lib.vlm.model_ref import BUNDLED, ModelRef
from tests.families.conftest import Loaded

CRITERION = Criterion(value="beauty", score="beauty", scale="0 is none")
KINDS = ("turned.jpg", "alpha.png", "deep.png", "cmyk.jpg", "wide.png")
VALUES = [1.0, 1.5, 2.5, 2.75, 4.0, 5.5, 7.0, 7.25, 8.0, 9.5]


def write_images(folder: Path) -> None:
    folder.mkdir()
    plain = picture("plain", 96)
    exif = Image.Exif()
    exif[0x0112] = 6
    plain.crop((0, 0, 90, 40)).save(folder / "turned.jpg", exif=exif)
    clear = plain.copy()
    clear.putalpha(Image.linear_gradient("L").resize(plain.size))
    clear.save(folder / "alpha.png")
    grey = np.asarray(plain.convert("L"), dtype=np.uint16) * 200
    Image.fromarray(grey).save(folder / "deep.png")
    plain.convert("CMYK").save(folder / "cmyk.jpg")
    plain.crop((0, 0, 96, 30)).save(folder / "wide.png")


def trained(checkpoint: Path, store: ArtifactStore, folder: Path, max_tiles: int | None, std: float = 0.5) -> Trained:
    """A checkpoint under an adapter that changes its answers."""
    ref = model_ref(checkpoint, name=str(checkpoint), max_tiles=max_tiles)
    torch.manual_seed(1)
    base = load_base(ref, torch.device("cpu")).model
    adapted = get_peft_model(base, lora_config(base, 2))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:  # zero at the start, so that a new adapter changes nothing
            torch.nn.init.normal_(weight, std=std)
    save_adapter(adapted, folder, "default", ref.name)
    adapter = publish_folder(store, ArtifactRef(stage="train_score", key="a" * 64), folder)
    evaluated = ArtifactRef(stage="evaluate", key="b" * 64)
    columns = {"bin": pa.array(range(10), pa.int8()), "unfitted": VALUES, "fitted": VALUES, "monotone": VALUES}
    with store.attempt() as attempt:
        attempt.write_table(REFERENCE_VALUES, pa.table(columns).cast(REFERENCE_VALUES.schema))
        attempt.write_table(PREDICTIONS, PREDICTIONS.schema.empty_table())  # none to calibrate intervals
        store.publish(evaluated.address, attempt, {})
    return Trained("ite-1 score", ref.with_adapter(adapter), evaluated)


def run_readme(folder: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the README's code says about an image."""
    code = re.search(r"```python\n(.*?)\n```", (folder / "README.md").read_text(), re.DOTALL)
    assert code
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    for name in [name for name in sys.modules if name.startswith("whyscore_")]:
        del sys.modules[name]
    said: list[object] = []
    names: dict[str, Any] = {"print": said.append, "__name__": "readme"}
    exec(code[1].replace("photo.jpg", str(image)), names)
    return SimpleNamespace(first=said[0], second=said[1], answer=names["answer"])


@pytest.mark.parametrize("adapter_only", [False, True])
def test_the_readmes_code_says_what_predict_says(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter_only: bool
) -> None:
    store, images = ArtifactStore(str(tmp_path / "store")), tmp_path / "images"
    write_images(images)
    model = trained(
        loaded.folder, store, tmp_path / "adapter", 2 if loaded.family.most_tiles > 1 and not adapter_only else None
    )
    kept = keep_new_images(store, find_new_images([str(images)], "image"), 100, model.model)
    table = store.read_table(kept.address, "new_images")
    assert table["problem"].null_count == len(KINDS)
    vlm = load_vlm(model.model, store, torch.device("cpu"))
    chat = render_chat(vlm.processor, PROMPT)
    asked = table.select(["path", "image_sha256", "width_px", "height_px"]).rename_columns({"path": "image"})
    for name, kind in (("split", pa.string()), ("score", pa.float64()), ("bin", pa.int8())):
        asked = asked.append_column(name, pa.nulls(asked.num_rows, kind))
    answers = answer_images(
        vlm, chat, resolve_score_tokens(vlm.processor.tokenizer, chat), asked, opener(model.model.resize_px),
        max_new_tokens=8, batch_size=1, progress=Progress("answers", len(KINDS)),
    )  # fmt: skip
    folder = tmp_path / "exported"
    prompt = Prompt(name="tiny", text=PROMPT, criterion=CRITERION)
    export_model(store, model, prompt, 8, folder, score_column="score", seed=0, adapter_only=adapter_only)
    for row in answers.to_pylist():
        said = run_readme(folder, Path(row["image"]), monkeypatch)
        predicted = float(np.dot(row["score_distribution"], VALUES))
        assert said.first == pytest.approx(predicted, abs=1e-4), row["image"]
        assert said.second == row["text"], row["image"]
    _modes_are_those_of_the_readme(folder)


def _modes_are_those_of_the_readme(folder: Path) -> None:
    modes = {path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {(folder / "README.md").stat().st_mode & 0o777}


def check_ratings(
    model: ModelRef, store: ArtifactStore, prompt: str, images: Path, folder: Path, monkeypatch: pytest.MonkeyPatch,
    *, tokens: int, adapter_only: bool,
) -> pa.Table:  # fmt: skip
    """Rates images as `predict` does and as the exported README's code does; returns the ratings of `predict`."""
    rater = Rater(model=model, prompt=prompt, answers=5, temperature=1.0, max_new_tokens=tokens)
    kept = keep_new_images(store, find_new_images([str(images)], "image"), 100, model)
    asked = to_rate(store.read_table(kept.address, "new_images"))
    vlm = load_vlm(model, store, torch.device("cpu"))
    found = rate(
        vlm, rater, asked, opener(model.resize_px), seed=3, batch_size=2, progress=Progress("ratings", len(asked)),
        drawn_by="image_sha256",
    )  # fmt: skip
    write_folder(store, export_of_rater(rater, 3, "round 1", "asked for"), folder, adapter_only=adapter_only)
    for row in found.to_pylist():
        said = run_readme(folder, Path(row["image"]), monkeypatch)
        assert said.answer.answers == row["answers"] and said.answer.ratings == row["ratings"], row["image"]
        assert (said.first, said.second) == (row["mean"], row["stated"]), row["image"]
        assert said.answer.spread == row["spread"]
    _modes_are_those_of_the_readme(folder)
    return found


@pytest.mark.parametrize("adapter_only", [False, True])
def test_the_readmes_code_samples_what_predict_samples(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter_only: bool
) -> None:
    store, images = ArtifactStore(str(tmp_path / "store")), tmp_path / "images"
    write_images(images)
    model = trained(loaded.folder, store, tmp_path / "adapter", None).model
    found = check_ratings(
        model, store, PROMPT, images, tmp_path / "out", monkeypatch, tokens=6, adapter_only=adapter_only
    )
    assert len({text for texts in found["answers"].to_pylist() for text in texts}) > 5  # they are drawn


def test_the_readmes_code_rates_as_predict_does_with_the_bundled_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, images = ArtifactStore(str(tmp_path / "store")), tmp_path / "images"
    write_images(images)
    model = trained(BUNDLED, store, tmp_path / "adapter", None, std=0.01).model.model_copy(update={"resize_px": 96})
    prompt = load_prompts("short").rate
    found = check_ratings(model, store, prompt, images, tmp_path / "out", monkeypatch, tokens=10, adapter_only=False)
    assert found["mean"].null_count == found["stated"].null_count == 0 and len(set(found["mean"].to_pylist())) > 1
    shutil.copy(images / "wide.png", images / "other.png")  # another name and the same content
    folder = tmp_path / "out"
    first, second = (run_readme(folder, images / name, monkeypatch).answer for name in ("wide.png", "other.png"))
    assert first == second
