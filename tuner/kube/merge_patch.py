"""JSON merge patches (RFC 7386) that users put over manifests of tuner's: applied, and kept away from the fields that tuner sets itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tuner.errors import ConfigError

Path = tuple[str, ...]

OWN_IN_ALL: tuple[Path, ...] = (
    ("apiVersion",),
    ("kind",),
    ("metadata", "name"),
    ("metadata", "namespace"),
    ("metadata", "generateName"),
    ("metadata", "ownerReferences"),
    ("metadata", "finalizers"),
    ("metadata", "labels", "app.kubernetes.io/managed-by"),
    ("metadata", "annotations", "tuner.owner"),
    ("metadata", "annotations", "tuner.expires-at"),
    ("status",),
)
"""Fields of whatever object that tuner sets itself, and by which it finds its own again."""


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


def without_secrets(patch: Any, key: str, secret: re.Pattern[str], way_out: str) -> None:
    """Checks that a patch holds no environment variable with the value of a secret: the values of a configuration are stored.

    Args:
        patch: What the user wrote, or a part of it.
        key: The key of the configuration where it stands.
        secret: Names of variables whose values are secret.
        way_out: What to do instead, for the message.

    Raises:
        ConfigError: it does.
    """
    if isinstance(patch, Mapping):
        name, value = patch.get("name"), patch.get("value")
        if isinstance(name, str) and value and secret.search(name):
            raise ConfigError(f"{key}: the value of {name} would be stored, which is no place for a secret; {way_out}")
        for part, inner in patch.items():
            without_secrets(inner, f"{key}.{part}", secret, way_out)
    elif isinstance(patch, list | tuple):
        for index, inner in enumerate(patch):
            without_secrets(inner, f"{key}.{index}", secret, way_out)
