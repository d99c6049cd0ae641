from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tuner import parties
from tuner.backends.docker import Docker
from tuner.backends.local import Local
from tuner.composition import compose
from tuner.engines.llamacpp import LlamaCpp
from tuner.engines.sglang import Sglang
from tuner.engines.vllm import Vllm
from tuner.errors import ConfigError, NotReadyError
from tuner.gpus import Gpu
from tuner.hydra_app import plain
from tuner.settings import Settings, load
from tuner.storage import open_storage
from tuner.study import Ledger

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def composed(*overrides: str) -> Settings:
    return load(plain(compose(list(overrides))))


class TestEngine:
    def test_a_parameter_that_the_engine_does_not_have(self) -> None:
        config = composed("engine=llamacpp", "engine.model=nano", "+space.n_paralel=4")
        with pytest.raises(
            ConfigError, match=r"^space\.n_paralel: llamacpp has no such parameter \(did you mean n_parallel\?\); known: .*n_batch"
        ):
            parties.check_parameters(config, parties.create_engine(config))

    def test_a_flag_of_another_version(self) -> None:
        overrides = ("engine=sglang", "space=sglang", "engine.model=org/m", "+space.any_flag=1")
        with pytest.raises(
            ConfigError, match=r"^space\.any_flag: sglang has no such parameter.*; for another version .*engine\.version="
        ) as caught:
            parties.check_parameters(composed(*overrides), parties.create_engine(composed(*overrides)))
        assert len(str(caught.value)) < 200
        config = composed(*overrides, "engine.version=0.6.0")
        parties.check_parameters(config, parties.create_engine(config))  # its own command line is the judge

    @pytest.mark.parametrize(
        ("overrides", "kind", "word"),
        [
            (["engine=llamacpp", "space=llamacpp", "engine.model=nano"], LlamaCpp, ""),
            (["engine=sglang", "space=sglang", "engine.model=org/m", "+engine.args.context_length=8192"], Sglang, "--context-length"),
            (["engine=vllm", "space=vllm", "engine.model=org/m", "+engine.args.max_model_len=8192"], Vllm, "--max-model-len"),
        ],
    )
    def test_engines(self, overrides: list[str], kind: type[Any], word: str) -> None:
        config = composed("backend=local", *overrides)
        engine = parties.create_engine(config)
        assert type(engine) is kind
        if word:
            spec = engine.launch({}, "token")
            assert spec.argv[: len(config.engine.executable)] == config.engine.executable
            assert word in spec.argv
            assert (spec.image, spec.ready_timeout_s) == (None, 1200)

    @pytest.mark.parametrize("name", ["llamacpp", "sglang", "vllm"])
    def test_shipped_spaces_know_the_default_of_every_parameter(self, tmp_path: Path, name: str) -> None:
        model = [] if name == "llamacpp" else ["engine.model=org/m"]
        config = composed("backend=local", f"engine={name}", f"space={name}", f"storage.url=sqlite:///{tmp_path}/x.db", *model)
        asked = Ledger(config, open_storage(config.storage.url), parties.create_engine(config).defaults).ask()
        assert asked is not None
        assert asked.default
        assert len(asked.trial.params) == len(config.space.searched)

    def test_a_typing_error_comes_before_what_the_host_lacks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parties.host, "nvidia_device", lambda: None)
        overrides = ("engine=sglang", "space=sglang", "engine.model=org/m", "+engine.args.tp_sice=2", "backend=auto")
        with pytest.raises(ConfigError, match=r"^engine\.args\.tp_sice: .*did you mean tp_size"):
            parties.decide(composed(*overrides))


