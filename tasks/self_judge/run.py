"""The beginning of every flow (checked recipe, questions, pairs to measure with, base), and measuring a judge."""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.judges.vlm_judge import JudgePrompt, load_judge_prompt
from pipeline_lib.methods.self_judge import answer_pairs, prompts_table
from pipeline_lib.methods.self_judge.pairs import InjectPrompt, load_inject_prompt
from pipeline_lib.methods.self_judge.recipe import SelfJudgeRecipe
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.vlm.model_ref import ModelRef, resolve_model
from tasks.common import run as common
from tasks.self_judge.evaluate_judge import Source, evaluate_judge
from tasks.self_judge.list_pairs import list_pairs
from tasks.self_judge.list_prompts import list_prompts
from tasks.self_judge.synthesize_pairs import synthesize_pairs
from tasks.stage import At
from tasks.stage.plan import is_planning

HELD_OUT = "held_out"
"""The name of the synthetic pairs that are made from the validation images."""


class Measured(NamedTuple):
    """Pairs to measure with, and their images."""

    name: str
    pairs: ArtifactRef
    images: ImageSet
    source: Source


@dataclass(frozen=True)
class Run(common.Run[SelfJudgeRecipe]):
    """A run: its prompts, the base, the images with their questions, and the pairs that judges are measured with."""

    base: ModelRef
    judge_prompt: JudgePrompt
    inject_prompt: InjectPrompt
    images: ImageSet
    measured: tuple[Measured, ...]
    label: str = ""

    @property
    def at(self) -> At:
        """How and where stages are computed."""
        return At.beginning(self.recipe.runtime, self.label)


def prepare(recipe: SelfJudgeRecipe) -> Run:
    """Check store, prompts, model and tables, in the order of their cost; read images; make the held-out pairs."""
    runtime, store, seed = recipe.runtime, ArtifactStore(recipe.runtime.store), recipe.seed
    judge_prompt, inject_prompt = (
        load_judge_prompt(recipe.reasons.prompt),
        load_inject_prompt(recipe.pairs.inject_prompt),
    )
    base = resolve_model(recipe.model, store)
    common.check_before(recipe, store, base)
    prompts = prompts_table.read_prompts(recipe.data, seed)
    known = [answer_pairs.read_pairs(data, seed) for data in recipe.evaluation.pairs]
    keep = not is_planning()
    table = list_prompts(At(runtime), recipe.data, seed, prompts_table.fingerprint(prompts, store, keep=keep))
    images = ImageSet.of(recipe.data, table, runtime)
    common.check_near_duplicates(recipe, At(runtime), images)
    measured = []
    for data, pairs in zip(recipe.evaluation.pairs, known, strict=True):
        digest = answer_pairs.fingerprint(pairs, store, keep=keep)
        listed = list_pairs(At(runtime, data.name), data, seed, digest)
        where = ImageSet.of(answer_pairs.image_data(data), listed, runtime)
        measured.append(Measured(data.name, listed, where, "answer_pairs"))
    others = {"share": recipe.evaluation.held_out, "closed_share": None, "closed": "majority"}
    of_val = recipe.pairs.model_copy(update=others)
    held_out = synthesize_pairs(At(runtime, "held-out"), of_val, inject_prompt, base, images, "val", seed, 0)
    measured.append(Measured(HELD_OUT, held_out, images, "synthesis"))
    folder = common.run_folder(recipe, store, table)
    run = Run(recipe, folder, base, judge_prompt, inject_prompt, images, tuple(measured))
    run.keep("images", table)
    for found in measured:
        run.keep(f"pairs/{found.name}", found.pairs)
    return run


def control_of(run: Run) -> Run:
    """The control of a run, which has the same questions, base and evaluation."""
    return replace(run, folder=common.control_folder(run.folder, run.images.table), label="control")


def measure(run: Run, iteration: int, judge: ModelRef) -> dict[str, ArtifactRef]:
    """The verdicts of a judge on all pairs to measure with, by their names."""
    recipe, kind = run.recipe, kind_of(iteration)
    at = run.at.labelled(f"ite-{iteration}" if iteration else kind)
    found = {}
    for data in run.measured:
        found[data.name] = evaluate_judge(
            at.labelled(f"{at.label.removeprefix(at.begins).strip()} {data.name}"),
            recipe.evaluation.bootstrap,
            run.judge_prompt,
            recipe.reasons.max_new_tokens,
            judge,
            data.images,
            data.pairs,
            data.source,
            recipe.seed,
        )
        role = "predictions" if data is run.measured[0] else f"judgements/{data.name}"
        run.keep(f"iteration-{iteration:02d}/{kind}/{role}", found[data.name])
    return found


def kind_of(iteration: int) -> Literal["base", "judge"]:
    """What a model is called in the folders of a run."""
    return "judge" if iteration else "base"
