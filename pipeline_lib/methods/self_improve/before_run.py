"""Checks that `whyscore doctor` and a run share: what can be known stops a run before a model is loaded."""

from pipeline_lib.config.base import OpenAIEndpoint
from pipeline_lib.methods.self_improve.recipe import OpenAIJudge

FEW_VALIDATION_IMAGES = 100


def few_validation_images(count: int) -> str:
    """A sentence about too few validation images for the fitted figures; empty when they are enough."""
    if count >= FEW_VALIDATION_IMAGES:
        return ""
    return (
        f"only {count} validation images: the ten reference values fitted on them are inexact, so read the unfitted"
        f" figures; {FEW_VALIDATION_IMAGES} or more are better"
    )


def check_judge(config: OpenAIJudge, endpoint: OpenAIEndpoint) -> None:
    """Raise `RecipeError` when a judge model is named and its rubric, address, price or key is missing."""
    from pipeline_lib.judges.endpoint import check_endpoint
    from pipeline_lib.methods.self_improve.rubric import load_rubric

    if config.model is not None:
        load_rubric(config.rubric)
        check_endpoint(endpoint)
