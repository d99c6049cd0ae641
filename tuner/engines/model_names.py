"""Values of flags that name models or files: `org/name`, `/a/path`, `adapter=/a/path`, several of them, or JSON that holds one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tuner.launch import Value

_JSON_KEYS = ("model", "path", "lora_path")
"""Where vLLM's `--speculative-config` and `--lora-modules`, and SGLang's `--lora-paths`, name a model in JSON."""


def named(value: Value) -> list[str]:
    """What `value` names, as far as it has a slash: anything else is a name that the engine itself knows, such as `chatml`."""
    found: list[str] = []

    def note(text: str) -> str:
        if "/" in text:
            found.append(text)
        return text

    _each(value, note)
    return found


def replaced(value: Value, places: Mapping[str, Path]) -> Value:
    """`value` with the names that `places` knows replaced by where they lie."""
    return _each(value, lambda text: str(places.get(text, text))) if any(text in places for text in named(value)) else value


def _each(value: Value, change: Callable[[str], str]) -> Value:
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith(("{", "[")):
        content = _object(value)
        changed = {key: change(text) for key in _JSON_KEYS if isinstance(text := content.get(key), str)}
        return json.dumps(content | changed) if changed else value
    words = [word.rpartition("=") for word in value.split()]
    return " ".join(name + equals + change(text) for name, equals, text in words)


def _object(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
