"""The rounds of EvoQuality's Fig. 2 (arXiv 2509.25787): draw pairs, vote, train the ranking, and again."""

from typing import Literal, NamedTuple

from prefect import flow

from pipeline_lib.methods.evo_quality.inputs import Rater
from pipeline_lib.methods.evo_quality.recipe import EvoQualityRecipe
from pipeline_lib.methods.evo_quality.training import ranking_job
from pipeline_lib.store import ArtifactRef
from tasks.evo_quality.change_votes import change_votes
from tasks.evo_quality.draw_pairs import draw_pairs
from tasks.evo_quality.make_variants import make_variants
from tasks.evo_quality.rate_images import rate_images
from tasks.evo_quality.report import EvaluatedRound, report
from tasks.evo_quality.run import Run, evaluate, fell_on_stop_set, finished_control, prepare, settings_of
from tasks.evo_quality.train_ranking import train_ranking
from tasks.evo_quality.vote import vote

Labels = Literal["own", "shuffled", "flipped"]


class Evolved(NamedTuple):
    """The results of the rounds: the base, then each round's model, and the votes over held-out pairs."""

    models: list[EvaluatedRound]
    held_out: ArtifactRef


@flow(name="evo_quality", flow_run_name="{recipe.name}")
def evo_quality(recipe: EvoQualityRecipe) -> ArtifactRef:
    """Make a scorer from images without any label; returns the report's artifact.

    Stages that the store already holds are cached, so running a recipe again after a crash continues where it stopped,
    and running a finished one computes nothing.
    """
    run = prepare(recipe)
    run.begin()
    return conclude(run, evolve(run))


def conclude(run: Run, evolved: Evolved) -> ArtifactRef:
    """The end of a run: its report, which shows the run's control where there is one."""
    control = finished_control(run, evolved.models)
    finished = report(run.at, settings_of(run), run.model, run.images, evolved.held_out, evolved.models, control)
    run.show("report", finished, "report")
    run.end()
    return finished


def evolve(run: Run, labels: Labels = "own", rounds: int | None = None) -> Evolved:
    """The rounds themselves; a control learns other labels of the same pairs."""
    recipe, keep, seed = run.recipe, run.keep, run.recipe.seed
    config, variants = recipe.pairs, recipe.pairs.variants
    rater, images, made = Rater.of(recipe, run.model, run.prompts), run.images, None

    held_out_pairs = draw_pairs(run.at, images, config.held_out, seed, 0)
    held_out = keep(
        "held_out", vote(run.at, recipe.votes, run.model, run.prompts.compare, images, held_out_pairs, seed)
    )
    models = [evaluate(run, 0, "zero-shot", rater, held_out)]
    for number in range(1, (rounds or recipe.rounds) + 1):
        at, folder = run.at.labelled(f"round-{number}"), f"iteration-{number:02d}"
        if number >= variants.from_round and variants.per_image and made is None:
            size = recipe.model.resize_px
            made = keep("variants", make_variants(run.at, images, size, variants.per_image, variants.kinds, seed))
            images = images.with_made(made, recipe.runtime.store)
        drawn = draw_pairs(at, run.images, config.count, seed, number, made, variants.fraction if made else 0.0)
        votes = vote(at, recipe.votes, rater.model, run.prompts.compare, images, drawn, seed)
        if labels != "own":
            votes = change_votes(at, votes, labels, seed)
        keep(f"{folder}/votes", votes)
        own = None
        if recipe.training.target == "own_mean":
            own = keep(f"{folder}/own_ratings", rate_images(at, rater, images, votes, seed))
        job = ranking_job(recipe.training, rater.model, rater.prompt, images, seed, number, recipe.runtime)
        adapter = keep(f"{folder}/ranking/adapter", train_ranking(at, job, votes, own))
        trained = rater.with_adapter(adapter)
        models.append(evaluate(run, number, "ranking", trained, held_out, votes, adapter))
        if fell_on_stop_set(run, number, rater, trained):
            break
        rater, _ = trained, keep("model", adapter)
    return Evolved(models, held_out)
