"""Models of the Hugging Face hub: fetched once into this user's hub cache, from where every launch reads them."""

from __future__ import annotations

import errno
import json
import re
from dataclasses import dataclass
from pathlib import Path

from tuner.errors import Systemic

_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")

# Copies of the weights in formats that neither engine prefers; they can be as large as the model itself.
_COPIES = ["original/*", "*.pth", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.ot"]
_PICKLED = "*.bin"
_STEMS = {"safetensors": "model", "bin": "pytorch_model"}
_SMALL = ["*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt", "tokenizer*"]

_ABSENT = "the hub has no such model, or it is private: check the name; for a private one set HF_TOKEN"
_BAD_TOKEN = "Invalid credentials in Authorization header"  # huggingface_hub/utils/_http.py tells it by this text too


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A model's files of one commit.

    Attributes:
        folder: Where they lie, as links to files beside it.
    """

    folder: Path

    @property
    def commit(self) -> str:
        """The commit's hash."""
        return self.folder.name

    @property
    def storage(self) -> Path:
        """The model's part of the hub cache, `models--org--name`, which holds all that the links point to."""
        return self.folder.parent.parent


def is_id(text: str) -> bool:
    """Whether `text` reads like `organisation/name`."""
    return _ID.fullmatch(text) is not None


def mount_point(path: Path) -> Path:
    """What to mount for `path` to be readable: the files of a snapshot are links to others outside of it."""
    inside = [folder for folder in path.parents if folder.name.startswith("models--")]
    return inside[0] if inside and path.is_relative_to(inside[0] / "snapshots") else path


def fetch(model: str, key: str, weights: bool, revision: str | None = None) -> Snapshot:
    """Downloads what is missing of `model` into the hub cache; without a network, what is there must suffice.

    Args:
        model: Hub id.
        key: Where the user wrote it, for messages.
        weights: Whether the weights are needed, or only configuration and tokenizer.
        revision: Branch, tag or commit; None takes the default branch.

    Raises:
        Systemic: it cannot be had; names the cause and the fix, never the token.
    """
    try:
        if not weights:
            return Snapshot(_download(model, revision, allow=_SMALL))
        folder = _download(model, revision, ignore=[*_COPIES, _PICKLED])
        if not any(folder.glob("*.safetensors")):
            folder = _download(model, revision, ignore=_COPIES)
    # the HTTP client below the hub library and its storage client have errors of their own, which change with its version
    except Exception as error:
        raise Systemic(f"{key}={model}: {_cause(model, error)}") from error
    if missing := _missing(folder):
        raise Systemic(
            f"{key}={model}: {missing} is missing in {folder}: the hub has no whole model there, or could not be asked for the rest of it"
        )
    return Snapshot(folder)


def _download(model: str, revision: str | None, allow: list[str] | None = None, ignore: list[str] | None = None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=allow, ignore_patterns=ignore))
    except LocalEntryNotFoundError as error:
        # Without the hub, version 2 of the library refuses what lacks any file of the repository, a README too, as where SGLang or vLLM
        # filled the cache; it names the folder then.
        partial: str | None = getattr(error, "snapshot_path", None)
        if partial is None or allow is not None or _missing(Path(partial)) or not any(Path(partial).glob("tokenizer*")):
            raise
        return Path(partial)


def _missing(folder: Path) -> str | None:
    """The first file that a complete model, or adapter of one, would have; None where all are there."""
    if not (folder / "config.json").exists() and not (folder / "adapter_config.json").exists():
        return "config.json"
    for kind in ("safetensors", "bin"):
        if (index := folder / f"{_STEMS[kind]}.{kind}.index.json").exists():
            try:
                shards = set(json.loads(index.read_text())["weight_map"].values())
            except (ValueError, KeyError, TypeError, AttributeError):
                return f"a readable {index.name}"
            return next((shard for shard in sorted(shards) if not (folder / shard).exists()), None)
        if any(folder.glob(f"*.{kind}")):
            return None
    return "the file of the weights"


def _cause(model: str, error: Exception) -> str:
    """The cause and the remedy. Built from the kind of the error alone: its text holds many lines and addresses."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    cache = constants.HF_HUB_CACHE
    match error:
        case HFValidationError():
            return "neither a directory of this host nor a hub id like organisation/name"
        case GatedRepoError():
            return f"the model is gated: ask for access at {constants.ENDPOINT}/{model}, then set HF_TOKEN to a token of that account"
        case RepositoryNotFoundError():
            return _ABSENT
        case RevisionNotFoundError():
            return "the hub has the model, but not the revision in engine.args.revision"
        case LocalEntryNotFoundError():
            return f"the hub {_unreachable(error)} and the model is not in the cache {cache}: check the network or give a local directory"
        case HfHubHTTPError() if error.response.headers.get("X-Error-Message") == _BAD_TOKEN:
            return "the hub refuses your token: set HF_TOKEN to a valid one, or unset it and delete the one stored by `hf auth login`"
        # what strangers are told about private models and about none; the library knows it only from a hub behind https
        case HfHubHTTPError() if error.response.status_code == 401:
            return _ABSENT
        case HfHubHTTPError():
            return f"the hub answers {error.response.status_code}: try again later"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return f"no space left for it in the hub cache {cache}: make room, or set HF_HUB_CACHE to another place"
        case OSError(errno=errno.EACCES | errno.EROFS | errno.EPERM):
            return f"the hub cache {cache} cannot be written: set HF_HUB_CACHE to another place"
        case _:
            return f"the download broke off ({type(error).__name__}): the same command goes on from there"


def _unreachable(error: Exception) -> str:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    match error.__cause__:
        case OfflineModeIsEnabled():
            return "is switched off (HF_HUB_OFFLINE)"
        case HfHubHTTPError() as refusal:
            return f"answers {refusal.response.status_code}"
        case _:
            return "cannot be reached"
