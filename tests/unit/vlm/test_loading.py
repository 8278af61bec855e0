"""Model directories: what is missing is said; a hub id needs its commit."""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline_lib.config.base import Model
from pipeline_lib.device import pick_device
from pipeline_lib.errors import ModelError, RecipeError
from pipeline_lib.methods.self_improve.check_model import check_model
from pipeline_lib.methods.self_improve.prompt import load_prompt
from pipeline_lib.testing.tiny import model_ref
from pipeline_lib.vlm.load import load_base, load_processor
from pipeline_lib.vlm.model_ref import resolve_model

CPU = torch.device("cpu")
PROMPT = load_prompt("aesthetics_short")


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def test_a_sound_model_is_described(tiny_model: Path) -> None:
    facts = check_model(model_ref(tiny_model), PROMPT)
    assert facts["architecture"] == "LlavaForConditionalGeneration" and facts["lora_layers"] == 14
    assert len(set(facts["score_token_ids"])) == 10 and facts["answer_end"] == "</s>"
    assert json.loads(json.dumps(facts)) == facts


def test_a_directory_without_a_processor_is_refused(copy: Path) -> None:
    (copy / "processor_config.json").unlink()
    with pytest.raises(ModelError, match="processor"):
        load_processor(model_ref(copy))


def test_a_processor_without_a_chat_template_is_refused(copy: Path) -> None:
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        load_processor(model_ref(copy))


def test_a_directory_without_weights_is_refused(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks model\.safetensors"):
        check_model(model_ref(copy), PROMPT)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_base(model_ref(copy), CPU)


def test_another_model_in_the_same_place_is_refused(copy: Path) -> None:
    ref = resolve_model(Model(id=str(copy)))
    weights = {name: weight + 1 for name, weight in load_file(copy / "model.safetensors").items()}
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="the files in"):
        load_base(ref, CPU)


def test_torn_weights_are_refused(copy: Path) -> None:
    content = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_base(model_ref(copy), CPU)


def test_a_checkpoint_that_lacks_a_weight_is_refused_and_not_filled_with_random_numbers(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    gone = next(name for name in weights if "q_proj" in name and "language_model" in name)
    del weights[gone]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weight.*q_proj"):
        load_base(model_ref(copy), CPU)


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no config\.json"):
        resolve_model(Model(id=str(tmp_path / "empty")))
    with pytest.raises(ModelError, match="no such directory"):
        resolve_model(Model(id=str(tmp_path / "absent")))
    with pytest.raises(ModelError, match="no such directory"):
        resolve_model(Model(id="a/b/c"))
    with pytest.raises(ModelError, match=r"give model\.revision"):
        resolve_model(Model(id="owner/name"))
    ref = resolve_model(Model(id="owner/name", revision="a" * 40))
    assert (ref.location, ref.revision, ref.fingerprint) == ("owner/name", "a" * 40, "a" * 40)


def test_the_fingerprint_of_a_directory_is_its_content(copy: Path, tiny_model: Path) -> None:
    ref = resolve_model(Model(id=str(tiny_model)))
    assert resolve_model(Model(id=str(copy))).fingerprint == ref.fingerprint
    (copy / "chat_template.jinja").write_text("another")
    assert resolve_model(Model(id=str(copy))).fingerprint != ref.fingerprint


def test_another_file_of_the_same_size_and_time_is_another_model(copy: Path) -> None:
    template = copy / "chat_template.jinja"
    before, facts = resolve_model(Model(id=str(copy))).fingerprint, template.stat()
    content = template.read_text()
    time.sleep(0.02)  # the clock of a file system may move in steps of some milliseconds
    template.write_text("#" + content[1:])
    os.utime(template, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert template.stat().st_size == facts.st_size
    assert resolve_model(Model(id=str(copy))).fingerprint != before


def test_devices_are_taken_at_their_word() -> None:
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type in {"cpu", "cuda", "mps"}


def test_prompts_are_files() -> None:
    prompt = load_prompt("aesthetics")
    assert prompt.text.startswith("Please evaluate the aesthetic quality") and prompt.text == prompt.text.strip()
    with pytest.raises(RecipeError, match=r"nonsense.*aesthetics, aesthetics_short"):
        load_prompt("nonsense")


CODE = "from pathlib import Path\nPath({ran!r}).touch()\nfrom transformers import LlavaConfig as {name}\n"


def test_code_in_a_checkpoint_is_never_run(copy: Path, tmp_path: Path) -> None:
    """A known architecture is loaded by the library's classes, an unknown one is refused."""
    ran = tmp_path / "ran"
    (copy / "own.py").write_text(CODE.format(ran=str(ran), name="Own"))
    kinds = ["AutoConfig", "AutoModelForImageTextToText", "AutoProcessor", "AutoImageProcessor", "AutoTokenizer"]
    auto_map: dict[str, object] = dict.fromkeys(kinds, "own.Own")
    for path in copy.glob("*config.json"):
        values = json.loads(path.read_text())
        path.write_text(json.dumps(values | {"auto_map": auto_map}))
    tokens = json.loads((copy / "tokenizer_config.json").read_text())
    own_tokenizer = {"auto_map": auto_map | {"AutoTokenizer": ["own.Own", "own.Own"]}}
    (copy / "tokenizer_config.json").write_text(json.dumps(tokens | own_tokenizer))
    assert load_base(model_ref(copy), CPU).model.__class__.__name__ == "LlavaForConditionalGeneration"
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "internvl_chat"}))
    for load in (load_processor, lambda ref: load_base(ref, CPU), lambda ref: check_model(ref, PROMPT)):
        with pytest.raises(ModelError, match="Python code"):
            load(model_ref(copy))
    assert not ran.exists()


