from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tuner.doctor.nesting import nesting, of_daemon, of_tuner

PLAIN = {"Name": "gpu-host", "OperatingSystem": "Ubuntu 24.04.1 LTS", "Labels": []}


def tuner_in(root: Path, **environ: str) -> list[str]:
    return [shell.what for shell in of_tuner(environ, root)]


def daemon_in(info: Mapping[str, Any], **environ: str) -> list[str]:
    return [shell.what for shell in of_daemon(PLAIN | info, environ)]


def add(root: Path, path: str, text: str = "") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


class TestTuner:
    def test_on_the_host(self, tmp_path: Path) -> None:
        add(tmp_path, "sys/class/dmi/id/product_name", "PowerEdge XE9680\n")
        assert tuner_in(tmp_path) == []

    def test_in_a_container_of_docker_or_podman(self, tmp_path: Path) -> None:
        add(tmp_path, "run/.containerenv")
        assert tuner_in(tmp_path) == ["tuner runs in a container (there is /run/.containerenv)"]
        add(tmp_path, ".dockerenv")
        assert tuner_in(tmp_path) == ["tuner runs in a container (there is /.dockerenv)"]

    def test_in_a_pod(self, tmp_path: Path) -> None:
        assert tuner_in(tmp_path, KUBERNETES_SERVICE_HOST="10.96.0.1") == ["tuner runs in a pod of Kubernetes"]

    @pytest.mark.parametrize("environ", [{}, {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}])
    def test_in_a_node_or_pod_of_kind(self, tmp_path: Path, environ: dict[str, str]) -> None:
        add(tmp_path, "sys/class/dmi/id/product_name", "kind\n")
        add(tmp_path, ".dockerenv")
        (shell,) = of_tuner(environ, tmp_path)
        assert "Kubernetes in Docker" in shell.what
        assert "nvkind" in shell.fix


class TestDaemon:
    def test_on_its_host(self) -> None:
        assert daemon_in({}) == []
        assert daemon_in({"Labels": None}) == []
        assert list(of_daemon({}, {})) == []

    def test_of_minikube(self) -> None:
        (told,) = of_daemon(PLAIN, {"MINIKUBE_ACTIVE_DOCKERD": "minikube"})
        (labelled,) = of_daemon(PLAIN | {"Name": "minikube", "Labels": ["provider=docker"]}, {})
        (virtual,) = of_daemon(PLAIN | {"Name": "minikube", "OperatingSystem": "Buildroot 2025.02"}, {})
        assert told == labelled == virtual
        assert list(of_daemon(PLAIN | {"Labels": ["provider=generic"]}, {})) == [], "docker-machine's"
        assert told.what == "the Docker daemon is that of Minikube's node minikube"
        assert told.fix.startswith("`eval $(minikube docker-env -u)` ")
        for way in ("minikube start --driver=none", "--driver=docker --container-runtime=docker --gpus=all"):
            assert way in told.fix

    def test_in_docker(self) -> None:
        assert daemon_in({"OperatingSystem": "Alpine Linux v3.22 (containerized)"}) == [
            "the Docker daemon runs in a container itself (Docker in Docker)"
        ]

    def test_docker_desktop(self) -> None:
        assert daemon_in({"OperatingSystem": "Docker Desktop"}) == ["the Docker daemon runs in the virtual machine of Docker Desktop"]


class TestVerdict:
    IN_A_POD = tuple(of_tuner({"KUBERNETES_SERVICE_HOST": "x"}, Path("/nowhere")))
    OF_MINIKUBE = tuple(of_daemon(PLAIN, {"MINIKUBE_ACTIVE_DOCKERD": "dev"}))

    def test_nothing_between(self) -> None:
        assert nesting([], [], gpu_seen=False, daemon_outside=True).verdict == "ok"

    def test_a_gpu_that_is_kept_away(self) -> None:
        finding = nesting([*self.IN_A_POD], [*self.OF_MINIKUBE], gpu_seen=False, daemon_outside=False)
        assert finding.verdict == "failed"
        assert (
            finding.seen == "tuner runs in a pod of Kubernetes, the Docker daemon is that of Minikube's node dev, and no GPU is passed on"
        )
        assert "nvidia.com/gpu" in finding.fix
        assert "minikube docker-env -u" in finding.fix

    def test_a_gpu_that_is_passed_on(self) -> None:
        assert nesting([], [*self.OF_MINIKUBE], gpu_seen=True, daemon_outside=True).verdict == "ok"
        assert nesting([*self.IN_A_POD], [], gpu_seen=True, daemon_outside=False).verdict == "ok"

    def test_a_daemon_outside_of_the_container(self) -> None:
        finding = nesting([*self.IN_A_POD], [], gpu_seen=True, daemon_outside=True)
        assert finding.verdict == "warning"
        assert "--network=host" in finding.fix
