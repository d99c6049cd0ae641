from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.doctor.conftest import GPU_ENGINE, composed
from tuner.backend_settings import DockerBackendSettings
from tuner.backends.local import Local
from tuner.backends.pid_file import default_folder
from tuner.doctor import host_checks
from tuner.doctor.host_checks import disk, engine, environment, limits, packages, port, shared_memory, state_folder
from tuner.errors import NotReadyError, Systemic
from tuner.finding import Finding


class TestPackages:
    def test_of_this_environment(self) -> None:
        finding = packages()
        assert (finding.verdict, finding.fix) == ("ok", "")
        assert f"genai-bench {metadata.version('genai-bench')}" in finding.seen

    def test_another_python(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(metadata, "requires", lambda name: None)
        monkeypatch.setattr(metadata, "metadata", lambda name: {"Requires-Python": ">=3.11,<3.13"})
        assert packages().verdict == "ok"
        monkeypatch.setattr(platform, "python_version", lambda: "3.13.1")
        assert packages().seen == "Python 3.13.1: tuner is for Python >=3.11,<3.13"

    def test_missing_or_of_another_version(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lines = ["genai-bench==99", "no-such-package>=1", 'not-here; extra == "dev"', "optuna>=5.0,<6"]
        monkeypatch.setattr(metadata, "requires", lambda name: lines)
        finding = packages()
        assert finding.verdict == "failed"
        assert "genai-bench 0.0.5 instead of ==99, no-such-package is missing" in finding.seen
        assert "not-here" not in finding.seen


class TestEngine:
    def test_the_packages_of_llamacpp(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for backend in ("local", "docker"):
            finding = engine(composed(f"backend={backend}", "engine.executable=null"))
            assert (finding.verdict, finding.seen) == ("ok", f"xllamacpp {metadata.version('xllamacpp')}")
        monkeypatch.setattr(host_checks, "find_spec", lambda name: None if name == "gguf" else name)
        finding = engine(composed())
        assert (finding.verdict, finding.seen) == ("failed", "Python packages are missing: gguf")

    def test_a_program(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        serve = composed("backend=local", "engine=vllm", "space=vllm", "engine.model=a/b")
        finding = engine(serve)
        assert (finding.verdict, finding.seen) == ("failed", "there is no program 'vllm' on the PATH")
        program = tmp_path / "bin" / "vllm"
        program.parent.mkdir()
        program.write_text("")
        program.chmod(0o755)
        assert engine(serve).seen == str(program)

    @pytest.mark.parametrize(("module", "verdict"), [("json.tool", "ok"), ("no_such_module.serve", "failed")])
    def test_a_module(self, module: str, verdict: str) -> None:
        finding = engine(composed("backend=local", *GPU_ENGINE, f"engine.executable=[{sys.executable},-m,{module}]"))
        assert finding.verdict == verdict
        assert sys.executable in finding.seen


class TestDisk:
    def test_of_this_machine(self, tmp_path: Path) -> None:
        finding = disk(composed(f"folder={tmp_path}/not/yet/there"), None, False)
        assert finding.verdict == "ok"
        assert finding.seen.endswith(f" GB free for results in {tmp_path}/not/yet/there")
        assert not (tmp_path / "not").exists()

    def test_a_folder_of_somebody_else(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write anywhere
        finding = disk(composed(f"folder={tmp_path}/studies"), None, False)
        assert finding == Finding("failed", f"{tmp_path} cannot be written by this user", "set folder to one that you may write to")

    def test_too_little(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        free = {"docker": 6e9}
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free.get(path.name, 0.5e9)))
        (tmp_path / "docker").mkdir()
        finding = disk(composed(), str(tmp_path / "docker"), must_pull=True)
        assert finding.verdict == "warning"
        assert finding.fix == "make room, at least 1 GB for results and at least 40 GB for the image"
        assert disk(composed(), str(tmp_path / "docker"), must_pull=False).fix == "make room, at least 1 GB for results"


class TestEnvironment:
    def test_of_containers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert examined("backend=docker").verdict == "ok"
        needs = ("backend=docker", "+backend.environment={MY_KEY:null,NCCL_DEBUG:INFO}")
        monkeypatch.delenv("MY_KEY", raising=False)
        with pytest.raises(Systemic, match=r"export MY_KEY$"):
            examined(*needs)
        monkeypatch.setenv("MY_KEY", "never-shown")
        assert examined(*needs) == Finding("ok", "MY_KEY will be taken from this environment")


def examined(*overrides: str) -> Finding:
    backend = composed(*overrides).backend
    assert isinstance(backend, DockerBackendSettings)
    return environment(backend)


class TestStateFolder:
    def test_as_the_backend_sees_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = default_folder()
        assert state_folder() == Finding("ok", f"{folder} is for pid files")
        assert not folder.exists()
        folder.mkdir(parents=True)
        folder.chmod(0o777)
        assert state_folder() == Finding(
            "failed", f"{folder}, for pid files, is not for you alone", f"chmod 700 {folder}, or set XDG_STATE_HOME"
        )
        with pytest.raises(NotReadyError):
            Local().check()
        monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
        assert state_folder().fix == "set XDG_STATE_HOME"


class TestPort:
    def test_of_loopback(self) -> None:
        for backend in ("local", "docker"):
            finding = port(composed(f"backend={backend}"), None)
            assert finding.verdict == "ok"
            assert finding.seen.startswith("127.0.0.1:")

    def test_of_an_address_that_is_not_here(self) -> None:
        finding = port(composed("backend=docker", "backend.bind=192.0.2.1"), None)
        assert finding.verdict == "failed"
        assert finding.fix == "backend.bind must be an address of this host"

    def test_none_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(host: str) -> None:
            raise OSError(98, "Address already in use")

        monkeypatch.setattr(host_checks, "reserve_port", refuse)
        finding = port(composed("backend=local"), None)
        assert (finding.verdict, finding.seen) == ("failed", "no port of 127.0.0.1 can be had (Address already in use)")

    def test_of_a_daemon_elsewhere_which_nobody_could_reach(self) -> None:
        finding = port(composed("backend=docker"), "gpu-host")
        assert finding.verdict == "failed"
        assert "gpu-host" in finding.seen
        assert finding.fix.startswith("set backend.bind to an address of gpu-host")

    def test_where_nothing_can_be_bound_from_here(self) -> None:
        assert port(composed("backend=docker", "backend.bind=10.0.0.7"), "gpu-host").verdict == "skipped"
        assert port(composed("backend=docker", "backend.bind='::1'"), None).verdict == "skipped"


class TestLimits:
    @pytest.mark.parametrize(
        ("soft", "hard", "verdict"), [(4096, 4096, "ok"), (300, 4096, "warning"), (300, 300, "warning"), (-1, -1, "ok")]
    )
    def test_open_files(self, monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, verdict: str) -> None:
        monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
        finding = limits(composed("workload.levels=[1,64]"))
        assert finding.verdict == verdict
        if verdict == "warning":
            assert finding.seen == "a process may open 300 files, 64 users need 320"
            assert finding.fix.startswith("`ulimit -n 320`")
            assert ("hard limit" in finding.fix) == (hard < 320)

    @pytest.mark.parametrize(("size", "verdict"), [("32g", "ok"), ("64M", "warning"), ("1073741824", "ok"), ("512", "warning")])
    def test_shared_memory_of_a_container(self, size: str, verdict: str) -> None:
        finding = shared_memory(composed("backend=docker", f"backend.shm_size='{size}'"))
        assert finding.verdict == verdict
        if verdict == "warning":
            assert finding.fix == f"raise backend.shm_size={size}"

    def test_shared_memory_of_this_host(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(host_checks.os, "statvfs", lambda path: SimpleNamespace(f_frsize=4096, f_blocks=1024))
        for overrides in (("backend=local",), ("backend=docker", "backend.ipc=host")):
            finding = shared_memory(composed(*overrides))
            assert finding.verdict == "warning"
            assert finding.seen.startswith("/dev/shm of this host has 0.0 GiB")
