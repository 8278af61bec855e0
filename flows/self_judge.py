"""The loop of the paper's Fig. 1: synthesize pairs, reason, filter, train, and again with the new judge."""

from prefect import flow

from pipeline_lib.methods.self_judge.recipe import SelfJudgeRecipe
from pipeline_lib.methods.self_judge.training import sft_job
from pipeline_lib.store import ArtifactRef
from tasks.self_judge.filter_traces import filter_traces
from tasks.self_judge.reason import reason
from tasks.self_judge.report import EvaluatedJudge, Learned, Settings, report
from tasks.self_judge.run import Run, measure, prepare
from tasks.self_judge.synthesize_pairs import synthesize_pairs
from tasks.self_judge.train_judge import train_judge


@flow(name="self_judge", flow_run_name="{recipe.name}")
def self_judge(recipe: SelfJudgeRecipe) -> ArtifactRef:
    """Teach a VLM to judge answers about images from images and questions alone (arXiv 2512.05145); returns the report.

    Stages that the store already holds are cached, so running a recipe again after a crash continues where it stopped.
    """
    run = prepare(recipe)
    run.begin()
    return conclude(run, learn(run))


def learn(run: Run, *, flipped: bool = False) -> list[EvaluatedJudge]:
    """The loop itself; the base and the judge of each iteration. A control flips the verdicts in the filter."""
    recipe, keep, seed, base = run.recipe, run.keep, run.recipe.seed, run.base
    judge = base
    judges = [EvaluatedJudge(iteration=0, measured=measure(run, 0, judge))]
    for iteration in range(1, recipe.iterations + 1):
        at, folder = run.at.labelled(f"ite-{iteration}"), f"iteration-{iteration:02d}"
        pairs = synthesize_pairs(
            at, recipe.pairs, run.inject_prompt, base, run.images, "train", seed, iteration
        )  # an answer and the same with injected errors; the majority and another
        reasons = reason(at, recipe.reasons, run.judge_prompt, judge, run.images, pairs, seed, iteration)
        filtered = filter_traces(at, recipe.filter, reasons, flipped)
        job = sft_job(recipe.training, judge, run.judge_prompt, run.images, seed, iteration)
        adapter = train_judge(at, job, filtered, recipe.training.balance)
        keep(f"{folder}/pairs", pairs)
        keep(f"{folder}/reasons", reasons)
        keep(f"{folder}/filtered", filtered)
        keep(f"{folder}/judge/adapter", adapter)
        judge = base.with_adapter(keep("model", adapter))
        learned = Learned(pairs=pairs, reasons=reasons, filtered=filtered, training=adapter)
        judges.append(EvaluatedJudge(iteration=iteration, measured=measure(run, iteration, judge), learned=learned))
    return judges


def conclude(run: Run, judges: list[EvaluatedJudge], control: list[EvaluatedJudge] | None = None) -> ArtifactRef:
    """The report of a run, beside its control where there is one."""
    recipe = run.recipe.model_copy(update={"name": run.folder.name})  # that of a control is another one
    settings = Settings(recipe=recipe, judge_prompt=run.judge_prompt, inject_prompt=run.inject_prompt)
    where = {data.name: data.images for data in run.measured}
    finished = report(run.at, settings, run.base, run.images, where, judges, control or [])
    run.show("report", finished, "report")
    run.end()
    return finished
