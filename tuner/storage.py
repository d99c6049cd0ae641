"""Optuna's storage: opened safely by several processes at once, errors in one line."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from tuner.errors import ConfigError, NotReadyError

BUSY_TIMEOUT_S = 60
"""How long SQLite waits for another writer. Optuna's five tries of five seconds fail under a backup that holds the lock longer."""


def open_storage(text: str) -> optuna.storages.RDBStorage:
    """Opens the storage at a SQLAlchemy URL; a new SQLite file and its folder are created.

    Raises:
        ConfigError: the URL is no URL, or names an unknown kind of database.
        NotReadyError: it cannot be reached or written.
    """
    try:
        url = make_url(text)
        url.get_dialect().import_dbapi()
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise ConfigError(f"storage.url: '{_safe(text)}' is no database URL; use for example sqlite:///studies/tuner.db") from error
    except ModuleNotFoundError as error:
        raise NotReadyError(f"storage.url: {text.partition(':')[0]} needs the Python module {error.name}; install it") from error
    sqlite = url.get_backend_name() == "sqlite"
    path = Path(url.database) if sqlite and url.database and url.database != ":memory:" else None
    if path is not None:
        _check_writable(path)
    try:
        with _first_use(path):
            storage = optuna.storages.RDBStorage(text, engine_kwargs={"connect_args": {"timeout": BUSY_TIMEOUT_S}} if sqlite else None)
            if path is not None:
                _write_ahead(storage.engine)
    except (SQLAlchemyError, OSError, RuntimeError) as error:
        # RuntimeError: Optuna's word for tables of another version, or a database that is not Optuna's
        cause = getattr(error, "orig", None) or error
        raise NotReadyError(f"storage.url: cannot open {shown(url)}: {str(cause).splitlines()[0]}") from error
    return storage


def _check_writable(path: Path) -> None:
    """Says early and plainly what SQLite would call 'unable to open database file'.

    Only the folder `studies/` style of path is created: a missing parent of an absolute path is more likely a typo.
    """
    folder = path.parent
    try:
        if not path.is_absolute():
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotReadyError(f"storage.url: cannot create the folder {folder}: {error.strerror}") from error
    if not folder.is_dir():
        raise NotReadyError(f"storage.url: the folder {folder} does not exist; create it, or use sqlite:///studies/tuner.db")
    if path.is_dir():
        raise NotReadyError(f"storage.url: {path} is a folder; name a file in it")
    # the folder too: SQLite keeps its journal beside the file
    for place in (folder, path):
        if place.exists() and not os.access(place, os.W_OK):
            raise NotReadyError(f"storage.url: {place} cannot be written by this user")


@contextlib.contextmanager
def _first_use(path: Path | None) -> Iterator[None]:
    """Lets one process at a time create the tables: of several that start together on a new file, most would die otherwise."""
    if path is None:
        yield
        return
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write_ahead(engine: sqlalchemy.Engine) -> None:
    """Turns on SQLite's write-ahead log: the dashboard reads while a study writes, and a commit costs half."""

    @sqlalchemy.event.listens_for(engine, "connect")
    def pragmas(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    engine.dispose()  # connections made before know nothing of it


def shown(url: URL | str) -> str:
    """A database URL without its password, for people to read."""
    return make_url(url).set(query={}).render_as_string(hide_password=True)  # some drivers take a password there


def _safe(text: str) -> str:
    """A text that may be a broken URL, without what may be a password."""
    scheme, separator, rest = text.partition("?")[0].partition("://")
    return f"{scheme}{separator}***@{rest.rpartition('@')[2]}" if "@" in rest else f"{scheme}{separator}{rest}"
