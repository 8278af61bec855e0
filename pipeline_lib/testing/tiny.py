"""A tiny vision-language model of random weights and the data to feed it; shared by the tests, built in a second."""

import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
    SiglipVisionConfig,
)

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.methods.self_improve.prompt import load_prompt
from pipeline_lib.methods.self_improve.recipe import Training
from pipeline_lib.methods.self_improve.tables import IMAGES, SCORE_PAIRS
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.tables.pairs import REFERENCE_LOGPS
from pipeline_lib.tables.table import conform
from pipeline_lib.train.job import DPO, Place, TrainingJob
from pipeline_lib.vlm.model_ref import ModelRef
from pipeline_lib.vlm.weights import folder_fingerprint

torch.set_num_threads(1)

SIDE_PX, PATCH_PX, LAYERS = 16, 8, 2
PAD, BOS, EOS, IMAGE = "<pad>", "<s>", "</s>", "<image>"
PROMPT = load_prompt("aesthetics_short").text
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}USER: "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
SENTENCES = [
    PROMPT,
    "USER: <image>\nRate the look. ASSISTANT: #Score: 7\n\n#Explain: The picture is sharp and bright.",
    *(f" #Score: {score}\n\n#Explain: The light is good, the colours are dull." for score in range(10)),
]


def byte_level_tokenizer(digits: Literal["separate", "fused", "merged"] = "separate") -> PreTrainedTokenizerFast:
    """A byte-level BPE: a digit apart from the blank before it as in Llama 2, fused with it as in GPT-2, or merged with
    whatever stands around it."""
    bpe = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=digits != "merged")
    apart = [pre_tokenizers.Digits(individual_digits=True)] if digits == "separate" else []
    bpe.pre_tokenizer = pre_tokenizers.Sequence([*apart, byte_level])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[PAD, BOS, EOS, IMAGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=2,
    )
    bpe.train_from_iterator(SENTENCES * 3, trainer)
    return _fast(bpe)


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """A BPE behind Metaspace, whose decoder drops the blank at the very beginning of a text, as in Llama 2."""
    bpe = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Metaspace(prepend_scheme="first", split=True),
            pre_tokenizers.Split("\n", "isolated"),
        ]
    )
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[PAD, BOS, EOS, IMAGE, "<unk>"], show_progress=False, min_frequency=2
    )
    bpe.train_from_iterator(SENTENCES * 3, trainer)
    return _fast(bpe)


def _fast(bpe: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="right",  # the wrong side, as in several families, so that the library must pass its own
        clean_up_tokenization_spaces=False,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast, template: str | None = TEMPLATE) -> LlavaProcessor:
    """Image processor, tokenizer and chat template in one."""
    size = {"height": SIDE_PX, "width": SIDE_PX}
    return LlavaProcessor(
        image_processor=SiglipImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        tokenizer=tokenizer,
        patch_size=PATCH_PX,
        vision_feature_select_strategy="full",
        chat_template=template,
        num_additional_image_tokens=0,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> LlavaForConditionalGeneration:
    """Two layers of everything, weights so large that different images and texts get different answers."""
    torch.manual_seed(seed)
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    small: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
    }
    text = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=512, initializer_range=0.3, tie_word_embeddings=False,
        **small, **ids,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(image_size=SIDE_PX, patch_size=PATCH_PX, vision_use_head=False, **small),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        image_seq_length=(SIDE_PX // PATCH_PX) ** 2,
        tie_word_embeddings=False,
        initializer_range=0.3,
        **ids,
    )
    return LlavaForConditionalGeneration(config).eval()


def save_tiny_model(folder: Path, seed: int = 0) -> Path:
    """A checkpoint directory with everything that a real one has."""
    tokenizer = byte_level_tokenizer()
    build_model(tokenizer, seed).save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    return folder


def model_ref(folder: Path, **changes: Any) -> ModelRef:
    """A reference to a saved tiny model."""
    fields: dict[str, Any] = {
        "name": "tiny",
        "location": str(folder),
        "revision": None,
        "fingerprint": folder_fingerprint(folder),
        "dtype": "float32",
        "resize_px": SIDE_PX,
    }
    return ModelRef(**fields | changes)


