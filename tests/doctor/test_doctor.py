"""`python -m tuner doctor` as users run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.doctor.fake_hub import FakeHub
from tests.user import Run
from tuner import doctor, host
from tuner.doctor.report import Report
from tuner.finding import Finding, failed, ok, warning

pytestmark = pytest.mark.slow


class TestExitCode:
    @pytest.mark.parametrize(("finding", "code"), [(warning("y", "z"), 0), (failed("y", "z"), 3)])
    def test_it_is_3_where_a_run_would_fail(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], finding: Finding, code: int
    ) -> None:
        monkeypatch.setattr(doctor, "examine", lambda settings: Report("mine", "vllm", "local", {"a": ok("x"), "b": finding}))
        settings: Any = None
        assert doctor.run(settings, as_json=False, verbosity=0) == code
        assert doctor.run(settings, as_json=True, verbosity=0) == code
        text, _, answer = capsys.readouterr().out.partition("{")
        assert "Ready: " in text if code == 0 else "Not ready: " in text
        assert json.loads("{" + answer)["ready"] == (code == 0)


def answer(run: Run, *arguments: str) -> tuple[int, dict[str, Any]]:
    process = run.start("doctor", "--json", *arguments, quick=False)
    output, _ = process.communicate(timeout=120)
    return process.returncode, json.loads(output)


def by_check(told: dict[str, Any]) -> dict[str, str]:
    return {finding["check"]: finding["verdict"] for finding in told["findings"]}


def test_a_host_for_the_cpu_is_ready_and_left_as_it_was(run: Run, tmp_path: Path) -> None:
    code, output = run.finish("doctor", "backend=local")
    assert code == 0, output
    assert "Ready: " in output
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.skipif(host.nvidia_device() is not None, reason="this host has an NVIDIA device")
def test_a_host_without_a_gpu_is_told_all_that_it_lacks(run: Run, daemon: docker.DockerClient, tmp_path: Path) -> None:
    secret = "hf_never-shown-anywhere"
    with FakeHub(models={"meta-llama/Llama-3.2-1B-Instruct": {"config.json": 1, "model.safetensors": 10**9}}) as hub:
        run.environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": secret, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
        code, told = answer(run, "+experiment=llama1b", "backend=docker", "engine.image=no/such:image")
        assert code == 3
        verdicts = by_check(told)
        assert verdicts["docker"] == verdicts["docker_api"] == verdicts["storage"] == verdicts["port"] == "ok"
        assert verdicts["gpus"] == verdicts["model"] == verdicts["token"] == "failed"
        assert (verdicts["image"], verdicts["container_gpu"]) == ("warning", "skipped")
        assert all(check["fix"] for check in told["findings"] if check["verdict"] in ("warning", "failed"))
        assert secret not in json.dumps(told)

        run.environment["HF_TOKEN"] = hub.token
        code, told = answer(run, "+experiment=llama1b", "backend=docker", "engine.image=no/such:image")
        assert (by_check(told)["model"], by_check(told)["token"]) == ("ok", "ok")
        assert hub.token not in json.dumps(told)
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_wrong_configuration_is_told_as_such(run: Run) -> None:
    process = run.start("doctor", "backend=dokcer", quick=False)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "dokcer" in output
