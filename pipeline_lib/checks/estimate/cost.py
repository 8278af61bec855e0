"""Memory and seconds of a run's stages, from the sizes of its model and the speeds of a machine.

FLOPs are counted; what is assumed is how long answers are, and that images have sides of 4:3.
"""

from collections.abc import Sequence
from typing import NamedTuple

from pipeline_lib.checks.estimate.ceiling import Ceiling
from pipeline_lib.checks.estimate.model_size import ModelSize
from pipeline_lib.checks.estimate.stages import Stage

_HEAD_TILE = (4096, 32768)  # of the tokens and the vocabulary, in memory at a time (TRL's fused head)
_HEAD_COPIES = 3  # of a tile in float32, where there is no kernel of one pass
_ADAPTER_BYTES = 16  # weights, gradients and two moments of Adam in float32


class Cost(NamedTuple):
    """The estimate of a stage."""

    stage: Stage
    memory: float  # bytes
    seconds: float


class Setting(NamedTuple):
    """What costs depend on beside the stage."""

    weight_bytes: int  # of a number: 4 or 2
    checkpointing: bool
    saved: float  # bytes that a layer keeps of a token (`saved_bytes`)


def cost_of(stage: Stage, size: ModelSize, ceiling: Ceiling, setting: Setting) -> Cost:
    """Memory of a stage at its peak, and its seconds."""
    train = stage.does not in ("generate", "read")
    memory = size.parameters * setting.weight_bytes + size.adapter * stage.rank * (_ADAPTER_BYTES if train else 4)
    parts = []
    if stage.does in ("generate", "grpo"):
        parts.append(_generating_bytes(stage, size, setting))
    if stage.does == "read":
        parts.append(_reading_bytes(stage, size, setting))
    if train:
        parts.append(_training_bytes(stage, size, setting))
    return Cost(stage, memory + max(parts), stage.rows * row_seconds(stage, size, ceiling, setting))


def prefix_tokens(stage: Stage, size: ModelSize) -> float:
    """Tokens of a row in front of its answers."""
    return stage.images * size.image.tokens + stage.prompt


def language_flops(size: ModelSize, tokens: float, seen: float, predicted: float) -> float:
    """FLOPs of a forward pass: `seen` pairs of a token and one that it sees, `predicted` tokens with logits."""
    return 2 * (size.linear * tokens + size.head * predicted) + 4 * size.layers * size.queries * seen


def pass_flops(stage: Stage, size: ModelSize, answers: float) -> float:
    """FLOPs of a forward pass of the language model over a row with so many known answers."""
    prefix, answer = prefix_tokens(stage, size), stage.tokens
    seen = prefix**2 / 2 + answers * answer * (prefix + answer / 2)
    return language_flops(size, prefix + answers * answer, seen, answers * answer)


def row_seconds(stage: Stage, size: ModelSize, ceiling: Ceiling, setting: Setting) -> float:
    """Seconds of a row."""
    tower = stage.images * size.tower / ceiling.flops
    read = pass_flops(stage, size, stage.answers) / ceiling.flops
    if stage.does == "read":
        return tower + read
    if stage.does == "generate":
        return tower + _generating_seconds(stage, size, ceiling, setting)
    # Backward once more as much as forward: the base's weights get no gradients. The adapter's part is counted apart.
    passes = 3 if setting.checkpointing else 2
    of_pass = pass_flops(stage, size, stage.answers / stage.passes)
    prefix, answer = prefix_tokens(stage, size), stage.tokens
    tokens = stage.passes * prefix + stage.answers * answer
    adapter = 2 * size.adapter * stage.rank * tokens * (passes + 1)
    # The head's backward pass makes the logits anew, and has a product of its own.
    head = 2 * size.head * stage.answers * answer
    update = (stage.passes * passes * of_pass + (3 - passes) * head + adapter) / ceiling.flops
    if stage.does != "grpo":
        return tower + update
    reference = stage.passes * of_pass / ceiling.flops
    return tower + update + reference + _generating_seconds(stage, size, ceiling, setting)


def _generating_seconds(stage: Stage, size: ModelSize, ceiling: Ceiling, setting: Setting) -> float:
    prefix, answer = prefix_tokens(stage, size), stage.tokens
    prefill = language_flops(size, prefix, prefix**2 / 2, 1) / ceiling.flops
    if not stage.decode:
        return prefill
    rows = stage.at_once * (stage.unit if stage.does == "grpo" else 1)
    steps = (stage.tokens + stage.limit) / 2  # of a batch, which goes on until its last answer ends
    work = language_flops(size, stage.answers, stage.answers * (prefix + answer / 2), stage.answers)
    keys = (prefix + stage.answers * answer / 2) * size.layers * 2 * size.keys * setting.weight_bytes
    weights = (size.linear + size.head) * setting.weight_bytes
    step = max(rows * work / ceiling.flops, (weights + rows * keys) / ceiling.bytes, size.layers * ceiling.layer_s)
    return prefill + steps * step / rows


def _tower_bytes(rows: float, stage: Stage, size: ModelSize, setting: Setting) -> float:
    return rows * stage.images * size.image.patches * size.tower_widest * setting.weight_bytes


def _prefill_bytes(rows: float, stage: Stage, size: ModelSize, setting: Setting) -> float:
    return rows * prefix_tokens(stage, size) * (2 * size.widest + 8 * size.hidden) * setting.weight_bytes


def _generating_bytes(stage: Stage, size: ModelSize, setting: Setting) -> float:
    rows = stage.at_once * (stage.unit if stage.does == "grpo" else 1)
    of_token = size.layers * 2 * size.keys * setting.weight_bytes
    prefix = rows * prefix_tokens(stage, size) * of_token
    room = rows * stage.answers * stage.limit * of_token if stage.decode else 0
    logits = 3 * rows * stage.answers * size.vocabulary * 4
    reading = max(_tower_bytes(rows, stage, size, setting), prefix + _prefill_bytes(rows, stage, size, setting))
    return max(reading, prefix * (1 + 1 / size.layers) + room + logits)


def _reading_bytes(stage: Stage, size: ModelSize, setting: Setting) -> float:
    tokens = stage.at_once * (prefix_tokens(stage, size) + stage.answers * stage.limit)
    predicted = stage.at_once * stage.answers * stage.limit
    language = tokens * (2 * size.widest + 8 * size.hidden) * setting.weight_bytes
    return max(_tower_bytes(stage.at_once, stage, size, setting), language + _tile_bytes(predicted, size, setting))


def _training_bytes(stage: Stage, size: ModelSize, setting: Setting) -> float:
    rows = stage.at_once * (stage.unit if stage.does == "grpo" else 1)
    answers = stage.answers / stage.passes
    tokens = rows * (prefix_tokens(stage, size) + answers * stage.limit)
    layers = (
        size.layers * size.hidden * setting.weight_bytes + setting.saved
        if setting.checkpointing
        else size.layers * setting.saved
    )
    gradients = 2 * size.widest * setting.weight_bytes
    kept = tokens * (layers + gradients) + _tile_bytes(rows * answers * stage.limit, size, setting)
    return max(_tower_bytes(rows, stage, size, setting), kept)


def _tile_bytes(predicted: float, size: ModelSize, setting: Setting) -> float:
    tokens, words = _HEAD_TILE
    return min(tokens, predicted) * min(words, size.vocabulary) * (setting.weight_bytes + 4 * _HEAD_COPIES)


def peak(costs: Sequence[Cost]) -> Cost:
    """The stage that needs the most memory."""
    return max(costs, key=lambda cost: cost.memory)
