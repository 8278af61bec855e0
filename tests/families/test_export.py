"""The code in the README of an exported model, as it stands, gives what `predict` gives, for images of each kind."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from peft import get_peft_model
from PIL import Image

from pipeline_lib.methods.self_improve.evaluation import answer_images
from pipeline_lib.methods.self_improve.prompt import Criterion, Prompt
from pipeline_lib.methods.self_improve.score_tokens import resolve_score_tokens
from pipeline_lib.methods.self_improve.tables import REFERENCE_VALUES
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.testing.tiny import PROMPT, model_ref, picture, publish_folder
from pipeline_lib.train.lora import lora_config, save_adapter
from pipeline_lib.use.export import export_model
from pipeline_lib.use.new_images import find_new_images, keep_new_images, opener
from pipeline_lib.use.trained import Trained
from pipeline_lib.vlm.chat import render_chat
from pipeline_lib.vlm.load import load_base, load_vlm
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


def trained(loaded: Loaded, store: ArtifactStore, folder: Path, max_tiles: int | None) -> Trained:
    """The family's checkpoint under an adapter that changes its answers."""
    ref = model_ref(loaded.folder, name=str(loaded.folder), max_tiles=max_tiles)
    torch.manual_seed(1)
    base = load_base(ref, torch.device("cpu")).model
    adapted = get_peft_model(base, lora_config(base, 2))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:  # zero at the start, so that a new adapter changes nothing
            torch.nn.init.normal_(weight, std=0.5)
    save_adapter(adapted, folder, "default", ref.name)
    adapter = publish_folder(store, ArtifactRef(stage="train_score", key="a" * 64), folder)
    evaluated = ArtifactRef(stage="evaluate", key="b" * 64)
    columns = {"bin": pa.array(range(10), pa.int8()), "unfitted": VALUES, "fitted": VALUES, "monotone": VALUES}
    with store.attempt() as attempt:
        attempt.write_table(REFERENCE_VALUES, pa.table(columns).cast(REFERENCE_VALUES.schema))
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
    exec(code[1].replace("photo.jpg", str(image)), {"print": said.append, "__name__": "readme"})
    return SimpleNamespace(score=said[0], text=said[1])


@pytest.mark.parametrize("adapter_only", [False, True])
def test_the_readmes_code_says_what_predict_says(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter_only: bool
) -> None:
    store, images = ArtifactStore(str(tmp_path / "store")), tmp_path / "images"
    write_images(images)
    model = trained(
        loaded, store, tmp_path / "adapter", 2 if loaded.family.most_tiles > 1 and not adapter_only else None
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
    export_model(store, model, prompt, 8, folder, adapter_only=adapter_only)
    for row in answers.to_pylist():
        said = run_readme(folder, Path(row["image"]), monkeypatch)
        predicted = float(np.dot(row["score_distribution"], VALUES))
        assert said.score == pytest.approx(predicted, abs=1e-4), row["image"]
        assert said.text == row["text"], row["image"]
    modes = {path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {(folder / "README.md").stat().st_mode & 0o777}
