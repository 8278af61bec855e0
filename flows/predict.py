"""Score and explain new images with a model of a run."""

import logging
from collections import Counter

from prefect import flow

from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.prompt import load_prompt
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.store.runs import open_run
from pipeline_lib.use.trained import Kind, trained_model
from pipeline_lib.vlm.model_ref import resolve_model
from tasks.self_improve.predict import predict as predict_stage
from tasks.stage import At, with_whole_inputs
from tasks.stage.cards import show_recipe
from tasks.stage.shards import check_workers

log = logging.getLogger("whyscore.predict")


@flow(name="predict", flow_run_name="{recipe.name}")
def predict(
    recipe: SelfImproveRecipe,
    images: list[str],
    out: str | None = None,
    iteration: int | None = None,
    kind: Kind | None = None,
    recursive: bool = False,
    overwrite: bool = False,
) -> ArtifactRef:
    """Score and explain new images with a model of the recipe's run; after a kill, the next start continues.

    An image that cannot be scored has a row with its problem. Raises `DataError` when there is no other.

    Args:
        recipe: The recipe of a run that is in its store.
        images: Images, folders of images, or tables with a column of paths; local or s3://.
        out: File for the predictions, besides the store: a path that ends in .csv, .xlsx, .parquet or .html (a
            gallery), local or s3://.
        iteration: Whose model; None: the best one by the run's verdict, or the newest of a run without one.
        kind: score, consistency or merged; None: as above, or merged for an iteration.
        recursive: Look for images below the folders too.
        overwrite: Replace the file `out` if it exists.
    """
    from pipeline_lib.use.new_images import find_new_images, keep_new_images
    from pipeline_lib.use.output import Predictions, check_size, writer
    from pipeline_lib.use.views import scores_of

    show_recipe(recipe)
    write = writer(out, overwrite=overwrite) if out else None  # before anything is computed
    new = find_new_images(images, recipe.data.image_column, recursive=recursive)
    check_size(out, len(new.places))
    store, prompt = ArtifactStore(recipe.runtime.store), load_prompt(recipe.prompt)
    base = resolve_model(recipe.model, store)
    check_workers(recipe.runtime, base.location)
    run = open_run(store, recipe)
    found = trained_model(run, base, prompt, iteration=iteration, kind=kind)
    log.info("predicting with %s of run %s: %s", found.name, recipe.name, found.why)
    for warning in found.warnings:
        log.warning("the run's verdict: %s", warning)
    kept = keep_new_images(store, new, recipe.data.max_megapixels, found.model)
    finished = predict_stage(
        At(recipe.runtime, found.name),
        prompt,
        found.model,
        recipe.model.max_new_tokens,
        new_images=kept,
        evaluated=found.evaluated,
        seed=recipe.seed,
    )
    table = with_whole_inputs(store, lambda: store.read_table(finished.address, "new_predictions"))
    problems = Counter(table["problem"].drop_null().to_pylist())
    if problems:
        most, count = problems.most_common(1)[0]
        log.warning(
            "%d of %d images could not be scored; column problem says why, e.g. %d times: %s",
            problems.total(),
            table.num_rows,
            count,
            most,
        )
    if write:
        shown = store.read_table(kept.address, "new_images")
        model = f"{found.name} of run {recipe.name}"
        view = scores_of(recipe.data.score_column)
        write(Predictions(table, view, model, shown, new.own, new.names_image))
        log.info("%d predictions are in %s", table.num_rows - problems.total(), out)
    if problems.total() == table.num_rows:
        where = f"; column problem of {out} says why for each" if out else ""
        raise DataError(f"none of the {table.num_rows} images could be scored, e.g. {most}{where}")
    return finished
