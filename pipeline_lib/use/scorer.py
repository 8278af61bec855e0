"""A trained model in memory, which scores images and says why: `from whyscore import Scorer`.

The predict stage asks the same function (`ask_prompt`) and makes its rows with the same one (`new_predictions`).
"""

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, TypeAlias, overload

import pyarrow as pa
from PIL import Image

from pipeline_lib.config.base import ImageData, Model, Runtime
from pipeline_lib.config.load import load_recipe_of
from pipeline_lib.data import files
from pipeline_lib.device import pick_device
from pipeline_lib.errors import ModelError, RecipeError
from pipeline_lib.methods.self_improve.evaluation import ask_prompt
from pipeline_lib.methods.self_improve.predictions import EVALUATED, Scale, new_predictions, scale_of, to_ask
from pipeline_lib.methods.self_improve.prompt import Criterion, Prompt, load_prompt
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactStore
from pipeline_lib.store.runs import open_run
from pipeline_lib.tables.images import NEW_IMAGES
from pipeline_lib.use.export_facts import ExportFacts, read_facts
from pipeline_lib.use.new_images import NewImage, read_new_image
from pipeline_lib.use.trained import Kind, trained_model
from pipeline_lib.vlm.adapter import CONFIG, check_adapter
from pipeline_lib.vlm.chat import render_chat
from pipeline_lib.vlm.load import Vlm, load_base, load_vlm, put_adapter
from pipeline_lib.vlm.model_ref import ModelRef, resolve_model

ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image
"""The path of an image file, local or on S3, or an image that is open."""

_BATCHES_AT_ONCE = 8
"""Batches whose images are in memory together; images of similar proportions among them share a batch."""


@dataclass(frozen=True)
class ScoredImage:
    """The score of an image and the model's reasons. Fields are the columns of `NEW_PREDICTIONS`.

    With a problem, all others but `image` and `image_sha256` are None.
    """

    image: str
    """The path as it was given; of an open image its file name, or `image 1` for the first one."""
    image_sha256: str
    predicted: float | None
    """The score on the scale of the training data."""
    reading: Literal["monotone", "unfitted"] | None
    """Which reference values `predicted` is the mean of."""
    interval_low: float | None
    """The interval holds the true score of 90 % of images like the validation images; None: too few of them."""
    interval_high: float | None
    score_distribution: tuple[float, ...] | None
    """The model's probabilities of the bins 0..9; they sum to 1."""
    digit_mass: float | None
    """Probability of the ten digits among all tokens: how sure the model is to state a score at all."""
    parsed: bool | None
    """Whether the answer has the form of a score and an explanation."""
    stated_score: int | None
    """The bin 0..9 that the text states, 9 is the best; not on the scale of `predicted`. None: not parsed."""
    explanation: str | None
    """None: not parsed."""
    text: str | None
    """The whole answer as the model gave it."""
    problem: str | None
    """Why the image could not be scored; None if it was."""


