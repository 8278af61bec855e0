"""The sections of a stic recipe; the defaults are those of the paper (arXiv 2405.19716) where it gives one."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline_lib.config.base import BaseRecipe, Bootstrap, DataPath, ImageData, Lora, RelativeToRecipe, Section

Share = Annotated[float, Field(ge=0, le=1)]


class Preferences(Section):
    """Preference data from unlabelled images (section 4.1, Algorithm 1)."""

    images: int | None = Field(6000, ge=1, description="Training images that are described, drawn once; null: all")
    bad_prompt_share: Share = Field(
        0.5, description="Probability that the dis-preferred answer is to a bad prompt, else it is of a corrupted image"
    )
    low_resolution_share: Share = Field(
        0.5, description="Probability that a corruption is a low resolution, else it is colour jitter"
    )
    low_resolution_px: int = Field(20, ge=4, description="Shorter side of an image of low resolution")
    brightness: float = Field(0.5, ge=0, lt=1, description="Colour jitter: the factor is 1 - this to 1 + this")
    hue: float = Field(
        0.3, ge=0, le=0.5, description="Colour jitter: the hue is turned by up to this share of a circle"
    )
    temperature: float = Field(0.2, ge=0, description="Of both answers; 0: greedy")


class Training(Lora):
    """Stage 1: DPO with the log-probability of the preferred answer, which keeps it likely (section 4.1)."""

    loss: Literal["dpo", "sft"] = Field(
        "dpo", description="sft: supervised training on the preferred answers alone, an ablation"
    )
    learning_rate: float = Field(1e-7, gt=0)
    beta: float = Field(0.1, gt=0, description="DPO's beta")
    alpha: float = Field(
        1 / 1024, ge=0, description="Weight of the preferred answer's log-probability, summed over its tokens"
    )
    lora_rank: int = Field(128, ge=1, description="LoRA alpha is twice the rank")
    batch_size: int = Field(8, ge=1, description="Pairs an optimiser step")


class QuestionData(Section):
    """A table of questions with reference answers: JSON lines or Parquet, with images as paths or bytes."""

    table: DataPath = Field(description="JSON lines, CSV or Parquet file, or a folder of Parquet files; local or s3://")
    images: DataPath = Field("", description="Folder or s3:// prefix of the image paths; empty: the table's own folder")
    image_column: str = Field("image", description="Path or bytes of the image; empty in a row of text alone")
    question_column: str = "question"
    answer_column: str = Field(
        "answer", description="A text, a list of equally right texts, or the number of the right choice, from 0"
    )
    choices_column: str | None = Field("choices", description="Column with the possible answers; null: none")
    split_column: str | None = Field("split", description="null: every row is used")
    split: str = Field("test", description="Value of the split column of the rows that are used")
    group_column: str | None = Field(
        None, description="Rows that share a value count as one draw in intervals; null: those of one image"
    )
    rows: int | None = Field(None, ge=1, description="Rows that are used, drawn once; null: all")
    list_choices: bool = Field(
        False, description="Write the choices behind the question as A. .., B. ..; the answer is then the letter"
    )
    instruction: str = Field("", description="A line behind each question, e.g. Answer with a single word.")
    max_unreadable_fraction: float = Field(0.0, ge=0, lt=1, description="As in `data`")
    max_megapixels: float = Field(100.0, gt=0, description="As in `data`")

    def key_fields(self) -> dict[str, Any]:
        """All fields but the paths, whose content counts."""
        return self.model_dump(exclude={"table", "images"})

    @property
    def listing(self) -> "QuestionData":
        """The fields that decide which questions there are, without those of a section that has more."""
        return QuestionData(**{name: getattr(self, name) for name in QuestionData.model_fields})

    @property
    def image_data(self) -> ImageData:
        """Where the images are, as the data section of a recipe says it."""
        return ImageData(
            table=self.table,
            images=self.images,
            image_column=self.image_column,
            split_column=self.split_column,
            max_megapixels=self.max_megapixels,
        )


class Instructions(QuestionData):
    """The model's own instruction data, for stage 2 (section 4.2)."""

    split: str = Field("train", description="Value of the split column of the rows that are used")
    rows: int | None = Field(5000, ge=1, description="Rows that are used, drawn once; null: all")


class Infusion(Lora):
    """Stage 2: supervised training on questions behind a description of their image (section 4.2, Algorithm 2)."""

    describe: bool = Field(True, description="Put the description before the question; false: an ablation")
    start_from: Literal["preferences", "base"] = Field(
        "preferences", description="Adapters start from that of stage 1, or from the base: an ablation"
    )
    learning_rate: float = Field(2e-5, gt=0)
    lora_rank: int = Field(128, ge=1, description="LoRA alpha is twice the rank; that of stage 1, if it starts there")
    batch_size: int = Field(8, ge=1, description="Rows an optimiser step")


class Scoring(Section):
    """How answers and descriptions are asked for and checked."""

    scoring: Literal["exact", "choice", "numeric", "vqa"] = Field(
        "exact",
        description="exact: the same text but for case, articles and punctuation; choice: the same letter; numeric: a"
        " number within `tolerance`; vqa: a third for each person of a list of answers who says the same, at most 1",
    )
    tolerance: float = Field(0.05, ge=0, description="Of numeric: relative to the reference answer, as ChartQA has it")
    max_new_tokens: int = Field(32, ge=1, description="Longest answer in tokens")
    things: tuple[str, ...] = Field(
        (), description="Names of things beside those of the table's column `shows`, to see which are named wrongly"
    )


class Questions(QuestionData, Scoring):
    """Questions with reference answers, to measure with."""

    @property
    def how(self) -> Scoring:
        """The fields of measuring alone."""
        return Scoring(**{name: getattr(self, name) for name in Scoring.model_fields})


class Evaluation(Bootstrap):
    """Figures of answers and descriptions."""

    margin: float = Field(
        0.05, gt=0, lt=1, description="Describing first counts as no loss if its interval is above minus this"
    )


class SticRecipe(BaseRecipe):
    """A run of stic."""

    method: Literal["stic"] = "stic"
    prompts: Annotated[str, RelativeToRecipe(".yaml")] = Field(
        "stic", description="A shipped set of prompts by its name, or the path of your own (.yaml)"
    )
    preferences: Preferences = Preferences()
    training: Training = Training()
    instructions: Instructions
    infusion: Infusion = Infusion()
    questions: Questions
    evaluation: Evaluation = Evaluation()
    describe_temperature: float = Field(
        0.0, ge=0, description="Of descriptions before a question; 0: greedy. The paper gives none"
    )

    control: ClassVar[str] = "the preferred and the dis-preferred answer of each pair are exchanged"

    @model_validator(mode="after")
    def _sections_agree(self) -> "SticRecipe":
        if self.infusion.start_from == "preferences" and self.infusion.lora_rank != self.training.lora_rank:
            raise ValueError(
                f"infusion.lora_rank {self.infusion.lora_rank} must be training.lora_rank {self.training.lora_rank},"
                " because stage 2 starts from the adapter of stage 1"
            )
        if self.runtime.fsdp and self.runtime.training_processes == 1:
            raise ValueError("runtime.fsdp shares the weights among processes: set runtime.training_processes")
        return self


RECIPE = SticRecipe
