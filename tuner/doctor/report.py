"""All that the checks of an experiment found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tuner.finding import Finding


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found for an experiment.

    Attributes:
        study_name: Of the experiment's study.
        engine: Name of its engine.
        backend: Name of the backend that was examined; never `auto`.
        findings: By the name of the check, in the order in which they were made.
    """

    study_name: str
    engine: str
    backend: str
    findings: Mapping[str, Finding]

    @property
    def ready(self) -> bool:
        """Whether nothing keeps a run from working."""
        return all(finding.verdict != "failed" for finding in self.findings.values())
