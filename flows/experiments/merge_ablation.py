"""Other ways of merging the score and the consistency adapter than the paper's, compared on validation."""

from prefect import flow

from flows.self_improve import improve
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.methods.self_improve.report.names import merge_name
from pipeline_lib.store import ArtifactRef
from tasks.self_improve.compare import ComparedModel
from tasks.self_improve.measure import finish, measure
from tasks.self_improve.run import prepare
from tasks.self_improve.ties_merge import ties_merge


@flow(name="merge_ablation", flow_run_name="{recipe.name}")
def merge_ablation(recipe: SelfImproveRecipe) -> ArtifactRef:
    """Merge the two adapters of one iteration in every way that the recipe lists; returns the comparison.

    The iterations before are the run's own: cache hits when it has run.
    """
    run = prepare(recipe)
    base = run.base
    models, fitted_judge, _ = improve(run, recipe.merge_ablation.iteration)
    score, consistency = (
        next(model.training for model in reversed(models) if model.kind == kind) for kind in ("score", "consistency")
    )
    assert score is not None and consistency is not None
    compared: list[ComparedModel] = []
    for name, adapter in (("score adapter", score), ("consistency adapter", consistency)):
        compared.append(measure(run, fitted_judge, "merge_ablation", name, base.with_adapter(adapter), ("val",)))
    for merge in recipe.merge_ablation.merges:
        name = merge_name(merge)
        merged = ties_merge(run.at.labelled(name), merge, base.model, score, consistency, recipe.seed)
        row = measure(run, fitted_judge, "merge_ablation", name, base.with_adapter(merged), ("val",))
        compared.append(row.model_copy(update={"merge": merge}))
    return finish(run, "merge_ablation", compared)
