"""The models and files that a launch names: where they lie, what a server must be able to read, what it must fetch by itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tuner.engines import hub
from tuner.engines.base import existing_path
from tuner.engines.model_names import named
from tuner.errors import Systemic
from tuner.launch import Mount, Value

FORWARDED_ENV = ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE")
"""Variables of the user's environment that a server needs to fetch a model by itself."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What the engine's model and the flags that name further ones come to on this host.

    Servers get the folder of a snapshot in place of its hub id. They could look it up in the cache themselves, but newer versions of the
    hub library then miss the copies that `hub.fetch` leaves out.

    Attributes:
        model: Hub id or directory, as the user gave it.
        cache: Hub cache on the host where servers run, which holds the models; None where that is this host's own.
        model_args: Parameters whose values name models.
        file_args: Parameters whose values name files that a server reads.
        served_from: What servers call the place of the model where their files are none of this host's: then nothing that a launch names is
            looked for here, fetched or mounted, and of the model itself only configuration and tokenizer are.
        snapshots: What has been fetched, by hub id.
    """

    model: str
    cache: Path | None
    model_args: frozenset[str]
    file_args: frozenset[str]
    served_from: str | None = None
    snapshots: dict[str, hub.Snapshot] = field(default_factory=dict)

    def fetch(self, args: Mapping[str, Value]) -> None:
        """Fetches the model and those that `args` name; where servers have files of their own, only configuration and tokenizer.

        Raises:
            Systemic: one cannot be had.
        """
        path = existing_path(self.model)
        if path is not None:
            if path.is_dir() and not (path / "config.json").exists():
                raise Systemic(f"engine.model={self.model}: no model in this directory, config.json is missing")
        elif self._elsewhere is None:
            # A hub id begins with a letter, digit or underscore; anything else can only be a path.
            if self.model.startswith(("/", ".", "~")):
                raise Systemic(f"engine.model={self.model}: no such directory")
            revision = args.get("revision")
            weights = self.cache is None and self.served_from is None
            self.snapshots[self.model] = hub.fetch(self.model, "engine.model", weights, None if revision is None else str(revision))
        if self.served_from is not None:
            return
        for name in sorted(self.model_args & set(args)):
            for text in named(args[name]):
                if _existing(text) is None and hub.is_id(text) and text not in self.snapshots:
                    self.snapshots[text] = hub.fetch(text, f"engine.args.{name}", self.cache is None and "tokenizer" not in name)

    @property
    def folder(self) -> Path | None:
        """Folder of this host with the model's configuration and tokenizer; None where there is none."""
        snapshot = self.snapshots.get(self.model)
        return existing_path(self.model) if snapshot is None else snapshot.folder

    def places(self, full: Mapping[str, Value]) -> dict[str, Path]:
        """Where what a launch names lies, as the server sees it; not what it must fetch by itself or knows by name."""
        if self.served_from is not None:
            return {}
        found = {text: _existing(text) for text in self._named(full)}
        if self.cache is None:
            found |= {text: self.snapshots[text].folder for text in found if text in self.snapshots}
        if self._elsewhere is not None:
            found[self.model] = self._elsewhere
        return {text: path for text, path in found.items() if path is not None}

    def mounts(self, full: Mapping[str, Value]) -> tuple[Mount, ...]:
        """What the server must be able to read, at the same path as on the host."""
        roots = [hub.mount_point(path) for path in self.places(full).values()]
        if self.cache is not None:
            roots += [self.cache / self.snapshots[text].storage.name for text in self._named(full) if text in self.snapshots]
        return tuple(Mount(root, str(root)) for root in dict.fromkeys(roots))

    def environment(self, full: Mapping[str, Value]) -> dict[str, str]:
        """The hub's variables. May hold the user's token, but only for a server that has to fetch a model by itself."""
        if self.served_from is not None:
            return {}
        places = self.places(full)
        ids = [text for text in self._named(full) if text in self.snapshots or (text not in places and self._is_model(text))]
        if any(text not in self.snapshots for text in ids):
            return {name: os.environ[name] for name in FORWARDED_ENV if name in os.environ}
        if not ids:
            return {}
        return {"HF_HUB_CACHE": str(self.cache or self.snapshots[ids[0]].storage.parent), "HF_HUB_OFFLINE": "1"}

    @property
    def _elsewhere(self) -> Path | None:
        """The model's directory where it is one of another host, which cannot be looked at from here."""
        return Path(self.model) if self.cache is not None and self.model.startswith("/") and not Path(self.model).exists() else None

    def _is_model(self, text: str) -> bool:
        return text == self.model or hub.is_id(text)

    def _named(self, full: Mapping[str, Value]) -> list[str]:
        args = [name for name in full if name in self.model_args | self.file_args]
        return [self.model, *(text for name in args for text in named(full[name]))]


def _existing(text: str) -> Path | None:
    try:
        return existing_path(text)
    except OSError:  # too long for a path: a template itself, not its file
        return None
