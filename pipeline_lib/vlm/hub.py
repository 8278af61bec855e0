"""Models of the Hugging Face hub: the local cache is asked first, then the hub, briefly."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from pipeline_lib.errors import ModelError
from pipeline_lib.vlm.weights import MODEL_FILES, SMALL_FILES, missing_weights

TIMEOUT_S = 5.0
"""For one answer of the hub, so that a machine without network fails soon."""


def hub_folder(model_id: str, revision: str, *, weights: bool, holds: str = "config.json") -> Path:
    """The folder of a model in the hub's local cache; what is missing is downloaded, weights only if asked for.

    A model that is complete in the cache, with the file `holds`, is found without network. Raises `ModelError` within
    seconds when it is not, and the hub does not answer or refuses.
    """
    cached = try_to_load_from_cache(model_id, holds, revision=revision)
    if isinstance(cached, str) and not missing_weights(Path(cached).parent):
        return Path(cached).parent
    with _explained(model_id, revision):
        HfApi().model_info(model_id, revision=revision, timeout=TIMEOUT_S)
        patterns = list(MODEL_FILES if weights else SMALL_FILES)
        return Path(snapshot_download(model_id, revision=revision, allow_patterns=patterns))


def current_commit(model_id: str) -> str:
    """The commit that the branch main of a model is at; raises `ModelError` when the hub does not say."""
    with _explained(model_id, "main"):
        return str(HfApi().model_info(model_id, timeout=TIMEOUT_S).sha)


@contextmanager
def _explained(model_id: str, revision: str) -> Iterator[None]:
    page = f"{constants.ENDPOINT}/{model_id}"
    try:
        yield
    except GatedRepoError as error:
        raise ModelError(
            f"{model_id} requires an accepted licence: accept it on {page}, then log in (hf auth login)"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"{model_id} has no revision {revision}; its commits are on {page}/commits/main") from error
    except RepositoryNotFoundError as error:
        raise ModelError(f"the hub has no model {model_id}, or it is private (hf auth login)") from error
    except (httpx.HTTPError, ConnectionError, LocalEntryNotFoundError, HfHubHTTPError) as error:
        raise ModelError(
            f"the weights of {model_id} at revision {revision} are not on this machine and the hub"
            f" ({constants.ENDPOINT}) cannot be reached ({type(error).__name__}). Run"
            f" `hf download {model_id} --revision {revision}` where it can, with this machine's cache folder (HF_HOME),"
            " or give model.id a directory that holds them"
        ) from error
