"""Images on their way to each family: sizes and tiles with the real settings, odd files, limits."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline_lib.errors import DataError, ModelError
from pipeline_lib.testing.tiny import model_ref, picture
from pipeline_lib.vlm.load import load_base, load_processor
from tests.asking import generate_greedy, read_scores
from tests.decoding import decode
from tests.families.conftest import Loaded

_CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "crop_size": {"height": 336, "width": 336},
    "size": {"shortest_edge": 336},
}
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_NEXT = _CLIP | {
    "image_processor_type": "LlavaNextImageProcessor",
    "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
}
_INTERNVL = _IMAGENET | {
    "image_processor_type": "GotOcr2ImageProcessorFast",
    "size": {"height": 448, "width": 448},
    "crop_to_patches": False,
    "min_patches": 1,
    "max_patches": 12,
}
_MOBILENET = _HALF | {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 256},
    "crop_size": {"height": 224, "width": 224},
}
_PATCH: dict[str, Any] = {"patch_size": 14}
_TILES: dict[str, Any] = {"image_seq_length": 256}
REAL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llava-1.5": (_CLIP | {"image_processor_type": "CLIPImageProcessor"}, _PATCH),
    "llava-next-vicuna": (_NEXT, _PATCH),
    "llava-next-mistral": (_NEXT, _PATCH),
    "llava-interleave": (
        _HALF | {"image_processor_type": "SiglipImageProcessor", "size": {"height": 384, "width": 384}},
        _PATCH,
    ),
    "internvl-internlm2": (_INTERNVL, _TILES),
    "internvl-qwen2": (_INTERNVL, _TILES),
    "qwen2.5-vl": (
        _CLIP
        | {
            "image_processor_type": "Qwen2VLImageProcessor",
            "min_pixels": 3136,
            "max_pixels": 12845056,
            "size": None,
            "crop_size": None,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
        },
        {},
    ),
    "qwen3-vl": (
        _HALF
        | {
            "image_processor_type": "Qwen2VLImageProcessorFast",
            "size": {"longest_edge": 16777216, "shortest_edge": 65536},
            "patch_size": 16,
            "temporal_patch_size": 2,
            "merge_size": 2,
        },
        {},
    ),
    "fast-vlm": (_MOBILENET, {"patch_size": 32}),
}
"""The image processors' settings as the published checkpoints have them, and the token counts of their processors."""

NEXT = {
    (448, 336): ([1, 3, 3, 336, 336], 576 + 24 * 32 + 24),
    (336, 448): ([1, 3, 3, 336, 336], 576 + 32 * 24 + 32),
    (448, 448): ([1, 5, 3, 336, 336], 576 + 48 * 48 + 48),
    (448, 112): ([1, 3, 3, 336, 336], 576 + 12 * 48 + 12),
}
INTERNVL = {
    (448, 336): ([13, 3, 448, 448], 13 * 256),
    (336, 448): ([13, 3, 448, 448], 13 * 256),
    (448, 448): ([1, 3, 448, 448], 256),
    (448, 112): ([5, 3, 448, 448], 5 * 256),
}
EXPECTED: dict[str, dict[tuple[int, int], tuple[list[int], int]]] = {
    "llava-1.5": {size: ([1, 3, 336, 336], 576) for size in NEXT},
    "llava-next-vicuna": NEXT,
    "llava-next-mistral": NEXT,
    "llava-interleave": {size: ([1, 3, 384, 384], 729) for size in NEXT},
    "internvl-internlm2": INTERNVL,
    "internvl-qwen2": INTERNVL,
    "qwen2.5-vl": {
        (448, 336): ([1, 24, 32], 192),
        (336, 448): ([1, 32, 24], 192),
        (448, 448): ([1, 32, 32], 256),
        (448, 112): ([1, 8, 32], 64),
    },
    "qwen3-vl": {
        (448, 336): ([1, 20, 28], 140),
        (336, 448): ([1, 28, 20], 140),
        (448, 448): ([1, 28, 28], 196),
        (448, 112): ([1, 8, 32], 64),
    },
    "fast-vlm": {size: ([1, 3, 224, 224], 49) for size in NEXT},
}
"""Pixel values' shape (for Qwen: the grid of patches) and image tokens, for images that were resized to 448 px."""


def with_real_images(loaded: Loaded, folder: Path) -> Path:
    """The family's checkpoint with the published settings of its image processor."""
    shutil.copytree(loaded.folder, folder)
    images, counts = REAL[loaded.family.name]
    path = folder / "processor_config.json"
    config = json.loads(path.read_text())
    config.pop("image_processor")
    path.write_text(json.dumps(config | counts))
    (folder / "preprocessor_config.json").write_text(json.dumps({k: v for k, v in images.items() if v is not None}))
    return folder


def shapes(processor: Any, image: Image.Image, prompt: str) -> tuple[list[int], int]:
    inputs = processor(images=[[image]], text=[prompt], add_special_tokens=False, return_tensors="pt")
    grid = inputs.get("image_grid_thw")
    shape = list(inputs["pixel_values"].shape) if grid is None else grid[0].tolist()
    return shape, int((inputs["input_ids"] == processor.image_token_id).sum())


