"""Ask a model in one place: greedy or sampled answers about one or several images, and probabilities of next tokens.

questions = [Question(chat, [image], beginnings=[""] * 8, key="0001.jpg")]
found = generate_answers(vlm, questions, Sampled(max_new_tokens=256, temperature=1.0, top_p=0.9, seed=0))

May import the rooms that `pipeline_lib.vlm` may import.
"""

from pipeline_lib.vlm.generate.decoding import Decoding, Greedy, Sampled
from pipeline_lib.vlm.generate.inputs import Generated, NextTokens, Question, Readout
from pipeline_lib.vlm.generate.prefix_generation import Answers, generate_answers

__all__ = [
    "Answers",
    "Decoding",
    "Generated",
    "Greedy",
    "NextTokens",
    "Question",
    "Readout",
    "Sampled",
    "generate_answers",
]
