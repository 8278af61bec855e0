"""Put an exported model on the Hugging Face hub, with its card.

The token is that of the hub's own login (`hf auth login`, or HF_TOKEN); this code never reads, stores or prints it. A
repository of a push that was cut off holds no model: the commit comes last. The next push sends what did not arrive.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from pipeline_lib.addresses import without_secrets
from pipeline_lib.config.base import BaseRecipe
from pipeline_lib.errors import ModelError, RecipeError
from pipeline_lib.store import ArtifactStore
from pipeline_lib.store.runs import RunFolder, open_run
from pipeline_lib.use.export_folder import Export, write_folder
from pipeline_lib.use.exports import export_of
from pipeline_lib.use.model_page import model_page

BUNDLED_LICENCE = "apache-2.0"
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*[A-Za-z0-9_]/[A-Za-z0-9_]([\w.-]*[A-Za-z0-9_])?", re.ASCII)
_LONGEST_NAME = 96
_NEW = {".gitattributes"}
"""What a repository holds that nothing was uploaded to."""
_SHORTEST_NAME = 6
_TEXT_FILES = (".md", ".json", ".py", ".txt", ".jinja")
_MOST_TEXT = 1_000_000  # bytes of a text file that is searched; a vocabulary is longer


class Upload(NamedTuple):
    """What a push would upload, or has uploaded."""

    repository: str
    model: str
    files: tuple[tuple[str, int], ...]  # names and sizes in bytes
    card: str
    licence: str | None


def prepare(
    store: ArtifactStore,
    recipe: BaseRecipe,
    repository: str,
    folder: Path,
    *,
    licence: str | None = None,
    data_sets: Sequence[str] = (),
    iteration: int | None = None,
    kind: str | None = None,
    adapter_only: bool = False,
) -> Upload:
    """Write the model of a recipe's run with its card to `folder`, a new one; asks no server.

    Raises `RecipeError` for a name that is no `owner/name`, `ModelError` if the folder would tell the name of an image
    or a path of this machine, and what an export raises.
    """
    check_name(repository)
    for data_set in data_sets:
        check_name(data_set, "--dataset")
    run = open_run(store, recipe)
    export = export_of(store, recipe, iteration, kind)
    local = export.model.revision is None and export.model.name != "bundled"
    if local and adapter_only:
        raise ModelError(
            f"the base of the adapter is {export.model.name}, which others cannot load; push the whole model, without"
            " --adapter-only"
        )
    if local and not export.model.folded:
        export = _without_place(export)
    write_folder(store, export, folder, adapter_only=adapter_only)
    licence = licence or (BUNDLED_LICENCE if export.model.name == "bundled" else None)
    readme = folder / "README.md"
    card = model_page(
        run,
        export,
        readme.read_text(encoding="utf-8"),
        repository=repository,
        licence=licence,
        data_sets=data_sets,
        adapter_only=adapter_only,
    )
    readme.write_text(card, encoding="utf-8")
    _check_private(run, export, folder)
    files = tuple((path.relative_to(folder).as_posix(), path.stat().st_size) for path in sorted(folder.rglob("*")))
    return Upload(repository, export.name, files, card, licence)


def push(upload: Upload, folder: Path, *, private: bool, overwrite: bool) -> str:
    """Create the repository and upload the folder in one commit; returns the address of the commit.

    With `overwrite` the files of a repository that exists are replaced, and those that the folder lacks are removed;
    it stays as private or public as it is. Raises `ModelError` without a token that may do this, for a repository that
    holds something, and when the upload is cut off.
    """
    if upload.licence is None:
        raise RecipeError(
            "--license: give the licence of the model, e.g. --license apache-2.0; the licence of its base model says"
            " what is allowed"
        )
    api = HfApi()
    with _explained(upload.repository, "log in"):
        api.whoami()
    with _explained(upload.repository, "look for the repository"):
        there = _files(api, upload.repository)
    if there is not None and there - _NEW and not overwrite:
        raise ModelError(
            f"{upload.repository} exists on {constants.ENDPOINT} and holds {len(there)} files; give another name, or"
            " --overwrite to replace them"
        )
    if there is None:
        with _explained(upload.repository, "create the repository"):
            api.create_repo(upload.repository, private=private)
    with _explained(upload.repository, "upload"):
        done = api.upload_folder(
            repo_id=upload.repository,
            folder_path=folder,
            commit_message=f"{upload.model}, pushed by WhyScore",
            delete_patterns="*" if there and there - _NEW else None,
        )
    return str(done.commit_url)


def check_name(name: str, what: str = "the repository") -> None:
    """Raise `RecipeError` unless it is an id of the hub with its owner."""
    if not _NAME.fullmatch(name) or "--" in name or ".." in name or len(name) > _LONGEST_NAME:
        raise RecipeError(f"{what} {name[:100]}: write it as owner/name, with letters, digits, -, _ and . alone")


def _files(api: HfApi, repository: str) -> set[str] | None:
    """The files of a repository; None when there is none that the token may see."""
    try:
        return set(api.list_repo_files(repository))
    except RepositoryNotFoundError:
        return None


def _without_place(export: Export) -> Export:
    """The export with the last part of a local base's path as its name."""
    name = Path(export.model.name).name
    return export._replace(model=export.model.model_copy(update={"name": name}), facts={**export.facts, "base": name})


