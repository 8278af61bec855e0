"""Processors of families whose own ones also take videos, and cannot be built without torchvision because of it.

Here they take images only; which parts a processor has is read from the signature of its `__init__`. An exported model
has a copy of this module, so it imports nothing of WhyScore.
"""

from typing import Any

from transformers import InternVLProcessor, ProcessorMixin, Qwen2_5_VLProcessor, Qwen3VLProcessor


class InternVLImageProcessor(InternVLProcessor):
    """InternVL's processor without its part for videos."""

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        image_seq_length: int = 256,
        chat_template: str | None = None,
        **_: Any,
    ):
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
        self.image_seq_length = image_seq_length
        self.image_token = tokenizer.context_image_token
        self.image_token_id = tokenizer.context_image_token_id
        self.start_image_token, self.end_image_token = tokenizer.start_image_token, tokenizer.end_image_token
        self.start_image_token_id = tokenizer.start_image_token_id
        self.end_image_token_id = tokenizer.end_image_token_id

    def __call__(self, images: Any = None, text: Any = None, **options: Any) -> Any:
        """Images and text as tensors; tiles of all images in one row, in order."""
        inputs = ProcessorMixin.__call__(self, images=images, text=text, **options)
        inputs.pop("num_patches", None)
        return inputs


class _QwenImageProcessor(ProcessorMixin):
    return_mm_token_type_ids = True

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None, **_: Any):
        self.image_token = getattr(tokenizer, "image_token", "<|image_pad|>")
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


class Qwen25VLImageProcessor(_QwenImageProcessor, Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor without its part for videos."""

    model_input_names = ProcessorMixin.model_input_names


class Qwen3VLImageProcessor(_QwenImageProcessor, Qwen3VLProcessor):
    """Qwen3-VL's processor without its part for videos."""

    model_input_names = ProcessorMixin.model_input_names


PROCESSORS: dict[str, Any] = {
    "internvl": InternVLImageProcessor,
    "qwen2_5_vl": Qwen25VLImageProcessor,
    "qwen3_vl": Qwen3VLImageProcessor,
}
"""By `model_type`; other families take the processor that AutoProcessor finds."""
