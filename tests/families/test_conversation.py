"""What each family reads and writes: one rendering for training, generation and scoring, tokens found in context."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from pipeline_lib.errors import ModelError
from pipeline_lib.methods.self_improve.answer import answer_prefix
from pipeline_lib.methods.self_improve.check_model import check_model
from pipeline_lib.methods.self_improve.prompt import load_prompt
from pipeline_lib.methods.self_improve.score_tokens import resolve_score_tokens
from pipeline_lib.testing.tiny import PROMPT, model_ref, picture
from pipeline_lib.testing.tiny_families import LAYERS, TILE_PX, sentencepiece
from pipeline_lib.train.lora import check_lora, language_linears, lora_config
from pipeline_lib.vlm.chat import render_chat, tokens
from pipeline_lib.vlm.load import load_base, load_processor
from tests.asking import generate_greedy, read_scores
from tests.families.conftest import Loaded

SIZES = [(28, 28), (60, 30), (30, 90), (112, 84), (1, 1)]
"""Several aspect ratios and counts of tiles."""


QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


def noise(size: tuple[int, int]) -> Image.Image:
    return picture(f"{size}", side_px=128).crop((0, 0, *size))


def processed(loaded: Loaded, image: Image.Image, text: str) -> dict[str, torch.Tensor]:
    inputs = loaded.vlm.processor(images=[[image]], text=[text], add_special_tokens=False, return_tensors="pt")
    return dict(inputs)


def test_the_conversation_is_rendered_as_the_family_was_trained(loaded: Loaded) -> None:
    family, chat, tokenizer = loaded.family, loaded.chat, loaded.vlm.processor.tokenizer
    assert (chat.prompt, chat.separator, chat.end) == (family.prompt, family.separator, family.end)
    answer = chat.answer(answer_prefix(7) + " Sharp.")
    assert answer == f"{family.separator}#Score: 7\n\n#Explain: Sharp.{family.end}"
    ids = tokens(tokenizer, chat.prompt + answer)
    begin = tokenizer.bos_token_id
    begins = {"fast-vlm": 3}.get(family.name, int(family.prompt.startswith("<s>")))  # there one a turn
    assert ids.count(begin) == begins
    assert (ids[0] == begin) == (begins > 0)
    assert tokenizer.convert_ids_to_tokens(ids[-1]) == family.end and ids.count(ids[-1]) == 1 + chat.prompt.count(
        family.end
    )


def test_several_images_stand_in_front_of_the_text(loaded: Loaded) -> None:
    pieces = {
        "llava-interleave": "<image>",
        "internvl": "<IMG_CONTEXT>\n",
        "llava": "<image>\n",
        "qwen": QWEN_IMAGE,
        "fast": "<image>\n",
    }
    placeholder = next(piece for name, piece in pieces.items() if loaded.family.name.startswith(name))
    processor = loaded.vlm.processor
    for count in (2, 3):
        chat = render_chat(processor, PROMPT, images=count)
        assert chat.prompt == loaded.family.prompt.replace(placeholder, count * placeholder)
        assert (chat.separator, chat.end) == (loaded.family.separator, loaded.family.end)
    with pytest.raises(ModelError, match=r"renders 2 image placeholders .* for 1 image\(s\)"):
        render_chat(processor, f"What is in {processor.image_token}?")


def test_training_generation_and_scoring_see_the_same_tokens(loaded: Loaded) -> None:
    """The trainer tokenises prompt and answer apart; generation and scoring continue the prompt."""
    chat, tokenizer = loaded.chat, loaded.vlm.processor.tokenizer
    image = noise((60, 30))
    prompt = processed(loaded, image, chat.prompt)["input_ids"][0].tolist()
    text = answer_prefix(3) + " The light is good."
    trained = prompt + tokens(tokenizer, chat.answer(text))
    continued = processed(loaded, image, chat.prompt + chat.separator + answer_prefix(3))["input_ids"][0].tolist()
    scored = processed(loaded, image, chat.prompt + loaded.scores.context)["input_ids"][0].tolist()
    assert trained[: len(continued)] == continued
    assert trained[: len(scored) + 1] == [*scored, loaded.scores.ids[3]]
    assert prompt.count(loaded.vlm.processor.image_token_id) >= 1


def test_each_score_is_one_token_at_one_place(loaded: Loaded) -> None:
    tokenizer = loaded.vlm.processor.tokenizer
    assert loaded.scores.context == f"{loaded.family.separator}#Score: "
    assert tokenizer.convert_ids_to_tokens(list(loaded.scores.ids)) == [str(score) for score in range(10)]


def test_a_tokenizer_that_merges_scores_with_what_follows_is_refused(loaded: Loaded) -> None:
    processor = load_processor(model_ref(loaded.folder))
    processor.tokenizer.add_tokens(["4\n\n"])
    with pytest.raises(ModelError, match="tokens of '#Score: 4' change"):
        resolve_score_tokens(processor.tokenizer, render_chat(processor, PROMPT))


def test_a_tokenizer_that_knows_no_digits_is_refused(loaded: Loaded) -> None:
    processor = load_processor(model_ref(loaded.folder))
    processor.tokenizer.add_tokens([": 8", ": 9"])
    with pytest.raises(ModelError, match="single tokens"):
        resolve_score_tokens(processor.tokenizer, render_chat(processor, PROMPT))


@pytest.mark.parametrize("loaded", ["internvl-internlm2"], indirect=True)
def test_a_sentencepiece_tokenizer_that_puts_a_blank_before_each_answer_is_refused(loaded: Loaded) -> None:
    """InternLM2's vocabulary read as Llama's: prompt and answer would be other tokens apart than together."""
    from pipeline_lib.testing.tiny_families import INTERNVL_TOKENS

    processor = load_processor(model_ref(loaded.folder))
    processor.tokenizer = sentencepiece(
        pad_token="</s>", extra_special_tokens=INTERNVL_TOKENS | {"a": "<|im_start|>", "b": "<|im_end|>"}
    )
    with pytest.raises(ModelError, match="tokens differ"):
        render_chat(processor, PROMPT)


def test_lora_is_on_the_language_models_linears_alone(loaded: Loaded) -> None:
    from peft import get_peft_model

    vlm = load_base(model_ref(loaded.folder), torch.device("cpu"))
    names = language_linears(vlm.model)
    seven = r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
    assert len(names) == 7 * LAYERS and all(re.fullmatch(seven, name) for name in names)
    others = {name for name, module in vlm.model.named_modules() if isinstance(module, nn.Linear)} - set(names)
    assert "lm_head" in others
    assert any("vision" in name or "visual" in name for name in others) == (loaded.family.name != "fast-vlm")
    model = get_peft_model(vlm.model, lora_config(vlm.model, 2))
    check_lora(model, names)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(trained) == 2 * len(names) and all("language_model" in name for name in trained)


def test_a_batch_gives_what_single_images_give(loaded: Loaded) -> None:
    vlm, chat = loaded.vlm, loaded.chat
    images = [noise(size) for size in SIZES]
    beginnings = [chat.separator + answer_prefix(score) for score in (7, 2, 5)] + ["", chat.separator + "#Score: "]
    batch = generate_greedy(vlm, chat, images, beginnings, 8)
    single = [generate_greedy(vlm, chat, [i], [b], 8)[0] for i, b in zip(images, beginnings, strict=True)]
    assert batch == single
    assert len({result.text for result in batch}) > 2
    if loaded.family.most_tiles > 1 or "qwen" in loaded.family.name.split("-")[0]:
        assert len({result.prompt_tokens for result in batch}) > 2
    readouts = read_scores(vlm, chat, loaded.scores, images)
    for image, readout in zip(images, readouts, strict=True):
        alone = read_scores(vlm, chat, loaded.scores, [image])[0]
        assert readout.distribution == pytest.approx(alone.distribution, abs=1e-5)
        assert readout.mass == pytest.approx(alone.mass, abs=1e-5)
    assert len({readout.distribution[0] for readout in readouts}) == len(SIZES)


def test_an_injected_score_is_read_and_continued(loaded: Loaded) -> None:
    """Greedy decoding by hand, a whole forward pass for each token, of the prompt with the injected score."""
    vlm, chat, image = loaded.vlm, loaded.chat, noise((60, 30))
    tokenizer = vlm.processor.tokenizer
    first = []
    for score in (1, 8):
        beginning = chat.separator + answer_prefix(score)
        given: dict[str, Any] = processed(loaded, image, chat.prompt + beginning)
        before = given["input_ids"][0].tolist()
        assert before[-len(tokens(tokenizer, beginning)) :] == tokens(tokenizer, beginning)
        ids: list[int] = []
        for _ in range(6):
            with torch.no_grad():
                logits = vlm.model(**given).logits[0, -1]
            logits[vlm.processor.image_token_id] = -torch.inf
            first += [logits.log_softmax(0)] * (not ids)
            ids.append(int(logits.argmax()))
            if ids[-1] in (tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(chat.end)):
                ids.pop()
                break
            given["input_ids"] = torch.cat([given["input_ids"], torch.tensor([ids[-1:]])], dim=1)
            given["attention_mask"] = torch.ones_like(given["input_ids"])
            if "mm_token_type_ids" in given:
                given["mm_token_type_ids"] = torch.cat([given["mm_token_type_ids"], torch.zeros(1, 1, dtype=int)], 1)
        result = generate_greedy(vlm, chat, [image], [beginning], 6)[0]
        whole = tokenizer.decode(before + ids, skip_special_tokens=True)
        assert whole.endswith(answer_prefix(score) + result.text)
        assert result.tokens in (len(ids), len(ids) + 1)
    assert float((first[0].exp() - first[1].exp()).abs().sum()) > 0.001


def test_an_answer_ends_at_the_end_of_the_turn(loaded: Loaded, tmp_path: Path) -> None:
    """Also where the tokenizer and the generation settings name another token."""
    vlm, chat, image = loaded.vlm, loaded.chat, noise((28, 28))
    end = vlm.processor.tokenizer.convert_tokens_to_ids(chat.end)
    before = processed(loaded, image, chat.prompt)
    row = vlm.model.lm_head.weight[end].clone()
    own = vlm.model.generation_config.eos_token_id
    with torch.no_grad():
        hidden = vlm.model.model(**before).last_hidden_state[0, -1]
        vlm.model.lm_head.weight[end] = hidden * 100
    try:
        vlm.model.generation_config.eos_token_id = None
        result = generate_greedy(vlm, chat, [image], [""], 8)[0]
    finally:
        vlm.model.generation_config.eos_token_id = own
        with torch.no_grad():
            vlm.model.lm_head.weight[end] = row
    assert (result.text, result.tokens, result.finished) == ("", 1, True)


def test_facts_about_the_model(loaded: Loaded) -> None:
    facts = check_model(model_ref(loaded.folder, resize_px=4 * TILE_PX), load_prompt("aesthetics_short"))
    assert facts["architecture"] == type(loaded.vlm.model).__name__
    assert facts["parameters"] == sum(weight.numel() for weight in loaded.vlm.model.parameters())
    assert facts["lora_layers"] == 7 * LAYERS and facts["weights_on_this_machine"] is True
    image = Image.new("RGB", (112, 84))
    assert facts["prompt_tokens"] == processed(loaded, image, loaded.chat.prompt)["input_ids"].shape[1]
    assert (facts["image_tokens"], facts["tiles"]) == {
        "llava-1.5": (4, 1),
        "llava-next-vicuna": (24, 5),
        "llava-next-mistral": (24, 5),
        "llava-interleave": (4, 1),
        "internvl-internlm2": (13, 13),
        "internvl-qwen2": (13, 13),
        "qwen2.5-vl": (12, 1),
        "qwen3-vl": (12, 1),
        "fast-vlm": (4, 1),
    }[loaded.family.name]


def test_the_layout_of_older_checkpoints_loads_the_same(loaded: Loaded, tmp_path: Path) -> None:
    """One file for the image processor, one for the template as JSON, none of the video part or of LLaVA's patches."""
    import json

    folder = Path(shutil.copytree(loaded.folder, tmp_path / "model"))
    config = json.loads((folder / "processor_config.json").read_text())
    images = config.pop("image_processor")
    config.pop("video_processor", None)
    for name in ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens"):
        if loaded.family.name != "fast-vlm":  # a family that was never without
            config.pop(name, None)
    kind = images["image_processor_type"].removesuffix("Pil")
    images |= {"image_processor_type": f"{kind}Fast", "processor_class": config["processor_class"]}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    (folder / "processor_config.json").write_text(json.dumps(config))
    template = folder / "chat_template.jinja"
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template.read_text()}))
    template.unlink()
    processor = load_processor(model_ref(folder))
    assert render_chat(processor, PROMPT) == loaded.chat
    assert type(processor.image_processor).__name__ == f"{kind}Pil"
    before = processed(loaded, noise((60, 30)), loaded.chat.prompt)
    after = processor(
        images=[[noise((60, 30))]], text=[loaded.chat.prompt], add_special_tokens=False, return_tensors="pt"
    )
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
