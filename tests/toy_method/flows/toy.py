"""The toy: ask about two images at once, keep the shortest answers, learn them."""

from pipeline_lib.methods.toy.recipe import ToyRecipe
from prefect import flow
from tasks.toy.keep_answers import keep_answers
from tasks.toy.report import report
from tasks.toy.run import Run, prepare
from tasks.toy.sample_answers import sample_answers
from tasks.toy.train_kept import train_kept

from pipeline_lib.store import ArtifactRef
from pipeline_lib.train.job import SFT, TrainingJob


@flow(name="toy", flow_run_name="{recipe.name}")
def toy(recipe: ToyRecipe) -> ArtifactRef:
    """Learn the shortest of its own answers about two images; returns the report's artifact."""
    run = prepare(recipe)
    run.begin()
    return learn(run, longest=False)


def learn(run: Run, *, longest: bool) -> ArtifactRef:
    """Sample answers, keep some, learn them, and report."""
    at, keep, recipe, config = run.at, run.keep, run.recipe, run.recipe.training
    answers = sample_answers(
        at, recipe.answers, run.model, run.images, recipe.question, recipe.model.max_new_tokens, recipe.seed
    )
    keep("answers", answers)
    kept = keep("kept", keep_answers(at, answers, longest))
    job = TrainingJob(
        base=run.model,
        prompt=recipe.question,
        images=run.images,
        loss=SFT(),
        lora=config.lora,
        learning_rate=config.learning_rate,
        start=None,
        seed=recipe.seed,
    )
    adapter = keep("adapter", train_kept(at, job, kept))
    finished = report(at, run.name, recipe.question, recipe.model.resize_px, run.images, answers, kept, adapter)
    run.show("report", finished, "report")
    run.end()
    return finished
