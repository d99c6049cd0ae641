"""JSON merge patches (RFC 7386) that users put over manifests of tuner's: applied, and kept away from the fields that tuner sets itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tuner.errors import ConfigError

Path = tuple[str, ...]


def merged(target: Any, patch: Any) -> Any:
    """`target` after `patch`: mappings are merged, None removes a key, all else, lists too, is replaced."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def spare(own: Iterable[Path], patch: Mapping[str, Any], key: str, others: str) -> None:
    """Checks that a patch leaves certain fields alone.

    Args:
        own: The fields, each by the keys that lead to it.
        patch: What the user wrote.
        key: The key of the configuration where it stands.
        others: The keys that are there instead, for the message: `the other keys of backend`.

    Raises:
        ConfigError: it sets or removes one of them.
    """
    for path in own:
        at: Any = patch
        for i, name in enumerate(path):
            place = ".".join((key, *path[:i]))
            if at is None:
                raise ConfigError(f"{place}: null would remove fields that tuner sets itself")
            if not isinstance(at, Mapping):
                raise ConfigError(f"{place}: must be a mapping; it holds fields that tuner sets itself")
            if name not in at:
                break
            at = at[name]
        else:
            raise ConfigError(f"{'.'.join((key, *path))}: set by tuner itself; see {others}")