def _check_private(run: RunFolder, export: Export, folder: Path) -> None:
    """Raise `ModelError` if a text of the folder has the name of an image, or the path of base, store or home."""
    table = run.store.read_table(run.images.address, "images")
    names = {str(name) for name in table["image"].to_pylist()}
    names = {name for name in names if "." in name and len(name) >= _SHORTEST_NAME}
    places = {str(Path.home()), run.store.root, str(export.model.location)} - {"/", "", export.model.name}
    for path in folder.rglob("*"):
        if path.suffix not in _TEXT_FILES or path.stat().st_size > _MOST_TEXT:
            continue
        text = path.read_text(encoding="utf-8")
        if any(name in text for name in names):
            raise ModelError(
                f"{path.name} has the name of an image of the run's table, and nothing was uploaded; which text of the"
                " recipe (prompt, run name) holds it?"
            )
        if found := next((place for place in places if place in text), None):
            raise ModelError(f"{path.name} has a path of this machine, {found}, and nothing was uploaded")


@contextmanager
def _explained(repository: str, what: str) -> Iterator[None]:
    """Turn the errors of the hub's client into sentences; none has the token."""
    login = "log in with a token that may write (hf auth login), or set HF_TOKEN"
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise ModelError(f"there is no token for {constants.ENDPOINT}: {login}") from error
    except OfflineModeIsEnabled as error:
        raise ModelError(f"HF_HUB_OFFLINE is set, so nothing can be uploaded to {constants.ENDPOINT}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise ModelError(f"{constants.ENDPOINT} does not know the token: {login}") from error
        if status == 403:
            raise ModelError(
                f"{constants.ENDPOINT} does not let the token {what} for {repository}: {login}; is"
                f" {repository.partition('/')[0]} yours?"
            ) from error
        raise ModelError(_cut_off(repository, what, f"answered {status}")) from error
    except (httpx.HTTPError, OSError, RuntimeError, ValueError) as error:
        cause = error.__cause__ or error
        raise ModelError(_cut_off(repository, what, f"failed with {type(cause).__name__}")) from error


def _cut_off(repository: str, what: str, how: str) -> str:
    state = (
        f" {repository} is there without the model: run the command again, files that arrived are not sent again"
        if what == "upload"
        else " Nothing was uploaded; run the command again"
    )
    return without_secrets(f"could not {what} at {constants.ENDPOINT}: it {how}.{state}")
