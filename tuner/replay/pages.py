"""The dashboard's pages of a replayed study: a replay ends hundreds of trials in the time that one picture takes."""

from __future__ import annotations

from pathlib import Path

from optuna.trial import Trial

from tuner.errors import TrialFailure
from tuner.report.curve import Curve
from tuner.report.pages import Pages


class LastPages(Pages):
    """Draws the plots of the study once, when it ends, and no pages of single trials."""

    def trial(self, trial: Trial, measured: Curve, folder: Path) -> None:
        """Left out."""

    def failure(self, trial: Trial, failure: TrialFailure) -> None:
        """Left out."""

    def study(self) -> None:
        """Left to `close`."""

    def close(self) -> None:
        """Draws the plots."""
        super().study()
