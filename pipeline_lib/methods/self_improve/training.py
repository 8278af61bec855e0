"""The trainings of an iteration as jobs (sections 3.2 and 4.2, appendix A.1)."""

from pipeline_lib.methods.self_improve.inputs import Inputs
from pipeline_lib.methods.self_improve.recipe import Training
from pipeline_lib.train.job import DPO, SFT, TrainingJob


def dpo_job(
    config: Training, inputs: Inputs, seed: int, iteration: int, learning_rate_factor: float = 1.0
) -> TrainingJob:
    """DPO of the model in `inputs`, on pairs of an iteration; both branches of one start from the same weights."""
    rate = config.learning_rate * learning_rate_factor * config.decay_per_iteration ** (iteration - 1)
    return _job(config, inputs, seed, iteration, rate, DPO(beta=config.beta, sft_weight=config.sft_weight))


def sft_job(config: Training, inputs: Inputs, seed: int, iteration: int) -> TrainingJob:
    """Supervised training of the model in `inputs`, on pairs of an iteration (section 5.2)."""
    rate = config.learning_rate * config.decay_per_iteration ** (iteration - 1)
    return _job(config, inputs, seed, iteration, rate, SFT())


def _job(
    config: Training, inputs: Inputs, seed: int, iteration: int, learning_rate: float, loss: DPO | SFT
) -> TrainingJob:
    return TrainingJob(
        base=inputs.model.bare(),
        prompt=inputs.prompt.text,
        images=inputs.images,
        loss=loss,
        lora=config.lora,
        learning_rate=learning_rate,
        start=inputs.model.adapter if config.start_from == "previous" else None,
        seed=seed * 1000 + iteration,
    )
