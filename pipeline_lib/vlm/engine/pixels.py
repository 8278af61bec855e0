"""Log-probabilities of a server's answers by the model on this machine, which the server must give too.

Tokens do not show what a server makes of an image: another resizing gives the same number of tokens and other answers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL.Image import Image

from pipeline_lib.store import ArtifactStore
from pipeline_lib.vlm.chat import Chat
from pipeline_lib.vlm.generate.inputs import model_inputs
from pipeline_lib.vlm.load import load_vlm
from pipeline_lib.vlm.model_ref import ModelRef

TOLERANCE = {"float32": 2e-3, "float16": 0.1, "bfloat16": 0.3}
"""In nats a token, by `model.dtype`.

In float32 vLLM 0.32 with Pillow is within 1e-4 and with torchvision's resizing up to 4e-2 away. The values for 16 bit
are chosen, not measured: two engines round so differently there that only other pixels (tiles, normalisation, another
image) are found, not another resizing.
"""


class Continued(NamedTuple):
    """An image, the beginning of an answer about it, and the tokens behind it."""

    image: Image
    beginning: str
    ids: Sequence[int]


@torch.no_grad()
def continuation_logps(
    ref: ModelRef, store: ArtifactStore, device: torch.device, chat: Chat, texts: Sequence[Continued]
) -> list[list[float]]:
    """For each text the log-probability of each of its tokens, in nats.

    The model with its adapter is loaded for this and dropped again.
    """
    vlm = load_vlm(ref, store, device)
    found = []
    for image, beginning, ids in texts:
        inputs = dict(model_inputs(vlm, [[image]], [chat.prompt + chat.separator + beginning]))
        behind = inputs["input_ids"].new_tensor([list(ids)])
        for name, value in (
            ("input_ids", behind),
            ("attention_mask", behind * 0 + 1),
            ("mm_token_type_ids", behind * 0),
        ):
            if name in inputs:
                inputs[name] = torch.cat([inputs[name], value.to(inputs[name].dtype)], dim=1)
        logits = vlm.model(**inputs, logits_to_keep=len(ids) + 1, use_cache=False).logits[0, :-1]
        found.append(logits.double().log_softmax(-1).gather(1, behind[0, :, None])[:, 0].tolist())
    return found
