"""What this environment lacks for an experiment, and the fix: `tuner doctor`."""

from __future__ import annotations

import sys

from rich.console import Console

from tuner.doctor.examination import examine
from tuner.doctor.rendering import as_json as render_json
from tuner.doctor.rendering import show
from tuner.errors import NotReadyError
from tuner.settings import Settings

WIDTH = 100
"""Columns of the table where the output is no terminal."""


def run(settings: Settings, as_json: bool, verbosity: int) -> int:
    """Examines the environment and says what was found on stdout.

    Args:
        settings: The experiment.
        as_json: For machines, see `rendering.as_json`; otherwise a table.
        verbosity: -1 shows only what is not in order.

    Returns:
        0 where nothing failed, else 3, as of a run that cannot start.
    """
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    if as_json:
        report = examine(settings)
        sys.stdout.write(render_json(report))
    else:
        with console.status("Examining this host ..."):
            report = examine(settings)
        show(report, console, quiet=verbosity < 0)
    return 0 if report.ready else NotReadyError.exit_code
