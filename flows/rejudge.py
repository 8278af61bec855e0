"""Let a new judge model rate the anchors of every iteration, e.g. when the old one is retired."""

import logging
import re

from prefect import flow

from pipeline_lib.errors import RecipeError, StoreError
from pipeline_lib.methods.self_improve.prompt import load_prompt
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.methods.self_improve.rubric import load_rubric
from pipeline_lib.store import ArtifactStore, Miss
from pipeline_lib.store.key import read_reference
from pipeline_lib.store.runs import open_run
from tasks.self_improve.judge_anchors import judge_anchors
from tasks.stage import At, with_whole_inputs

log = logging.getLogger("whyscore.judge")


@flow(name="rejudge", flow_run_name="{recipe.name}")
def rejudge(recipe: SelfImproveRecipe) -> str:
    """Judge the anchors of a finished run with the recipe's judge model; returns the figures beside earlier judges'.

    Raises `StoreError` when the run kept no anchors, `RecipeError` when the recipe names no judge model.
    """
    from pipeline_lib.methods.self_improve.anchors import AnchorVerdicts, anchor_figures

    config = recipe.judge.openai
    if config.model is None:
        raise RecipeError("judge.openai.model: name the judge, e.g. --set judge.openai.model=gpt-4o-2024-08-06")
    store = ArtifactStore(recipe.runtime.store)
    run = open_run(store, recipe, besides=("judge.openai",))
    anchors, rubric = run.find("anchors"), load_rubric(config.rubric)
    if anchors is None:
        raise StoreError(
            f"{store.root}: run {run.name} keeps no anchors; run the recipe to its end with judge.anchors above 0"
        )
    manifest = store.lookup(anchors.address)
    if isinstance(manifest, Miss):
        raise StoreError(f"{store.path(anchors.address)}: {manifest.reason}; run the recipe again to keep anchors")
    texts = manifest.digest  # the same explanations may have been kept under another key
    verdicts = judge_anchors(
        At(recipe.runtime, config.model), config, rubric, load_prompt(recipe.prompt).criterion, anchors
    )
    role = f"anchor_verdicts/{re.sub(r'[^A-Za-z0-9_.-]+', '--', config.model)}-{rubric.name}"
    run.keep(role, verdicts, judge=config.model, anchors=texts)

    table = with_whole_inputs(store, lambda: store.read_table(verdicts.address, "verdicts"))
    judges = [AnchorVerdicts(config.model, table)]
    for other, found in run.pointers("anchor_verdicts").items():
        if other == role:
            continue
        if found["anchors"] != texts:
            log.info("%s judged other anchors of this run; not shown", found["judge"])
            continue
        judges.append(AnchorVerdicts(found["judge"], store.read_table(read_reference(found).address, "verdicts")))
    return anchor_figures(judges, recipe.evaluation.bootstrap, recipe.seed)
