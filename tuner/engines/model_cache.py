"""A cache of folders that are expensive to build and depend only on their recipe: random-weight models, tokenizers taken out of a GGUF."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

MANIFEST = "manifest.json"


def cache_root() -> Path:
    """The folder of the user's cache that holds models and tokenizers: `$XDG_CACHE_HOME/tuner/models`, else `~/.cache/tuner/models`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says that a relative path there is to be ignored.
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "tuner" / "models"


def built_once(name: str, recipe: Mapping[str, object], build: Callable[[Path], None]) -> Path:
    """The folder that `build` fills, made only when it is missing or damaged.

    Two processes may ask at the same time: each builds beside the target, the first rename wins and the other takes what is there.

    Args:
        name: Readable beginning of the folder's name.
        recipe: All that the content depends on, JSON-able; its hash is the rest of the name.
        build: Writes the content into the empty folder it is given.

    Raises:
        OSError: the cache cannot be written.
    """
    target = cache_root() / f"{name}-{_digest(recipe)}"
    if _intact(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        fresh = Path(scratch, "fresh")
        fresh.mkdir()
        build(fresh)
        (fresh / MANIFEST).write_text(json.dumps({"recipe": dict(recipe), "sizes": _sizes(fresh)}, indent=2))
        if target.exists() and not _intact(target):
            shutil.rmtree(target, ignore_errors=True)
        try:
            fresh.rename(target)
        except OSError:
            if not _intact(target):
                raise
    return target


def _digest(recipe: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def _sizes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def _intact(folder: Path) -> bool:
    """Whether every file is there in full length; the content is not read, a model may have gigabytes."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        return bool(manifest["sizes"] == {path: size for path, size in _sizes(folder).items() if path != MANIFEST})
    except (OSError, ValueError, KeyError, TypeError):
        return False
