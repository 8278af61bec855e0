"""everything -> the report and a text."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.judges.vlm_judge import JudgePrompt
from pipeline_lib.methods.self_judge.pairs import InjectPrompt
from pipeline_lib.methods.self_judge.recipe import SelfJudgeRecipe
from pipeline_lib.store import ArtifactRef
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.stage import Work, stage


class Learned(BaseModel):
    """What an iteration learned from, and its training."""

    model_config = ConfigDict(frozen=True)

    pairs: ArtifactRef
    reasons: ArtifactRef
    filtered: ArtifactRef
    training: ArtifactRef


class EvaluatedJudge(BaseModel):
    """The base (iteration 0) or the judge of an iteration, with its verdicts by the name of the pairs."""

    model_config = ConfigDict(frozen=True)

    iteration: int
    measured: dict[str, ArtifactRef]
    learned: Learned | None = None


class Settings(BaseModel):
    """What the report shows of the recipe."""

    model_config = ConfigDict(frozen=True)

    recipe: SelfJudgeRecipe
    judge_prompt: JudgePrompt
    inject_prompt: InjectPrompt

    def key_fields(self) -> dict[str, Any]:
        """All but `runtime`, which changes no result."""
        prompts = {"judge_prompt": self.judge_prompt, "inject_prompt": self.inject_prompt}
        return {"recipe": self.recipe.run_fields(), **prompts}


@stage(version=2)  # 2: a verdict in words
def report(
    work: Work,
    settings: Settings,
    base: ModelRef,
    images: ImageSet,
    pair_images: dict[str, ImageSet],
    judges: list[EvaluatedJudge],
    control: list[EvaluatedJudge],
) -> None:
    """One page and one text: accuracy and the share of kept reasons by iteration, as the paper's table and figures."""
    from pipeline_lib.methods.self_judge.report import JudgeResults, LearnedResults, Results, report_page, results_text
    from pipeline_lib.methods.self_judge.verdict import run_verdict
    from pipeline_lib.report.page import render_page
    from pipeline_lib.report.verdict import write_verdict

    def learned_results(learned: Learned) -> LearnedResults:
        return LearnedResults(
            synthesis=work.read(learned.pairs, "synthesis"),
            synthesis_metrics=work.read(learned.pairs, "metrics"),
            reasons=work.read(learned.reasons, "reasons"),
            filtered=work.read(learned.filtered, "filtered"),
            filter_metrics=work.read(learned.filtered, "metrics"),
            traces=work.read(learned.filtered, "traces"),
            training_log=work.read(learned.training, "training_log"),
        )

    def results_of(judge: EvaluatedJudge) -> JudgeResults:
        return JudgeResults(
            iteration=judge.iteration,
            judgements={name: work.read(ref, "judgements") for name, ref in judge.measured.items()},
            metrics={name: work.read(ref, "metrics") for name, ref in judge.measured.items()},
            learned=learned_results(judge.learned) if judge.learned else None,
        )

    results = Results(
        recipe=settings.recipe,
        judge_prompt=settings.judge_prompt.text,
        inject_prompt=settings.inject_prompt.text,
        model_name=base.name,
        unreadable=work.read(images.table, "unreadable_images"),
        judges=[results_of(judge) for judge in judges],
        control=[results_of(judge) for judge in control],
        openers={name: found.opener(base.resize_px) for name, found in pair_images.items()},
    )
    folder = work.attempt.folder
    verdict = run_verdict(results)
    write_verdict(verdict, folder)
    (folder / "report.html").write_text(render_page(report_page(results)._replace(verdict=verdict)), encoding="utf-8")
    (folder / "results.txt").write_text(results_text(results), encoding="utf-8")
