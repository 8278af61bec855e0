"""votes, model -> adapter."""

from pipeline_lib.store import ArtifactRef
from pipeline_lib.tables.training import GRPO_LOG
from pipeline_lib.train.job import GRPO, TrainingJob
from tasks.common.train import train
from tasks.stage import Work, stage


@stage(version=1, gpu=True)
def train_ranking(work: Work, job: TrainingJob, votes: ArtifactRef, own: ArtifactRef | None = None) -> None:
    """GRPO on the pairs that have a label; `own` are the model's own ratings, for the ablation."""
    from pipeline_lib.methods.evo_quality.training import units_of
    from pipeline_lib.vlm.chat import render_chat
    from pipeline_lib.vlm.load import load_processor

    prompt = render_chat(load_processor(job.base), job.prompt).prompt
    assert isinstance(job.loss, GRPO)
    partners = job.loss.reward.settings.get("partners", 1)
    units = units_of(work.read(votes, "votes"), prompt, work.read(own, "ratings") if own else None, partners)
    train(work, job, {"units": units}, GRPO_LOG)
