"""The Hugging Face hub: whether it has the model, and whether this user may have it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tuner.finding import Finding, failed, ok, skipped, warning

_ANSWER_S = 5.0
_GB = 10**9
_UNAUTHORIZED = 401
_WEIGHTS = {".safetensors", ".bin"}


def hub_model(name: str, revision: str | None = None, weights: bool = True) -> Finding:
    """Whether the model can be downloaded, or is in the cache.

    Args:
        name: Its hub id.
        revision: Branch, tag or commit; None is the default branch.
        weights: Whether its weights are needed on this host, not only its configuration.
    """
    from huggingface_hub import HfApi, constants, get_hf_file_metadata, get_token, hf_hub_url
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        HFValidationError,
        HTTPError,
        OfflineModeIsEnabled,
        RevisionNotFoundError,
    )

    try:
        info = HfApi().model_info(name, revision=revision, timeout=_ANSWER_S, files_metadata=True)
        if info.gated:  # everybody may read its description, not its files
            get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision), token=get_token(), timeout=_ANSWER_S)
    except HFValidationError:
        return failed(f"engine.model={name} is neither a directory nor a hub id", "write org/model, or the path of a directory")
    except RevisionNotFoundError:
        return failed(f"{constants.ENDPOINT}/{name} has no revision {revision}", "check engine.args.revision")
    except (OfflineModeIsEnabled, HTTPError) as error:
        seen, fix = _refusal(name, error)
        # `snapshot_download` takes what is in the cache then, whatever the hub's reason
        if _is_cached(name, revision):
            return warning(f"{seen}; {name} is in the cache", f"none is needed, unless files are missing there: {fix}")
        return failed(f"{seen}; {name} is not in the cache", fix)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    if "config.json" not in sizes:
        return failed(f"{name} has no config.json", "choose a model in the format of transformers, which SGLang and vLLM read")
    size = sum(size for file, size in sizes.items() if file.endswith(".safetensors")) or sum(sizes.values())
    seen = f"{constants.ENDPOINT}/{name}, {size / _GB:.1f} GB"
    if _is_cached(name, revision):
        return ok(f"{seen}, in the cache")
    cache = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(folder for folder in (cache, *cache.parents) if folder.exists())).free
    if weights and free < size:
        return warning(f"{seen}, of which {cache} can hold {free / _GB:.1f}", "make room, or set HF_HUB_CACHE to a folder on a larger disk")
    return ok(f"{seen}, to be downloaded" if weights else seen)


def _refusal(name: str, error: Exception) -> tuple[str, str]:
    """Why the hub does not give the model, and what to do about it."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    hub = constants.ENDPOINT
    match error:
        case GatedRepoError():
            seen = f"{name} is gated, and {'this token does not open it' if get_token() else 'no token is set'}"
            return seen, f"accept its licence at {hub}/{name}, then export HF_TOKEN of that account, or `hf auth login`"
        case RepositoryNotFoundError():
            return f"{hub} has no {name}, or it is private", "check engine.model; for a private model export HF_TOKEN, or `hf auth login`"
        case HfHubHTTPError() if error.response.status_code == _UNAUTHORIZED:
            return f"{hub} refuses the token", "see the check of the token"
    return f"{hub} cannot be asked ({_one_line(error)})", "check the network, the proxy settings, HF_ENDPOINT and HF_HUB_OFFLINE"


def token(model: str, revision: str | None = None) -> Finding:
    """Whether the hub accepts the user's token. It is never shown.

    Args:
        model: Hub id of the model.
        revision: Branch, tag or commit of it.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status  # type: ignore[attr-defined]

    secret = get_token()
    if secret is None:
        return ok(f"none is set; only if {model} is gated or private one is needed")
    where = "the token in HF_TOKEN" if os.environ.get("HF_TOKEN") else "the stored token"
    try:
        url = f"{constants.ENDPOINT}/api/whoami-v2"  # `HfApi.whoami` would wait without end
        hf_raise_for_status(get_session().get(url, headers=build_hf_headers(token=secret), timeout=_ANSWER_S))
    except (OfflineModeIsEnabled, HTTPError) as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code == _UNAUTHORIZED:
            fix = "make a new one at https://huggingface.co/settings/tokens and export HF_TOKEN, or `hf auth login`"
            seen = f"{constants.ENDPOINT} refuses {where}, even for public models"
            return warning(f"{seen}; {model} is in the cache", fix) if _is_cached(model, revision) else failed(seen, fix)
        return skipped(f"{constants.ENDPOINT} cannot be asked about {where}: {_one_line(error)}")
    return ok(f"{constants.ENDPOINT} accepts {where}")


def _is_cached(model: str, revision: str | None) -> bool:
    """Whether the cache holds a configuration and weights; not whether all of them."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(model, "config.json", revision=revision)
    return isinstance(config, str) and any(file.suffix in _WEIGHTS for file in Path(config).parent.iterdir())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
