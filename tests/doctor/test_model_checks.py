from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.doctor.conftest import GPU_ENGINE, composed
from tests.doctor.fake_hub import FakeHub
from tuner.doctor.hub_checks import hub_model, token
from tuner.doctor.model_checks import model, on_hub
from tuner.finding import Finding

MODEL = "org/model"
FILES = {"config.json": 700, "model-1.safetensors": 2 * 10**9, "model-2.safetensors": 10**9, "original.pth": 10**10}


def local(name: object, docker_host: str | None = None) -> Finding:
    return model(composed("engine=sglang", "space=sglang", f"engine.model={name}"), docker_host)


def add_weights(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")


def fill_cache(folder: Path) -> None:
    repository = folder / "hub" / "models--org--model"
    add_weights(repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")


class TestLocal:
    def test_a_directory(self, tmp_path: Path) -> None:
        add_weights(tmp_path / "model")
        assert local(tmp_path / "model") == Finding("ok", f"{tmp_path}/model, 0.0 GB")
        assert local("./model").verdict == "ok"

    def test_none(self, tmp_path: Path) -> None:
        assert local(tmp_path / "model").seen == f"engine.model={tmp_path}/model: no such directory"
        (tmp_path / "model").mkdir()
        assert local(tmp_path / "model").seen == f"engine.model={tmp_path}/model has no config.json"
        (tmp_path / "model" / "config.json").write_text("{}")
        assert local(tmp_path / "model").seen == f"{tmp_path}/model has a config.json but no weights"
        assert local(tmp_path / "model").verdict == "failed"

    def test_of_another_host(self) -> None:
        assert local("/on/that/host", "gpu-host").verdict == "skipped"

    def test_gguf(self, tmp_path: Path) -> None:
        file = tmp_path / "model.gguf"
        check = composed("engine=llamacpp", f"engine.model={file}")
        assert model(check, None).seen == f"engine.model={file}: no such file"
        file.write_bytes(b"PK\x03\x04")
        assert model(check, None).seen == f"{file} is no GGUF file"
        file.write_bytes(b"GGUF\x03")
        assert model(check, None).verdict == "ok"
        assert model(composed("engine=llamacpp", "engine.model=micro-q8_0"), None).verdict == "ok"

    def test_what_is_of_the_hub(self, tmp_path: Path) -> None:
        for name, expected in ((MODEL, True), ("gpt2", True), ("/no/such", False), ("./x", False), ("'~/x'", False)):
            assert on_hub(composed("engine=sglang", "space=sglang", f"engine.model={name}").engine) is expected
        (tmp_path / "org" / "model").mkdir(parents=True)
        assert not on_hub(composed(*GPU_ENGINE).engine)
        assert not on_hub(composed("engine=llamacpp").engine)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub(models={MODEL: dict(FILES)}) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        yield hub


class TestHubModel:
    def test_a_public_one(self, hub: FakeHub) -> None:
        assert hub_model(MODEL) == Finding("ok", f"{hub.url}/{MODEL}, 3.0 GB, to be downloaded")
        assert not any("resolve" in asked for asked in hub.asked)

    def test_in_the_cache(self, hub: FakeHub, tmp_path: Path) -> None:
        fill_cache(tmp_path)
        assert hub_model(MODEL) == Finding("ok", f"{hub.url}/{MODEL}, 3.0 GB, in the cache")

    def test_no_room_for_it(self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
        finding = hub_model(MODEL)
        assert finding.verdict == "warning"
        assert "HF_HUB_CACHE" in finding.fix
        there = composed("backend=docker", *GPU_ENGINE, "backend.model_cache=/cache/of/the/docker/host")
        assert model(there, None) == Finding("ok", f"{hub.url}/{MODEL}, 3.0 GB")

    def test_of_a_revision(self, hub: FakeHub) -> None:
        assert model(composed(*GPU_ENGINE, "+engine.args.revision=main"), None).verdict == "ok"
        finding = model(composed(*GPU_ENGINE, "+engine.args.revision=v9"), None)
        assert (finding.verdict, finding.fix) == ("failed", "check engine.args.revision")
        assert finding.seen == f"{hub.url}/{MODEL} has no revision v9"

    def test_gated(self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        hub.gated = frozenset({MODEL})
        finding = hub_model(MODEL)
        assert finding.verdict == "failed"
        assert finding.seen == f"{MODEL} is gated, and no token is set; {MODEL} is not in the cache"
        assert f"{hub.url}/{MODEL}" in finding.fix
        monkeypatch.setenv("HF_TOKEN", hub.token)
        assert hub_model(MODEL).verdict == "ok"

    def test_missing(self, hub: FakeHub) -> None:
        finding = hub_model("org/modle")
        assert (finding.verdict, finding.seen) == ("failed", f"{hub.url} has no org/modle, or it is private; org/modle is not in the cache")
        finding = hub_model("no/such/id")
        assert (finding.verdict, finding.seen) == ("failed", "engine.model=no/such/id is neither a directory nor a hub id")

    def test_not_for_transformers(self, hub: FakeHub) -> None:
        del hub.models[MODEL]["config.json"]
        assert hub_model(MODEL).seen == f"{MODEL} has no config.json"

    def test_a_token_that_is_refused(self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_expired")
        assert hub_model(MODEL) == Finding(
            "failed", f"{hub.url} refuses the token; {MODEL} is not in the cache", "see the check of the token"
        )

    def test_a_hub_that_fails(self, hub: FakeHub, tmp_path: Path) -> None:
        hub.failing = True
        finding = hub_model(MODEL)
        assert finding.verdict == "failed"
        assert f"{hub.url} cannot be asked (" in finding.seen
        assert "503" in finding.seen
        fill_cache(tmp_path)
        finding = hub_model(MODEL)
        assert finding.verdict == "warning"
        assert finding.seen.endswith(f"; {MODEL} is in the cache")

    @pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
    def test_what_is_in_the_cache_suffices(self, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
        fill_cache(tmp_path)
        for snapshot in tmp_path.glob("hub/*/snapshots/*"):
            (snapshot / "model.safetensors").rename(snapshot / file)
        hub.gated = frozenset({MODEL})
        for change in (lambda: None, hub.models.clear, lambda: monkeypatch.setenv("HF_TOKEN", "hf_expired")):
            change()
            finding = hub_model(MODEL)
            assert finding.verdict == "warning"
            assert finding.seen.endswith(f"; {MODEL} is in the cache")
        assert token(MODEL).verdict == "warning"

    def test_no_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
        assert hub_model(MODEL).seen.endswith(f"; {MODEL} is not in the cache")
        fill_cache(tmp_path)
        assert hub_model(MODEL).verdict == "warning"

    def test_offline_by_choice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        finding = hub_model(MODEL)
        assert finding.verdict == "failed"
        assert "HF_HUB_OFFLINE" in finding.fix


class TestToken:
    def test_none(self, hub: FakeHub) -> None:
        assert token(MODEL) == Finding("ok", f"none is set; only if {MODEL} is gated or private one is needed")
        assert hub.asked == []

    def test_a_good_one(self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "token").write_text(hub.token)
        assert token(MODEL) == Finding("ok", f"{hub.url} accepts the stored token")
        monkeypatch.setenv("HF_TOKEN", hub.token)
        assert token(MODEL) == Finding("ok", f"{hub.url} accepts the token in HF_TOKEN")

    def test_an_expired_one(self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_expired")
        finding = token(MODEL)
        assert (finding.verdict, finding.seen) == ("failed", f"{hub.url} refuses the token in HF_TOKEN, even for public models")
        assert "hf_expired" not in str(finding)

    def test_a_hub_that_cannot_be_asked(self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_whatever")
        hub.failing = True
        assert token(MODEL).verdict == "skipped"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
        assert token(MODEL).verdict == "skipped"
