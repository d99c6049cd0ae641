"""The doctor's report, for people and for machines."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

import tuner
from tuner.doctor.report import Report

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "bold red", "skipped": "dim"}


def show(report: Report, console: Console, quiet: bool) -> None:
    """Prints a table and a verdict.

    Args:
        report: What was found.
        console: Where to print.
        quiet: Leave out what is in order.
    """
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, finding in report.findings.items():
        if quiet and finding.verdict == "ok":
            continue
        table.add_row(Text(finding.verdict, _COLOURS[finding.verdict]), name.replace("_", " "), Text(finding.seen))
        if finding.fix:
            table.add_row("", "", Text(f"fix: {finding.fix}", "bold"))
    console.print(table)
    console.print(Text(_verdict(report)))


def _verdict(report: Report) -> str:
    count = {verdict: sum(finding.verdict == verdict for finding in report.findings.values()) for verdict in _COLOURS}
    others = "".join(f", {count[verdict]} {verdict}" for verdict in ("warning", "skipped") if count[verdict])
    return f"Ready: {count['ok']} ok{others}." if report.ready else f"Not ready: {count['failed']} failed{others}."


def as_json(report: Report) -> str:
    """One JSON object: `tuner` (version), `study_name`, `engine`, `backend`, `ready` (whether nothing failed) and `findings`, a list of
    objects with `check` (its name), `verdict` (`ok`, `warning`, `failed`, `skipped`), `seen` and `fix`."""
    findings = [{"check": name, **asdict(finding)} for name, finding in report.findings.items()]
    told = {"study_name": report.study_name, "engine": report.engine, "backend": report.backend, "ready": report.ready}
    return json.dumps({"tuner": tuner.__version__, **told, "findings": findings}, indent=2) + "\n"