class TestBackend:
    def test_auto_is_local_for_the_cpu_engine(self) -> None:
        decided = parties.with_backend(composed("backend=auto"))
        assert decided.backend.name == "local"
        assert decided.identity["backend"] == {"name": "local"}
        assert decided.fingerprint == composed("backend=local").fingerprint

    def test_auto_asks_the_host_for_a_gpu_engine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parties.auto, "resolve", lambda engine: {"sglang": "docker"}[engine])
        config = composed("backend=auto", "engine=sglang", "space=sglang", "engine.model=org/m")
        assert parties.with_backend(config).backend.name == "docker"

    def test_a_named_backend_stays(self) -> None:
        config = composed("backend=docker")
        assert parties.with_backend(config) is config

    def test_local(self) -> None:
        assert isinstance(parties.create_backend(composed("backend=local"), (), print), Local)

    def test_docker(self) -> None:
        assert isinstance(parties.create_backend(composed("backend=docker", "engine.image=x"), (), print), Docker)

    def test_auto_keeps_the_chosen_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parties.auto, "resolve", lambda engine: "docker")
        config = composed("backend=auto", "backend.gpus=[1]", "engine=sglang", "space=sglang", "engine.model=org/m")
        assert parties.with_backend(config).backend.gpus == (1,)

    def test_a_container_needs_an_image(self) -> None:
        with pytest.raises(ConfigError, match=r"^engine\.image: missing; backend=docker needs an image that holds llamacpp$"):
            parties.create_engine(composed("backend=docker"))

    def test_another_docker_host_must_have_the_model(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parties.docker_connection, "elsewhere", lambda: True)
        remote = ("backend=docker", "engine=vllm", "space=vllm", "engine.model=org/m")
        with pytest.raises(ConfigError, match=r"^backend\.model_cache: missing; the Docker daemon runs on another host"):
            parties.create_engine(composed(*remote))
        parties.create_engine(composed(*remote, "backend.model_cache=/data/hub"))

    @pytest.mark.parametrize("engine", ["sglang", "vllm"])
    def test_the_image_is_for_containers_only(self, engine: str) -> None:
        config = composed("backend=docker", f"engine={engine}", f"space={engine}", "engine.model=org/m")
        assert parties.create_engine(config).launch({}, "token").image == config.engine.image


GPUS = tuple(Gpu(i, f"GPU-{i}", "NVIDIA H100", 80 * 2**30, 79 * 2**30, (9, 0)) for i in range(2))
SGLANG = ("engine=sglang", "space=sglang", "engine.model=org/m")


class TestFindGpus:
    @pytest.fixture(autouse=True)
    def two_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parties.host, "nvidia_device", lambda: "/dev/nvidia0")
        monkeypatch.setattr(parties, "discover", lambda: GPUS)
        monkeypatch.setattr(parties.docker_connection, "elsewhere", lambda: False)

    @pytest.mark.parametrize("backend", ["local", "docker"])
    def test_all_that_the_host_has(self, backend: str) -> None:
        assert parties.find_gpus(composed(f"backend={backend}", *SGLANG)) == GPUS

    def test_those_that_are_named(self) -> None:
        assert parties.find_gpus(composed("backend=docker", "backend.gpus=[1]", *SGLANG)) == GPUS[1:]

    def test_none_for_the_cpu_engine_and_where_none_is_wanted(self) -> None:
        assert parties.find_gpus(composed("backend=local")) == ()
        assert parties.find_gpus(composed("backend=local", "backend.gpus=[]", *SGLANG)) == ()

    def test_those_of_another_host_are_unknown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parties.docker_connection, "elsewhere", lambda: True)
        assert parties.find_gpus(composed("backend=docker", *SGLANG)) is None
        assert parties.find_gpus(composed("backend=local", *SGLANG)) == GPUS

    @pytest.mark.parametrize("backend", ["local", "docker"])
    def test_a_host_without_one_is_told_what_to_do(self, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
        monkeypatch.setattr(parties.host, "nvidia_device", lambda: None)
        with pytest.raises(NotReadyError, match=rf"^backend={backend}: engine sglang needs an NVIDIA GPU and this host has none\. Run"):
            parties.find_gpus(composed(f"backend={backend}", *SGLANG))
