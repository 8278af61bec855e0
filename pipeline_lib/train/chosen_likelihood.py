"""DPO with the summed log-probability of the chosen answer as a second term.

The loss of a pair is `-log sigmoid(beta x margin) - weight x log p(chosen | image, prompt)`, and a step's loss is the
mean over its pairs. TRL's own second term (`sft`) is a mean over the tokens of a batch, which does not grow with the
length of an answer.
"""

from typing import Any


def with_chosen_likelihood(trainer_class: Any, weight: float) -> Any:
    """A DPO trainer whose loss has `-weight` times the chosen answer's log-probability in nats; 0: the same trainer."""
    if not weight:
        return trainer_class

    class WithChosenLikelihood(trainer_class):
        def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
            passes = []

            def remember(**given: Any) -> Any:
                passes.append(model(**given))
                return passes[-1]

            loss = super()._compute_loss(remember, inputs, False)
            chosen, _ = passes[0].log_probs.sum(1).chunk(2)  # the pass of the policy; 0 where a token is no answer's
            return loss - weight * chosen.mean()

    return WithChosenLikelihood
