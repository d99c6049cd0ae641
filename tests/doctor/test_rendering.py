from __future__ import annotations

import io
import json
from collections.abc import Mapping

from rich.console import Console

import tuner
from tuner.doctor.rendering import as_json, show
from tuner.doctor.report import Report
from tuner.finding import Finding, failed, ok, skipped, warning

FINDINGS = {
    "docker_api": ok("API 1.41"),
    "gpus": failed("no [GPU] here", "run it elsewhere"),
    "image": warning("must be pulled", "`docker pull x`"),
    "container_gpu": skipped("without the image no container can be tried"),
}


def report(findings: Mapping[str, Finding]) -> Report:
    return Report("mine", "sglang", "docker", findings)


def shown(findings: Mapping[str, Finding], quiet: bool = False, width: int = 100) -> str:
    stream = io.StringIO()
    show(report(findings), Console(file=stream, width=width), quiet)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def test_a_table_with_every_fix() -> None:
    assert shown(FINDINGS) == (
        "ok       docker api     API 1.41\n"
        "failed   gpus           no [GPU] here\n"
        "                        fix: run it elsewhere\n"
        "warning  image          must be pulled\n"
        "                        fix: `docker pull x`\n"
        "skipped  container gpu  without the image no container can be tried\n"
        "Not ready: 1 failed, 1 warning, 1 skipped."
    )


def test_quiet_leaves_out_what_is_in_order() -> None:
    text = shown(FINDINGS, quiet=True)
    assert "docker api" not in text
    assert "gpus" in text
    assert shown({"a": ok("b")}, quiet=True).strip() == "Ready: 1 ok."


def test_long_texts_are_folded_not_cut() -> None:
    path = "/a/very/long/path" * 20
    assert path in shown({"disk": ok(path)}, width=60).replace("\n", "").replace(" ", "")


def test_json_for_machines() -> None:
    answer = json.loads(as_json(report(FINDINGS)))
    told = {"tuner": tuner.__version__, "study_name": "mine", "engine": "sglang", "backend": "docker", "ready": False}
    assert list(answer) == [*told, "findings"]
    assert {key: answer[key] for key in told} == told
    assert [finding["check"] for finding in answer["findings"]] == list(FINDINGS)
    assert answer["findings"][1] == {"check": "gpus", "verdict": "failed", "seen": "no [GPU] here", "fix": "run it elsewhere"}
    assert all(list(finding) == ["check", "verdict", "seen", "fix"] for finding in answer["findings"])
    assert json.loads(as_json(report({"a": ok("b"), "c": warning("d", "e"), "f": skipped("g")})))["ready"] is True
