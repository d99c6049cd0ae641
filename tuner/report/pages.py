"""What optuna-dashboard shows beside Optuna's own data: notes, a latency-throughput picture per trial, the feasible front.

The dashboard is an optional extra: without it the study runs just as well, and nothing of this is written.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path

from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.trial import FrozenTrial, Trial

from tuner.benchmark.measurement import Measurement
from tuner.errors import TrialFailure
from tuner.evaluation import evaluate
from tuner.report import curve, text
from tuner.report.curve import Curve
from tuner.settings import Settings
from tuner.study import Ledger

DETAIL = 4000
"""Characters of a failed server's log that its note shows."""
PLOTTED_OBJECTIVES = (2, 3)
"""Optuna draws fronts of two or three objectives."""


class Pages:
    """Writes the pages of one study.

    Args:
        ledger: The study.
        artifacts: Directory of the artifact store; made when needed.
    """

    def __init__(self, ledger: Ledger, artifacts: Path) -> None:
        self._ledger = ledger
        self._artifacts = artifacts
        self._enabled = all(importlib.util.find_spec(name) for name in ("optuna_dashboard", "plotly", "matplotlib"))

    def introduction(self) -> None:
        """Writes the note on the study's page: what is tuned, under which traffic, and where the logs are."""
        if not self._enabled:
            return
        from optuna_dashboard import save_note

        settings, levels = self._ledger.settings, self._ledger.settings.workload.levels
        lines = [
            f"# {settings.study_name}",
            f"{settings.subject} on backend {settings.backend.name}; "
            f"traffic `{settings.workload.scenario}` at {', '.join(map(str, levels))} users.",
            f"SLOs: {', '.join(slo.label(levels) for slo in settings.constraints) or 'none'}.",
            f"Logs and raw results: `{settings.study_folder}/`",
        ]
        if settings.stand_in_for:
            lines.insert(1, f"**A stand-in on the CPU for {settings.stand_in_for}: the numbers say nothing about a GPU.**")
        save_note(self._ledger.study, "\n\n".join(lines))

    def trial(self, trial: Trial, measured: Curve, folder: Path) -> None:
        """Writes the note and the picture of a trial that is about to end; one that measured nothing gets neither."""
        if not self._enabled or not measured:
            return
        from optuna_dashboard import save_note

        default = self._ledger.default
        picture = folder / "curve.png"
        curve.draw(measured, curve_of(default) if default else None, f"{self._ledger.settings.study_name} #{trial.number}", picture)
        self._artifacts.mkdir(parents=True, exist_ok=True)
        store = FileSystemArtifactStore(self._artifacts)
        upload_artifact(artifact_store=store, file_path=str(picture), study_or_trial=trial, mimetype="image/png")
        save_note(trial, _note(trial, measured, self._missed(measured, trial.user_attrs.get("gpus", 0))))

    def _missed(self, measured: Curve, gpus: int) -> list[str]:
        """The SLOs that these measurements miss: the dashboard's badge 'Best Trial' knows nothing of constraints."""
        return evaluate(self._ledger.settings, measured, gpus).missed

    def failure(self, trial: Trial, failure: TrialFailure) -> None:
        """Writes the reason into the note of a trial that failed."""
        if not self._enabled:
            return
        from optuna_dashboard import save_note

        save_note(trial, f"**{type(failure).__name__}**: {failure.reason}\n\n```\n{failure.detail[-DETAIL:]}\n```")

    def study(self) -> None:
        """Draws the plots on the study's page anew."""
        if not self._enabled:
            return
        import optuna.visualization
        from optuna_dashboard import save_plotly_graph_object

        study, front, default = self._ledger.study, self._ledger.front, self._ledger.default
        curves = {_name(trial): curve_of(trial) for trial in self._ledger.finished if curve_of(trial)}
        highlighted = {_name(trial) for trial in [*front, *([default] if default else [])]}
        save_plotly_graph_object(study, curve.plot_study(curves, highlighted), graph_object_id="latency_throughput")
        if front and len(study.directions) in PLOTTED_OBJECTIVES:
            save_plotly_graph_object(study, optuna.visualization.plot_pareto_front(study), graph_object_id="feasible_front")


def artifacts_folder(settings: Settings) -> Path:
    """Where the pictures of all studies are, for the run that writes them and the dashboard that shows them."""
    return Path(settings.folder) / "artifacts"


def curve_of(trial: FrozenTrial) -> Curve:
    """The measurements that a trial keeps in the study."""
    kept = trial.user_attrs.get("measurements", {})
    return {int(level): Measurement.from_dict(measurement) for level, measurement in kept.items()}


def _name(trial: FrozenTrial) -> str:
    default = " defaults" if trial.user_attrs.get("default") else ""
    return f"#{trial.number}{default}"


def _note(trial: Trial, measured: Curve, missed: list[str]) -> str:
    attributes = trial.user_attrs
    names = (
        "output_tokens_per_s",
        "requests_per_s",
        "ttft_p50_s",
        "ttft_p99_s",
        "tpot_p50_s",
        "latency_p50_s",
        "latency_p99_s",
        "error_rate",
    )
    rows = [f"| {level} | {' | '.join(text.metric(name, measured[level].metric(name)) for name in names)} |" for level in sorted(measured)]
    unflushed = attributes.get("unflushed", [])
    doubtful = [level for level, measurement in measured.items() if measurement.client_bound]
    return "\n\n".join(
        [
            f"{'Engine defaults. ' if attributes.get('default') else ''}`{text.configuration(attributes['configuration'])}`",
            *([f"**Misses {', '.join(missed)}**: not on the front."] if missed else []),
            "\n".join([f"| users | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|", *rows]),
            *([f"**Client-bound at {_listed(doubtful)} users**: the load generator, not the server, set the pace."] if doubtful else []),
            *([f"**Prompt cache not flushed before {_listed(unflushed)} users**: see `cache_hit_rate`."] if unflushed else []),
            *_server_metrics(attributes.get("server", {})),
            # no code span: the page would be as wide as the line
            f"The server says it uses: {text.configuration(attributes.get('effective', {}))}",
            f"Server log: `{attributes['folder']}/server.log`",
        ]
    )


def _listed(levels: Iterable[int]) -> str:
    return ", ".join(map(str, levels))


def _server_metrics(kept: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A table of what the server's own metrics showed, where it has any."""
    names = list(dict.fromkeys(name for metrics in kept.values() for name in metrics))
    if not names:
        return []
    cells = {level: [f"{metrics[name]:g}" if name in metrics else "" for name in names] for level, metrics in kept.items()}
    rows = [f"| {level} | {' | '.join(row)} |" for level, row in cells.items()]
    return ["\n".join(["The server's own metrics:\n", f"| users | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|", *rows])]