def test_an_image_of_448_px_goes_through_the_familys_own_processing(loaded: Loaded, tmp_path: Path) -> None:
    processor = load_processor(model_ref(with_real_images(loaded, tmp_path / "real")))
    found = {
        size: shapes(processor, Image.new("RGB", size), loaded.chat.prompt) for size in EXPECTED[loaded.family.name]
    }
    assert found == EXPECTED[loaded.family.name]


@pytest.mark.parametrize("most", [1, 2, 4, 6])
def test_tiles_are_limited_where_a_family_tiles_and_else_refused(loaded: Loaded, tmp_path: Path, most: int) -> None:
    ref = model_ref(loaded.folder, max_tiles=most)
    if loaded.family.most_tiles == 1:
        with pytest.raises(ModelError, match=f"model.max_tiles {most}"):
            load_processor(ref)
        return
    if loaded.family.name.startswith("llava-next") and most == 1:
        with pytest.raises(ModelError, match="2 tiles"):
            load_processor(ref)
        return
    vlm = load_base(ref, torch.device("cpu"))
    images = [picture(f"{size}", 128).crop((0, 0, *size)) for size in [(112, 84), (84, 28), (28, 28), (56, 112)]]
    views = []
    for image in images:
        inputs = vlm.processor(images=[[image]], text=[loaded.chat.prompt], return_tensors="pt")
        views.append(inputs["pixel_values"].shape[-4])
    assert max(views) == {1: 1, 2: 3, 4: 5, 6: 5 if "next" in loaded.family.name else 7}[most]
    batch = generate_greedy(vlm, loaded.chat, images, [""] * 4, 4)  # the model counts the tiles as the processor does
    assert batch == [generate_greedy(vlm, loaded.chat, [image], [""], 4)[0] for image in images]


def odd_files() -> dict[str, tuple[bytes, tuple[int, int]]]:
    """Files of odd kinds and the size they have upright."""
    rgb = picture("odd", 60).crop((0, 0, 60, 40))
    grey16 = Image.fromarray(np.linspace(0, 65535, 60 * 40).astype(np.uint16).reshape(40, 60))
    rotated = Image.Exif()
    rotated[0x0112] = 6
    alpha = rgb.copy()
    alpha.putalpha(100)

    def save(image: Image.Image, kind: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    return {
        "palette": (save(rgb.quantize(16), "PNG"), (60, 40)),
        "cmyk": (save(rgb.convert("CMYK"), "JPEG"), (60, 40)),
        "grey": (save(rgb.convert("L"), "JPEG"), (60, 40)),
        "16 bit": (save(grey16, "PNG"), (60, 40)),
        "bilevel": (save(rgb.convert("1"), "PNG"), (60, 40)),
        "alpha": (save(alpha, "PNG"), (60, 40)),
        "rotated": (save(rgb, "JPEG", exif=rotated.tobytes()), (40, 60)),
        "one pixel": (save(rgb.crop((0, 0, 1, 1)), "PNG"), (1, 1)),
        "three high": (save(rgb.crop((0, 0, 60, 3)), "PNG"), (60, 3)),
        "narrow": (save(rgb.resize((1, 190)), "PNG"), (1, 190)),
    }


def test_images_of_odd_kinds_are_scored(loaded: Loaded) -> None:
    files = odd_files()
    images = []
    for content, size in files.values():
        image = decode(content, 100.0)
        assert image.size == size and image.mode == "RGB"
        images.append(image)
    readouts = read_scores(loaded.vlm, loaded.chat, loaded.scores, images)
    assert all(np.isfinite(readout.distribution).all() for readout in readouts)
    for name, image, readout in zip(files, images, readouts, strict=True):
        alone = read_scores(loaded.vlm, loaded.chat, loaded.scores, [image])[0]
        assert readout.distribution == pytest.approx(alone.distribution, abs=1e-5), name
    results = generate_greedy(loaded.vlm, loaded.chat, images, [""] * len(images), 2)
    assert all(result.tokens for result in results)


def test_an_image_of_an_extreme_shape_is_processed_or_refused_by_name(loaded: Loaded) -> None:
    image = Image.new("RGB", (1, 400))
    image.info["image"] = "tower.png"
    if "qwen" in loaded.family.name and "vl" in loaded.family.name.split("-"):
        for ask in (
            lambda: generate_greedy(loaded.vlm, loaded.chat, [image], [""], 2),
            lambda: read_scores(loaded.vlm, loaded.chat, loaded.scores, [image]),
        ):
            with pytest.raises(DataError, match=r"tower\.png is 1x400 px .*200 : 1.*400"):
                ask()
    else:
        assert generate_greedy(loaded.vlm, loaded.chat, [image], [""], 2)[0].tokens


def test_pillow_processes_images_whatever_is_installed(loaded: Loaded) -> None:
    assert type(loaded.vlm.processor.image_processor).__name__.endswith("Pil")
    assert not hasattr(loaded.vlm.processor, "video_processor")


def test_a_photograph_too_large_is_refused_before_it_is_decoded() -> None:
    """A file of a few kilobytes that says it has 400 million pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 60001)) + chunk(b"IEND", b"")
    with pytest.raises(ValueError, match=r"20000x20000 px is over data\.max_megapixels"):
        decode(bomb, 100.0)