class Scorer:
    """A trained model that scores images: `Scorer.load("recipe.yaml").score(["a.jpg", "b.jpg"])`."""

    def __init__(
        self,
        name: str,
        ref: ModelRef,
        vlm: Vlm,
        prompt: Prompt,
        scale: Scale,
        *,
        score_column: str,
        max_new_tokens: int,
        max_megapixels: float,
        batch_size: int,
    ):
        self.name, self.prompt, self.scale, self.score_column = name, prompt, scale, score_column
        self._ref, self._vlm, self._max_new_tokens = ref, vlm, max_new_tokens
        self._max_megapixels, self._batch_size = max_megapixels, batch_size
        self._one_at_a_time = threading.Lock()

    @property
    def reading(self) -> Literal["monotone", "unfitted"]:
        """Which reference values a score is the mean of; see docs/concepts.md."""
        return self.scale.used.reading

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str],
        *,
        iteration: int | None = None,
        kind: Kind | None = None,
        device: str | None = None,
        revision: str | None = None,
        base: str | None = None,
        batch_size: int | None = None,
    ) -> "Scorer":
        """Load a model of a run, or an exported one.

        Args:
            source: The recipe file of a run that is in its store; a folder that `whyscore predict --export` wrote; or
                the hub id `owner/name` of such a folder.
            iteration: Of a recipe: whose model; None: as `whyscore predict` chooses.
            kind: Of a recipe: score, consistency or merged; None: as `whyscore predict` chooses.
            device: `cpu`, `cuda`, `cuda:1`, `mps` or `auto`; None: the recipe's, `auto` for an export.
            revision: Of a hub id: the commit; None: that of `main`, which needs the hub.
            base: Of an exported adapter: the folder or hub id of its base; None: the one it was trained on.
            batch_size: Images that the model answers together; None: the recipe's, 32 for an export.

        Raises `RecipeError`, `StoreError` or `ModelError` with what was expected and what was found.
        """
        place = os.fspath(source)
        if os.path.isdir(place):
            facts, folder, name = read_facts(Path(place)), Path(place), place
        elif os.path.isfile(place) or place.endswith((".yaml", ".yml")):
            if revision or base:
                raise RecipeError("revision and base are for exported models; a recipe names its own")
            recipe = load_recipe_of(SelfImproveRecipe, place)
            return cls.of_run(recipe, iteration=iteration, kind=kind, device=device, batch_size=batch_size)
        elif place.count("/") == 1 and not place.startswith((".", "/", "~")):
            folder, name = _from_hub(place, revision), place
            facts = read_facts(folder)
        else:
            raise ModelError(
                f"{place}: expected the recipe file of a run, a folder that `whyscore predict --export` wrote, or the"
                " hub id owner/name of one; there is no such file or folder"
            )
        if iteration is not None or kind is not None:
            raise ModelError(f"{place} is one exported model, {facts.model}; iteration and kind are for recipes")
        ref, vlm = _load_export(folder, facts, device or "auto", base)
        # The criterion's other words are the judge's; nothing here reads them.
        criterion = Criterion(value=facts.score_is_of, score=facts.score_is_of, scale="0..9")
        return cls(
            f"{facts.model} of {name}",
            ref,
            vlm,
            Prompt(name="exported", text=facts.prompt, criterion=criterion),
            facts.scale,
            score_column=facts.score_column,
            max_new_tokens=facts.max_new_tokens,
            max_megapixels=ImageData.model_fields["max_megapixels"].default,
            batch_size=batch_size or Runtime.model_fields["generation_batch_size"].default,
        )

    @classmethod
    def of_run(
        cls,
        recipe: SelfImproveRecipe,
        *,
        iteration: int | None = None,
        kind: Kind | None = None,
        device: str | None = None,
        batch_size: int | None = None,
    ) -> "Scorer":
        """Load a model of the run of a recipe; see `load`."""
        store, prompt = ArtifactStore(recipe.runtime.store), load_prompt(recipe.prompt)
        run = open_run(store, recipe)
        found = trained_model(run, resolve_model(recipe.model, store), prompt, iteration=iteration, kind=kind)
        evaluated = found.evaluated.address
        reference_values, predictions = (store.read_table(evaluated, name) for name in EVALUATED)
        return cls(
            f"{found.name} of run {recipe.name}",
            found.model,
            load_vlm(found.model, store, pick_device(device or recipe.runtime.device)),
            prompt,
            scale_of(reference_values, predictions, recipe.seed),
            score_column=recipe.data.score_column,
            max_new_tokens=recipe.model.max_new_tokens,
            max_megapixels=recipe.data.max_megapixels,
            batch_size=batch_size or recipe.runtime.generation_batch_size,
        )

    @overload
    def score(self, images: ImageLike) -> ScoredImage: ...  # type: ignore[overload-overlap]  # a text is iterable too

    @overload
    def score(self, images: Iterable[ImageLike]) -> list[ScoredImage]: ...

    def score(self, images: ImageLike | Iterable[ImageLike]) -> ScoredImage | list[ScoredImage]:
        """Score one image, or several in their order; an image that cannot be scored has its `problem`.

        Images are read as `whyscore predict` reads them: upright, transparency on white. Equal images are asked about
        once. Calls from several threads wait for each other. `pipeline_lib.progress.listening` follows the work.

        Raises `DataError` when the storage of the images fails, not when one is missing.
        """
        if isinstance(images, (str, os.PathLike, Image.Image)):
            return self._score([images])[0]
        return self._score(list(images))

    def _score(self, images: Sequence[ImageLike]) -> list[ScoredImage]:
        progress = Progress("scoring", len(images))
        scored: list[ScoredImage] = []
        names = [_name(image, number) for number, image in enumerate(images, 1)]
        given = zip(names, images, strict=True)
        with self._one_at_a_time, ThreadPoolExecutor() as pool:
            while part := list(islice(given, _BATCHES_AT_ONCE * self._batch_size)):
                read = list(pool.map(self._read, (image for _, image in part)))
                scored += self._score_read([name for name, _ in part], read, progress)
        return scored

    def _read(self, image: ImageLike) -> NewImage:
        if isinstance(image, Image.Image):
            return read_new_image(image, self._max_megapixels, self._ref)
        path = os.fspath(image)
        whole = path if files.is_remote(path) else os.path.abspath(path)
        return read_new_image(whole, self._max_megapixels, self._ref)

    def _score_read(self, names: list[str], read: list[NewImage], progress: Progress) -> Iterator[ScoredImage]:
        rows = [{"image": name, "path": name, **image._asdict()} for name, image in zip(names, read, strict=True)]
        table = pa.Table.from_pylist(rows, schema=NEW_IMAGES.schema)
        asked = to_ask(table)
        pixels = {image.image_sha256: image.pixels for image in read if image.pixels is not None}
        answers = ask_prompt(
            self._vlm,
            self.prompt,
            asked,
            lambda name, sha256: pixels[sha256],
            max_new_tokens=self._max_new_tokens,
            batch_size=self._batch_size,
            progress=progress,
        )
        if len(names) > asked.num_rows:
            progress.advance(len(names) - asked.num_rows)  # those with a problem, and equal ones
        for row in new_predictions(table, answers, self.scale).to_pylist():
            distribution = row["score_distribution"]
            yield ScoredImage(**row | {"score_distribution": distribution and tuple(distribution)})


