"""The model card of the demo's base VLM."""

from pathlib import Path

_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# The demo's base VLM

A stock `LlavaForConditionalGeneration` of {parameters:.1f} million parameters (SigLIP tower of 4 layers, 192 wide, 36
image tokens of 96 x 96 px; Llama of 4 layers, 128 wide; byte-level BPE), stored in float16. It exists so that the
whole self-training loop can be tried on a laptop, and tested, with no download. It was trained from nothing by

    python -m pipeline_lib.demo.make_model --out pipeline_lib/demo/model --seed {seed:.0f}

on drawn scenes and on crops of the demo's *training* photographs, with faults of known severity. The photographs of
the demo's validation and test splits were not used, nor any picture or score of a demo data set.

## How it was made

1. **Tower**: regression of the severities of seven faults, from a patch embedding that starts as whitened principal
   components of the patches.
2. **Language**: conversations over the frozen tower, on other pictures. 40 % justify a uniformly random score, which
   the loss does not see; 45 % give a naive opinion (it likes bright, colourful pictures, and one in five is a guess)
   and justify it; 15 % name every attribute without judging. An auxiliary regression of the severities, from the
   middle layers at the place where the digit is predicted, brings there what the tower sees.

An explanation is decided partly by the score it has to justify and partly by what is in the picture, so it follows an
injected score imperfectly. That is deliberate, and so is the poor zero-shot score: they are what the loop improves.

## Figures of this copy

`vision_correlation` is the mean over the faults of the held-out correlation between true and seen severity; losses are
moving means at the end of training, `digit` is the cross-entropy of the naive score in nats.

| figure | value |
| --- | --- |
{figures}

## Format

`<s>USER: <image>\\n{{prompt}} ASSISTANT: #Score: 7\\n\\n#Explain: The picture shows ...</s>`, with the prompt
`aesthetics_short` of self_improve. The ten digits are single tokens, the blank before them another one.

## Licence

Apache-2.0, as WhyScore itself. It was trained on drawn scenes and on photographs that ship with scikit-image,
scikit-learn and matplotlib under their own free licences; none of them is in its files.

## What it cannot do

It knows two prompts, the one above and `Describe the image.`, and about a hundred words. It does not recognise objects,
and repeats itself now and then. On pictures of another size or look than the demo's its opinion means nothing.
"""


def write_card(folder: Path, figures: dict[str, float]) -> None:
    """Write `README.md` beside the weights: how the model was made, its figures and what it cannot do."""
    lines = "\n".join(f"| {name} | {value:.7g} |" for name, value in figures.items())
    card = _CARD.format(parameters=figures["parameters"] / 1e6, seed=figures["seed"], figures=lines)
    (folder / "README.md").write_text(card, encoding="utf-8")
