from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.backends.docker_deploying import backend_in
from tests.backends.registry import Registry
from tuner.backends import docker_image
from tuner.backends.docker import Docker
from tuner.backends.docker_image import PullProgress
from tuner.errors import NotReadyError


class TestProgress:
    def test_adds_up_the_layers(self) -> None:
        progress = PullProgress("org/image:1")
        assert progress.line == "pulling org/image:1: 0 of 0 MB"
        for layer in "abc":
            progress.take({"status": "Pulling fs layer", "id": layer, "progressDetail": {}})
        progress.take({"status": "Downloading", "id": "a", "progressDetail": {"current": 5_000_000, "total": 20_000_000}})
        assert progress.line == "pulling org/image:1: 5 of more than 20 MB"
        progress.take({"status": "Downloading", "id": "b", "progressDetail": {"current": 3_100_000_000, "total": 9_780_000_000}})
        progress.take({"status": "Download complete", "id": "a"})
        progress.take({"status": "Already exists", "id": "c"})
        assert progress.line == "pulling org/image:1: 3.1 of 9.8 GB"

    def test_tells_when_it_only_unpacks(self) -> None:
        progress = PullProgress("org/image:1")
        progress.take({"status": "Downloading", "id": "a", "progressDetail": {"current": 10_000_000, "total": 20_000_000}})
        progress.take({"status": "Extracting", "id": "b", "progressDetail": {"current": 1, "total": 2}})
        assert progress.line == "pulling org/image:1: 10 of 20 MB"
        progress.take({"status": "Verifying Checksum", "id": "a", "progressDetail": {}})
        assert progress.line == "pulling org/image:1: 20 of 20 MB, unpacking"

    def test_other_messages_do_not_matter(self) -> None:
        progress = PullProgress("org/image:1")
        progress.take({"status": "Status: Image is up to date"})
        progress.take({"stream": "whatever"})
        assert progress.line == "pulling org/image:1: 0 of 0 MB"


@pytest.fixture
def registry(daemon: docker.DockerClient) -> Iterator[Registry]:
    with Registry() as running:
        yield running
        for image in daemon.images.list(f"{running.address}/image"):
            daemon.images.remove(image.id, force=True)


def backend_for(folder: Path, image: str, lines: list[str], /, **changes: object) -> Docker:
    backend = backend_in(folder, image, **changes)
    backend._on_progress = lines.append
    return backend


@pytest.mark.slow
class TestPull:
    def test_of_a_missing_image_happens_once(
        self, registry: Registry, daemon: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(docker_image, "PROGRESS_EACH_S", 0.0)
        image, lines = f"{registry.address}/image:tag", list[str]()
        backend = backend_for(tmp_path, image, lines, pull="missing")
        backend.check()
        assert lines[0] == f"pulling {image}"
        assert any(line.startswith(f"pulling {image}: 0 of 0 MB") for line in lines[1:])
        assert backend.describe()["image_digest"].startswith(f"{registry.address}/image@sha256:")
        lines.clear()
        backend.check()
        assert lines == []
        backend_for(tmp_path, image, lines, pull="always").check()
        assert lines[0] == f"pulling {image}"

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("missing:1", ["the registry has no", "check the tag in engine.image"]),
            ("private:1", ["docker login"]),
            ("denied:1", ["docker login"]),
            ("limited:1", ["pull rate limit", "docker login"]),
            ("UPPER:1", ["invalid reference format", "check engine.image"]),
        ],
    )
    def test_that_the_registry_refuses(self, registry: Registry, tmp_path: Path, name: str, words: list[str]) -> None:
        message = refusal(backend_in(tmp_path, f"{registry.address}/{name}", pull="missing"))
        for word in words:
            assert word in message

    def test_from_a_registry_that_is_down(self, tmp_path: Path) -> None:
        message = refusal(backend_in(tmp_path, "127.0.0.1:1/x:y", pull="missing"))
        assert message == (
            "the registry of 127.0.0.1:1/x:y does not answer: check the network of the Docker host and its proxy settings; "
            "`docker pull 127.0.0.1:1/x:y` must work there"
        )

    def test_never(self, daemon: docker.DockerClient, tmp_path: Path) -> None:
        message = refusal(backend_in(tmp_path, "no-such-image:1", pull="never"))
        assert message == (
            "the image no-such-image:1 is not on the Docker host, and backend.pull=never: `docker pull no-such-image:1`, "
            "or set backend.pull=missing"
        )

    def test_from_a_silent_registry_ends_at_the_deadline(self, daemon: docker.DockerClient, tmp_path: Path) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            image = f"127.0.0.1:{silent.getsockname()[1]}/x:y"
            message = refusal(backend_in(tmp_path, image, pull="missing", pull_timeout_s=0.5))
        assert message == f"pulling {image} took longer than backend.pull_timeout_s=0.5: raise it, or `docker pull {image}` beforehand"


def refusal(backend: Docker) -> str:
    with pytest.raises(NotReadyError) as caught:
        backend.check()
    assert "\n" not in str(caught.value)
    return str(caught.value)