def _name(image: ImageLike, number: int) -> str:
    if isinstance(image, Image.Image):
        return str(getattr(image, "filename", "") or f"image {number}")
    return os.fspath(image)


def _from_hub(model_id: str, revision: str | None) -> Path:
    from pipeline_lib.use.export_facts import NAME
    from pipeline_lib.vlm.hub import current_commit, hub_folder

    return hub_folder(model_id, revision or current_commit(model_id), weights=True, holds=NAME)


def _load_export(folder: Path, facts: ExportFacts, device: str, base: str | None) -> tuple[ModelRef, Vlm]:
    """The model of an exported folder, whose weights are in it, or on its base for an adapter."""
    adapter_only = (folder / CONFIG).exists()
    if base and not adapter_only:
        raise ModelError(f"{folder} holds a whole model; base is for an exported adapter")
    given = {"dtype": facts.dtype, "resize_px": facts.resize_px, "max_tiles": facts.max_tiles}
    if adapter_only:
        check_adapter(folder, str(folder))
        is_hub = facts.base_revision is not None and not os.path.isdir(base or "")
        fields = {**given, "id": base or facts.base, "revision": facts.base_revision if is_hub else None}
        ref = resolve_model(Model.model_validate(fields))
        if ref.fingerprint != facts.base_fingerprint and not base:
            raise ModelError(
                f"{folder} was trained on {facts.base}, which now has other files; give the folder of the one that it"
                " was trained on: Scorer.load(.., base=..)"
            )
        vlm = put_adapter(load_base(ref, pick_device(device)), folder, facts.dtype)
    else:
        ref = resolve_model(Model.model_validate({**given, "id": str(folder)}))
        vlm = load_base(ref, pick_device(device))
    if render_chat(vlm.processor, facts.prompt).prompt != facts.chat:
        raise ModelError(
            f"{folder}: its chat template renders another prompt than the one it was trained with; the processor's"
            " files are not those of its base"
        )
    return ref, vlm
