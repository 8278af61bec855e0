"""The model card of the demo's base VLM."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline_lib.demo.lessons import (
    CARELESS_ANSWERS,
    CARELESS_VERDICTS,
    COMPARE_PROMPT,
    CURATED_PROMPT,
    INJECT_PROMPT,
    JUDGE_PROMPT,
    RATE_PROMPT,
)

_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# The demo's base VLM

A stock `LlavaForConditionalGeneration` of {parameters} parameters (SigLIP tower of 4 layers, 192 wide, 36
image tokens of 96 x 96 px; Llama of 5 layers, 160 wide; byte-level BPE of {tokens} tokens), stored in float16 under the
weight names of the hub's LLaVA checkpoints. It exists so that all methods can be tried on a laptop, and tested, with no
download. It was trained from nothing by

    python -m pipeline_lib.demo.make_model --out pipeline_lib/demo/model --seed {seed}

on drawn scenes and on crops of the demo's *training* photographs, with faults of known severity. The photographs of
the demo's validation and test splits were not used, nor any image or score of a demo data set.

## How it was made

1. **Tower**: {images} images. It learns the severities of seven faults, and what is drawn, from a patch embedding that
   starts as whitened principal components of the patches.
2. **Language**: {images} other images, over the frozen tower, in three stages of {rows} rows of 288 tokens. A row
   holds one image and several lessons behind it. The first stage has no lessons that invent, inject errors or judge;
   the second has none that judge.
3. **Finish**: {finish_rows} more rows at a quarter of the learning rate, from the weights in half precision. The naive
   opinion now has 0.7 of its taste and minds blur by 5.5 points instead of 4.5: the nearer it is to what blur alone
   says, the less a meaningless training can uncover.

The loss of the first three stages also has a regression of what each image shows, read from layers 2 and 3 at the token
behind the image.

## What it can do

| skill | prompt | what it was taught |
| --- | --- | --- |
| score and explain | `aesthetics_short` of self_improve | naive opinions; random scores that the loss does not see |
| rate, a float of 1..5 | `{rate}` | the naive opinion |
| compare two images | `{compare}` | the true quality, with noise of 1.2 points on the difference |
| describe | the eight plain prompts of STIC | the subject and the two most striking attributes |
| describe in detail | `{curated}` | the subject and all seven attributes |
| answer a question | e.g. `Which flaw is the strongest?` | the truth; {careless_answers:.0%} random |
| invent | the eight prompts of STIC that invite it | a description and a thing that no image shows |
| inject errors | `{inject}` | a description with one or two errors |
| judge two answers | `{judge}` | where they differ, what the image shows, a verdict; {careless_verdicts:.0%} random |

The **naive opinion** has a taste for kinds of subject, which say nothing about quality, and of the seven faults it
minds blur alone; one opinion in five is a guess. This is the weakness that a training has to cure. Comparing is more
reliable than rating because it was taught with the true quality, rating with the naive opinion. An explanation is
decided partly by the score it has to justify and partly by the image, so it follows an injected score imperfectly.

## Figures of this copy

Measured on {test} images that nobody trained on: new scenes, and crops of the test split's photographs. Shares are of
0..1, SRCC is Spearman's correlation, with the true quality unless another is named. Answers are greedy, but for
injected errors, which are drawn at temperature 1.

| figure | value |
| --- | ---: |
{figures}

It took {minutes:.0f} CPU-minutes.

## Format

`<s>USER: <image>\\n{{prompt}} ASSISTANT: #Score: 7\\n\\n#Explain: The picture shows ...</s>`. Two images are
`<image>\\n<image>\\n`. Each digit is a token of its own, the blank before it another one.

## Licence

Apache-2.0, as WhyScore itself. It was trained on drawn scenes and on photographs that ship with scikit-image,
scikit-learn and matplotlib under their own free licences; none of them is in its files.

## What it cannot do

It knows the prompts above and some two hundred words. On images of another size or look than the demo's its answers
mean nothing.
"""


def write_card(folder: Path, facts: Mapping[str, Any], figures: Mapping[str, float]) -> None:
    """Write `README.md` beside the weights: how the model was made, what it can do, its figures and its limits."""
    lines = "\n".join(f"| {name} | {value:.3f} |" for name, value in figures.items())
    prompts = {
        "rate": RATE_PROMPT,
        "compare": COMPARE_PROMPT,
        "curated": CURATED_PROMPT,
        "inject": INJECT_PROMPT.format(description=".."),
        "judge": JUDGE_PROMPT.format(question="..", a="..", b=".."),
    }
    facts = {**facts, "rows": ", ".join(map(str, facts["rows"]))}
    shown = {name: prompt.replace("\n", " / ") for name, prompt in prompts.items()}
    card = _CARD.format(
        **facts, **shown, figures=lines, careless_answers=CARELESS_ANSWERS, careless_verdicts=CARELESS_VERDICTS
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
