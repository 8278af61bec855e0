"""The loop of the paper's Fig. 2: generate, swap, train both, merge, evaluate, and again with the model just made."""

from typing import Literal

from prefect import flow

from pipeline_lib.data.photographs import Photographs
from pipeline_lib.data.table import fingerprint, read_image_list
from pipeline_lib.recipe import Recipe
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.vlm.model_ref import ModelRef, resolve_model
from pipeline_lib.vlm.prompt import load_prompt
from tasks.check_model import check_model
from tasks.discretize import discretize
from tasks.evaluate import evaluate
from tasks.fit_judge import fit_judge
from tasks.generate import generate
from tasks.judge import judge
from tasks.report import EvaluatedModel, Settings, report
from tasks.swap import swap
from tasks.ties_merge import ties_merge
from tasks.train_consistency import train_consistency
from tasks.train_score import train_score

Kind = Literal["zero-shot", "score", "consistency", "merged"]


@flow(name="self_improve", flow_run_name="{recipe.name}")
def self_improve(recipe: Recipe) -> ArtifactRef:
    """Self-train a vision-language model on images and scores (section 3, Fig. 2); returns the report's artifact.

    Every stage that the store already holds is taken from there, so running a recipe again after a crash goes on where
    it stopped, and running a finished one computes nothing.
    """
    at, seed, training = recipe.runtime, recipe.seed, recipe.training
    store = ArtifactStore(at.store)
    store.check_writable()
    prompt, base = load_prompt(recipe.prompt), resolve_model(recipe.model)
    image_list = read_image_list(recipe.data, seed)

    def keep(path: str, ref: ArtifactRef) -> ArtifactRef:
        store.write_pointer(f"runs/{recipe.name}/{path}.json", {"address": ref.address, **ref.model_dump()})
        return ref

    keep("model_facts", check_model(at, base, prompt, label="base"))
    table = keep("images", discretize(at, recipe.data, seed, fingerprint(image_list)))
    photographs = Photographs.of(recipe.data, table)
    models: list[EvaluatedModel] = []

    def evaluate_and_judge(iteration: int, kind: Kind, model: ModelRef, training: ArtifactRef | None = None) -> None:
        name, folder = (f"ite-{iteration} {kind}" if iteration else kind), f"iteration-{iteration:02d}/{kind}"
        predictions = evaluate(at, recipe.evaluation, prompt, model, photographs, seed, label=name)
        verdicts = judge(at, recipe.judge, recipe.evaluation, fitted_judge, predictions, seed, label=name)
        keep(f"{folder}/predictions", predictions)
        keep(f"{folder}/verdicts", verdicts)
        models.append(
            EvaluatedModel(
                iteration=iteration, kind=kind, predictions=predictions, verdicts=verdicts, training=training
            )
        )

    model = base
    for iteration in range(1, recipe.iterations + 1):
        ite, folder = f"ite-{iteration}", f"iteration-{iteration:02d}"
        score_pairs = generate(at, recipe.generation, prompt, model, photographs, seed, iteration, label=ite)
        keep(f"{folder}/score_pairs", score_pairs)
        if iteration == 1:  # the judge learns from what the base wrote, and is the same for all models
            fitted_judge = keep("judge", fit_judge(at, recipe.judge, score_pairs, seed))
            evaluate_and_judge(0, "zero-shot", base)

        score = train_score(at, training, prompt, model, photographs, score_pairs, seed, iteration, label=ite)
        keep(f"{folder}/score/adapter", score)
        evaluate_and_judge(iteration, "score", model.with_adapter(score), score)
        if iteration == 1:  # the base scores too badly to learn consistency yet (section 3.2)
            model = model.with_adapter(score)
            continue

        pairs = swap(at, recipe.swap, score_pairs, seed, iteration, label=ite)
        keep(f"{folder}/consistency_pairs", pairs)
        consistency = train_consistency(
            at, training, recipe.consistency, prompt, model, photographs, pairs, seed, iteration, label=ite
        )
        keep(f"{folder}/consistency/adapter", consistency)
        evaluate_and_judge(iteration, "consistency", model.with_adapter(consistency), consistency)

        merged = ties_merge(at, recipe.merge, base, score, consistency, label=ite)
        keep(f"{folder}/merged/adapter", merged)
        model = model.with_adapter(merged)
        evaluate_and_judge(iteration, "merged", model)

    finished = report(at, Settings(recipe=recipe), base, photographs, fitted_judge, models)
    keep("report", finished)
    store.copy_out(finished.address, f"runs/{recipe.name}/report")
    return finished