def picture(name: str, side_px: int = SIDE_PX) -> Image.Image:
    """An image of noise that depends on its name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8))


def open_picture(image: str, sha256: str) -> Image.Image:
    """Replaces `ImageSet.opener`."""
    return picture(image)


def image_table(count: int, split: str = "train") -> pa.Table:
    """Images whose bins go round 0..9."""
    bins = [at % 10 for at in range(count)]
    rows = {
        "image": [f"{split}-{at}.png" for at in range(count)],
        "image_sha256": ["0" * 64] * count,
        "width_px": [SIDE_PX] * count,
        "height_px": [SIDE_PX] * count,
        "score": [bin + 0.5 for bin in bins],
        "bin": bins,
        "split": [split] * count,
        "group": [f"{split}-{at}.png" for at in range(count)],
    }
    return conform(pa.table(rows), IMAGES.schema)


def preference_pairs(count: int, prompt: str, **columns: list[Any]) -> pa.Table:
    """Made-up pairs in `SCORE_PAIRS`, every second one cut off by the length limit."""
    goods, bads = ["sharp and bright.", "calm, the light is good."], ["dull.", "the colours are dull and grey."]
    rows: dict[str, list[Any]] = {
        "image": [f"train-{at}.png" for at in range(count)],
        "image_sha256": ["0" * 64] * count,
        "prompt": [prompt] * count,
        "true_score": [at % 10 for at in range(count)],
        "wrong_score": [(at + 5) % 10 for at in range(count)],
        "chosen": [f"#Score: {at % 10}\n\n#Explain: The picture is {goods[at % 2]}" for at in range(count)],
        "rejected": [f"#Score: {(at + 5) % 10}\n\n#Explain: The picture is {bads[at % 2]}" for at in range(count)],
        "prompt_tokens": [40] * count,
        "chosen_tokens": [30] * count,
        "rejected_tokens": [30] * count,
        "chosen_finished": [at % 2 == 0 for at in range(count)],
        "rejected_finished": [True] * count,
    }
    return conform(pa.table(rows | columns), SCORE_PAIRS.schema)


def reference_of(
    vlm: Any, chat: Any, pairs: pa.Table, open_image: Any = open_picture, consistency_pairs: pa.Table | None = None
) -> pa.Table:
    """The reference of pairs about images of `image_table`, in `REFERENCE_LOGPS`."""
    from pipeline_lib.methods.self_improve.pairs import PAIR_ANSWERS, answers_of_pairs
    from pipeline_lib.train.reference import reference_logps

    rows = answers_of_pairs(pairs, consistency_pairs, image_table(pairs.num_rows), 400)
    progress = Progress("reference", pairs.num_rows)
    found = reference_logps(vlm, chat, rows, PAIR_ANSWERS, open_image, max_length=400, batch_size=8, progress=progress)
    return conform(found, REFERENCE_LOGPS.schema)


def training(
    model: Path | ModelRef, store: ArtifactStore, address: str, save_to: Path, config: Training, **changes: Any
) -> dict[str, Any]:
    """`job` and `place` of a training on a tiny model, by default DPO; `changes` are fields of either."""
    job: dict[str, Any] = {
        "base": model_ref(model) if isinstance(model, Path) else model,
        "prompt": PROMPT,
        "images": ImageSet(table=ArtifactRef(stage="discretize", key="k"), folder="", max_megapixels=1.0),
        "loss": DPO(beta=config.beta, sft_weight=config.sft_weight),
        "lora": config.lora,
        "learning_rate": config.learning_rate,
        "start": None,
        "seed": 3,
    }
    place: dict[str, Any] = {
        "store": store,
        "address": address,
        "save_to": save_to,
        "label": "training",
        "checkpoint_every": 1,
    }
    for name, value in changes.items():
        (job if name in job else place)[name] = value
    return {"job": TrainingJob(**job), "place": Place(**place)}


def publish_folder(store: ArtifactStore, ref: ArtifactRef, folder: Path) -> ArtifactRef:
    """Publish the files of a folder as an artifact."""
    with store.attempt() as attempt:
        for path in folder.iterdir():
            (attempt.folder / path.name).write_bytes(path.read_bytes())
        store.publish(ref.address, attempt, {})
    return ref
