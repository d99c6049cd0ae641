"""Whether a study can be kept where the experiment wants it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import optuna
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from tuner.errors import ConfigError, NotReadyError
from tuner.finding import Finding, failed, ok
from tuner.storage import open_storage, shown

_FIX = "set storage.url to a database that you may write, for example sqlite:///studies/tuner.db"


def storage(url: str) -> Finding:
    """Writes a study and deletes it again.

    A SQLite database that is not there yet is tried out under another name in its folder, so that nothing is left.

    Args:
        url: Of the storage.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with _tried_out(url) as place:
            opened = open_storage(place)
            name = f"tuner-doctor-{secrets.token_hex(8)}"
            number = opened.create_new_study([optuna.study.StudyDirection.MINIMIZE], name)
            try:
                opened.set_study_user_attr(number, "written", True)
            finally:
                opened.delete_study(number)
                opened.remove_session()
                opened.engine.dispose()
    except (ConfigError, NotReadyError) as error:
        return failed(" ".join(str(error).split()), _FIX)
    except optuna.exceptions.StorageInternalError as error:
        return failed(f"{shown(url)} cannot be written: {str(error.__cause__ or error).splitlines()[0]}", _FIX)
    return ok(f"{shown(url)} can be written")


@contextmanager
def _tried_out(url: str) -> Iterator[str]:
    """The URL itself, or that of a new SQLite file beside the one that it names, which is removed at the end with folders made for it."""
    path = _sqlite_path(url)
    if path is None or path.exists():
        yield url
        return
    other = path.with_name(f".tuner-doctor-{secrets.token_hex(8)}.db")
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        yield make_url(url).set(database=str(other)).render_as_string(hide_password=False)
    finally:
        for file in path.parent.glob(f"*{other.name}*"):  # beside it SQLite's own files, and the lock of `open_storage`
            file.unlink(missing_ok=True)
        for folder in missing:
            with suppress(OSError):  # it was not made, or another run has already put something into it
                folder.rmdir()


def _sqlite_path(url: str) -> Path | None:
    try:
        parsed = make_url(url)
    except ArgumentError:  # `open_storage` will tell
        return None
    if parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
        return None
    return Path(str(parsed.database))
