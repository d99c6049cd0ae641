from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.doctor.conftest import GPU_ENGINE, composed
from tests.nvml import Device, Driver
from tuner.backends import auto
from tuner.doctor import examination, host_checks
from tuner.doctor.examination import examine
from tuner.errors import NotReadyError
from tuner.finding import Finding, ok
from tuner.host import Nvidia
from tuner.settings import Settings

Become = Callable[..., Driver]
ALWAYS = ["disk", "port", "limits", "storage", "leftovers", "other_runs"]


def findings(settings: Settings) -> dict[str, Finding]:
    return dict(examine(settings).findings)


@pytest.fixture
def no_daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")


@pytest.fixture
def model_here(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return f"engine.model={folder}"


class TestWhichChecks:
    def test_cpu_engine(self, gpu_host: Become) -> None:
        gpu_host()
        report = findings(composed("backend=auto"))
        assert list(report) == ["experiment", "configuration", "packages", "engine", "state_folder", "model", *ALWAYS]
        assert report["experiment"] == ok("llamacpp with micro on backend local, by backend=auto")
        assert {finding.verdict for finding in report.values()} == {"ok"}

    def test_gpu_engine_on_this_host(self, gpu_host: Become, model_here: str) -> None:
        gpu_host(Device("GPU-a"), Device("GPU-b"))
        report = findings(composed("backend=local", *GPU_ENGINE, model_here, "space.tp_size={low:1,high:2}"))
        names = ["experiment", "configuration", "packages", "engine", "state_folder", "gpus", "nesting", "model"]
        assert list(report) == [*names, *ALWAYS[:3], "shared_memory", *ALWAYS[3:]]
        assert report["experiment"].seen == f"sglang with {model_here.partition('=')[2]} on backend local"
        assert report["gpus"].verdict == report["nesting"].verdict == report["model"].verdict == "ok"

    @pytest.mark.usefixtures("no_daemon")
    def test_gpu_engine_in_a_container(self, gpu_host: Become, model_here: str) -> None:
        gpu_host(Device("GPU-a"))
        report = findings(composed("backend=docker", *GPU_ENGINE, model_here))
        names = [
            "experiment",
            "configuration",
            "packages",
            "docker",
            "docker_api",
            "environment",
            "gpus",
            "docker_gpus",
            "nesting",
            "image",
        ]
        assert list(report) == [*names, "container_gpu", "model", *ALWAYS]
        assert report["docker"].verdict == "failed"
        assert "no socket" in report["docker"].seen
        assert report["docker"].fix.startswith("install or start Docker")
        assert [report[name].verdict for name in ("docker_api", "docker_gpus", "image", "container_gpu")] == ["skipped"] * 4
        assert report["gpus"].verdict == "ok"

    @pytest.mark.usefixtures("no_daemon")
    def test_without_gpus(self, model_here: str) -> None:
        report = findings(composed("backend=docker", "backend.gpus=[]", *GPU_ENGINE, model_here))
        assert not {"gpus", "docker_gpus", "nesting", "container_gpu"} & report.keys()

    def test_a_model_of_the_hub_needs_a_token_perhaps(self, gpu_host: Become, monkeypatch: pytest.MonkeyPatch) -> None:
        gpu_host()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        report = findings(composed("backend=local", *GPU_ENGINE))
        assert report["model"].verdict == "failed"
        assert report["token"].verdict == "ok"


def test_a_parameter_that_the_engine_does_not_have() -> None:
    report = examine(composed("backend=local", "+space.n_btach=8"))
    assert report.findings["configuration"].seen.startswith("space.n_btach: llamacpp has no such parameter")
    assert not report.ready


def test_the_report_names_what_was_examined(gpu_host: Become) -> None:
    gpu_host()
    report = examine(composed("backend=auto", "study_name=mine"))
    assert (report.study_name, report.engine, report.backend, report.ready) == ("mine", "llamacpp", "local", True)


class TestAuto:
    @pytest.mark.usefixtures("no_daemon")
    def test_what_it_cannot_stand_for_is_examined_as_docker(
        self, gpu_host: Become, model_here: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gpu_host(Device("GPU-a"))
        monkeypatch.setattr(auto, "resolve", partial(auto.resolve, probe_nvidia=Nvidia.probe))
        report = findings(composed("backend=auto", *GPU_ENGINE, model_here))
        assert report["experiment"].verdict == "failed"
        assert report["experiment"].seen.startswith("backend=auto: this host has an NVIDIA device (/dev/nvidia0) but the Docker daemon at")
        assert "image" in report

    def test_no_gpu(self, gpu_host: Become) -> None:
        gpu_host()
        report = findings(composed("backend=auto", *GPU_ENGINE))
        assert report["experiment"].seen == "backend=auto: engine sglang needs an NVIDIA GPU and this host has none"
        assert report["gpus"].verdict == "failed"

    def test_the_stand_in(self, gpu_host: Become) -> None:
        gpu_host()
        finding = findings(composed("+experiment=llama1b_cpu"))["experiment"]
        assert finding.verdict == "warning"
        assert finding.seen.endswith(": the CPU stand-in for llama1b, because this host has no NVIDIA device")
        assert "`tuner doctor +experiment=llama1b backend=docker`" in finding.fix
        gpu_host(Device("GPU-a"))
        finding = findings(composed("+experiment=llama1b_cpu"))["experiment"]
        assert finding == ok("llamacpp with micro on backend local, by backend=auto: the CPU stand-in for llama1b")


class TestGuard:
    """Whatever a check does, the others are made."""

    def report(self, monkeypatch: pytest.MonkeyPatch, check: Callable[..., Finding]) -> dict[str, Finding]:
        monkeypatch.setattr(host_checks, "packages", check)
        report = findings(composed("backend=local"))
        assert list(report)[-1] == "other_runs"
        return report

    def test_it_raises(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken() -> Finding:
            raise ZeroDivisionError("in two\nlines")

        finding = self.report(monkeypatch, broken)["packages"]
        assert finding == Finding(
            "failed", "this check itself failed with ZeroDivisionError: in two lines", "please report this as a bug of tuner"
        )

    def test_it_tells_of_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def unready() -> Finding:
            raise NotReadyError("nothing works: repair it")

        assert self.report(monkeypatch, unready)["packages"] == Finding("failed", "nothing works", "repair it")

    def test_it_hangs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(examination, "LIMIT_S", 0.2)
        monkeypatch.setattr(examination, "storage", lambda url: ok(""))  # slower than that on a busy machine
        release = threading.Event()

        def hanging() -> Finding:
            release.wait()
            return ok("too late")

        finding = self.report(monkeypatch, hanging)["packages"]
        release.set()
        assert (finding.verdict, finding.seen) == ("failed", "no answer within 0.2 s")

    def test_it_tells_what_reads_like_a_secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        token = "hf_" + "aB3" * 11

        def telling() -> Finding:
            return ok(f"https://me:pa55@proxy:8080/x, ssh://me@host, Illegal header 'Bearer abc', {token}, hf_hub_download")

        seen = self.report(monkeypatch, telling)["packages"].seen
        assert seen == "https://<secret>@proxy:8080/x, ssh://me@host, Illegal header 'Bearer <secret> <secret>, hf_hub_download"

    def test_it_tells_a_secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
        monkeypatch.setenv("MY_API_KEY", "sk-alsosecret")

        def telling() -> Finding:
            return Finding("ok", "asked with hf_verysecret", "try sk-alsosecret\n")

        assert self.report(monkeypatch, telling)["packages"] == Finding("ok", "asked with <secret>", "try <secret>")
