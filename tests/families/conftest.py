"""One tiny checkpoint of each family, made and loaded once for all tests."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from pipeline_lib.methods.self_improve.score_tokens import ScoreTokens, resolve_score_tokens
from pipeline_lib.testing.tiny import PROMPT, model_ref
from pipeline_lib.testing.tiny_families import FAMILIES, Family, save
from pipeline_lib.vlm.chat import Chat, render_chat
from pipeline_lib.vlm.load import Vlm, load_base


class Loaded(NamedTuple):
    """A family's checkpoint, loaded as a stage loads it."""

    family: Family
    folder: Path
    vlm: Vlm
    chat: Chat
    scores: ScoreTokens


@pytest.fixture(scope="session")
def _load(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    @cache
    def load(name: str) -> Loaded:
        family = next(family for family in FAMILIES if family.name == name)
        folder = save(family, tmp_path_factory.mktemp(name) / "model")
        vlm = load_base(model_ref(folder), torch.device("cpu"))
        chat = render_chat(vlm.processor, PROMPT)
        return Loaded(family, folder, vlm, chat, resolve_score_tokens(vlm.processor.tokenizer, chat))

    return load


@pytest.fixture(params=[family.name for family in FAMILIES])
def loaded(request: pytest.FixtureRequest, _load) -> Loaded:  # type: ignore[no-untyped-def]
    return _load(request.param)