def test_an_unknown_architecture_is_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "nonsense"}))
    with pytest.raises(ModelError, match="not a vision-language model"):
        load_processor(model_ref(copy))


def test_weights_are_safetensors_or_refused(copy: Path) -> None:
    """A fingerprint does not cover other formats, so good and bad weights would have one key."""
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    load_base(model_ref(copy), CPU)
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError):
        load_base(model_ref(copy), CPU)
    with pytest.raises(ModelError, match=r"lacks model\.safetensors"):
        check_model(model_ref(copy), PROMPT)


@pytest.mark.parametrize("name", ["part.bin", "sub/part.safetensors", "../part.safetensors", "/part.safetensors", 7])
def test_an_index_of_weights_names_safetensors_in_its_own_folder(copy: Path, tmp_path: Path, name: object) -> None:
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    (copy / "sub").mkdir()
    for folder in (copy / "sub", tmp_path):
        save_file(weights, folder / "part.safetensors", {"format": "pt"})
    torch.save(weights, copy / "part.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError):
        resolve_model(Model(id=str(copy)))


def test_an_adapter_beside_the_base_is_refused(copy: Path) -> None:
    (copy / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "/elsewhere", "peft_type": "LORA"})
    )
    with pytest.raises(ModelError, match="holds an adapter"):
        resolve_model(Model(id=str(copy)))


def test_whatever_is_read_of_a_model_is_in_its_fingerprint(copy: Path) -> None:
    """Every file that Python opens while a model is loaded changes the fingerprint when it changes."""
    torch.save({}, copy / "pytorch_model.bin")
    for decoy in ("own.py", "adapter_model.bin", "additional_chat_templates/other.jinja", "sub/config.json"):
        (copy / decoy).parent.mkdir(exist_ok=True)
        (copy / decoy).write_text("{}")
    ref, opened = model_ref(copy), set[Path]()
    _opened_below[copy.resolve()] = opened
    load_base(ref, CPU)
    del _opened_below[copy.resolve()]
    assert {"config.json", "tokenizer.json", "other.jinja"} <= {path.name for path in opened}
    for path in opened:
        before = path.read_bytes()
        path.write_bytes(before + b" ")
        assert model_ref(copy).fingerprint != ref.fingerprint, path.name
        path.write_bytes(before)


_opened_below: dict[Path, set[Path]] = {}


def _note_open(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _opened_below and isinstance(arguments[0], str):
        path = Path(arguments[0]).resolve()
        for folder, opened in _opened_below.items():
            if path.is_relative_to(folder) and path.is_file():
                opened.add(path)


sys.addaudithook(_note_open)  # cannot be removed again; it does nothing while nobody listens
