"""Rate new images with a model of an evo_quality run."""

import logging

from prefect import flow

from pipeline_lib.errors import DataError
from pipeline_lib.methods.evo_quality.chosen import chosen_round
from pipeline_lib.methods.evo_quality.inputs import Rater
from pipeline_lib.methods.evo_quality.prompt import load_prompts
from pipeline_lib.methods.evo_quality.recipe import EvoQualityRecipe
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.store.runs import open_run
from pipeline_lib.vlm.model_ref import resolve_model
from tasks.evo_quality.rate_new_images import rate_new_images
from tasks.stage import At, with_whole_inputs
from tasks.stage.cards import show_recipe
from tasks.stage.shards import check_workers

log = logging.getLogger("whyscore.predict")


@flow(name="evo_quality_predict", flow_run_name="{recipe.name}")
def evo_quality_predict(
    recipe: EvoQualityRecipe,
    images: list[str],
    out: str | None = None,
    iteration: int | None = None,
    recursive: bool = False,
    overwrite: bool = False,
) -> ArtifactRef:
    """Rate new images with a model of the recipe's run; after a kill, the next start continues.

    An image that cannot be rated has a row with its problem. Raises `DataError` when there is no other, `StoreError`
    when the run has no such model.

    Args:
        recipe: The recipe of a run that is in its store.
        images: Images, folders of images, or tables with a column of paths; local or s3://.
        out: File for the ratings, besides the store: a path that ends in .csv, .xlsx, .parquet or .html (a gallery),
            local or s3://.
        iteration: Round of the model; None: the best one by the run's verdict, else the model that the run ended with.
        recursive: Look for images below the folders too.
        overwrite: Replace the file `out` if it exists.
    """
    from pipeline_lib.use.new_images import find_new_images, keep_new_images
    from pipeline_lib.use.output import Predictions, check_size, writer
    from pipeline_lib.use.views import RATINGS

    show_recipe(recipe)
    write = writer(out, overwrite=overwrite) if out else None  # before anything is computed
    new = find_new_images(images, recipe.data.image_column, recursive=recursive)
    check_size(out, len(new.places))
    store, prompts = ArtifactStore(recipe.runtime.store), load_prompts(recipe.prompts)
    base = resolve_model(recipe.model, store)
    check_workers(recipe.runtime, base.location)
    run = open_run(store, recipe)
    chosen = chosen_round(run, iteration)
    log.info("rating with %s of run %s: %s", chosen.name, recipe.name, chosen.why)
    for warning in chosen.warnings:
        log.warning("the run's verdict: %s", warning)
    rater = Rater.of(recipe, base, prompts)
    rater = rater.with_adapter(chosen.adapter) if chosen.adapter else rater
    kept = keep_new_images(store, new, recipe.data.max_megapixels, rater.model)
    finished = rate_new_images(At(recipe.runtime, chosen.name), rater, kept, recipe.seed)
    table = with_whole_inputs(store, lambda: store.read_table(finished.address, "new_ratings"))
    problems = table["problem"].drop_null().to_pylist()
    if problems:
        count = f"{len(problems)} of {table.num_rows} images could not be rated"
        log.warning("%s; column problem says why, e.g.: %s", count, problems[0])
    if write:
        shown = store.read_table(kept.address, "new_images")
        model = f"{'the last model' if iteration is None else f'round {iteration}'} of run {recipe.name}"
        write(Predictions(table, RATINGS, model, shown, new.own, new.names_image))
        log.info("%d ratings are in %s", table.num_rows - len(problems), out)
    if len(problems) == table.num_rows:
        raise DataError(f"none of the {table.num_rows} images could be rated, e.g. {problems[0]}")
    return finished
