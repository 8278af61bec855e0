"""base model, prompt -> the facts that the other stages rely on."""

import json

from pipeline_lib.methods.self_improve.prompt import Prompt
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.stage import Work, stage


@stage(version=1)
def check_model(work: Work, base: ModelRef, prompt: Prompt) -> None:
    """Refuse a model that WhyScore cannot use, before anything expensive; writes `model_facts.json`."""
    from pipeline_lib.methods.self_improve.check_model import check_model as check

    facts = json.dumps(check(base, prompt), indent=2, ensure_ascii=False)
    (work.attempt.folder / "model_facts.json").write_text(facts, encoding="utf-8")
