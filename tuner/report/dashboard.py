"""`python -m tuner dashboard`: optuna-dashboard for the configured storage, with the pictures of the trials."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys

from tuner.errors import NotReadyError
from tuner.report.pages import artifacts_folder
from tuner.settings import Settings
from tuner.storage import open_storage, shown


def serve(settings: Settings) -> int:
    """Serves until Ctrl-C.

    Raises:
        NotReadyError: the extra is not installed, the storage cannot be opened, or the address is taken.
    """
    try:
        from optuna_dashboard import run_server
    except ImportError as error:
        raise NotReadyError("the dashboard is an extra: pip install 'tuner[dashboard]'") from error
    from optuna.artifacts import FileSystemArtifactStore

    host, port = settings.dashboard.host, settings.dashboard.port
    _check_free(host, port)
    storage = open_storage(settings.storage.url)
    artifacts = artifacts_folder(settings)
    try:
        artifacts.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotReadyError(f"folder: cannot create {artifacts} ({error.strerror}); choose a folder that you may write to") from error
    sys.stdout.write(f"Studies in {shown(settings.storage.url)}: http://{host}:{port}/dashboard (Ctrl-C ends it)\n")
    sys.stdout.flush()
    with contextlib.suppress(KeyboardInterrupt):  # the way it is meant to end
        run_server(storage, host=host, port=port, artifact_store=FileSystemArtifactStore(artifacts))
    return 0


def _check_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                key, other = "dashboard.port", f"{port + 1 if 1024 <= port < 65535 else 8080}"
            else:
                key, other = "dashboard.host", "127.0.0.1"
            raise NotReadyError(f"{key}: cannot listen on {host}:{port} ({error.strerror}); try {key}={other}") from error
