"""The real package where it is installed, which needs no network and no GPU."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from tests.feasibility.model_folders import config, downloaded, gpus, model_folder
from tests.prior.cases import CHAT, H100, roofline, spec, work
from tuner.feasibility.rules import RULES
from tuner.prior import aiconfigurator
from tuner.prior.aiconfigurator import Aiconfigurator
from tuner.prior.create import create
from tuner.prior.roofline import Roofline
from tuner.settings import Workload

pytest.importorskip("aiconfigurator_core")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def made(folder: Path, engine: str = "sglang", product: str = H100, model: str = "Llama-3.1-8B") -> Aiconfigurator | None:
    return aiconfigurator.create(RULES[engine], {}, work(folder, model), spec(product), 79.1, CHAT, engine, downloaded(folder, model))


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_agrees_with_the_roofline_about_one_model(engine: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tuner")
    prior, other = made(tmp_path, engine), roofline(tmp_path, engine)
    assert prior is not None
    for configuration in ({}, {RULES[engine].tp: 4}, {"max_running_requests": 16, "max_num_seqs": 16}):
        for level in (1, 16, 256):
            this, that = prior.predict(configuration, level), other.predict(configuration, level)
            assert this is not None
            assert that is not None
            assert this["output_tokens_per_s"] == pytest.approx(that["output_tokens_per_s"], rel=0.3)
    assert caplog.messages == []


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_a_narrow_kv_cache_is_known(engine: str, tmp_path: Path) -> None:
    prior = made(tmp_path, engine)
    assert prior is not None
    wide, narrow = (prior.predict({"kv_cache_dtype": kind}, 256) for kind in ("auto", "fp8_e4m3"))
    assert wide is not None
    assert narrow is not None
    assert narrow["output_tokens_per_s"] > wide["output_tokens_per_s"]


def test_comes_before_the_roofline(tmp_path: Path) -> None:
    workload = Workload(scenario="D(1024,256)", levels=(1,))
    assert isinstance(create("vllm", {}, downloaded(tmp_path, "Llama-3.1-8B"), gpus(2), workload), Aiconfigurator)
    fixed = {"quantization": "unheard_of"}
    assert isinstance(create("vllm", fixed, downloaded(tmp_path, "Llama-3.1-8B"), gpus(2), workload), Roofline)


def test_experts(tmp_path: Path) -> None:
    prior = made(tmp_path, model="Qwen3-30B-A3B")
    assert prior is not None
    one, two = (prior.predict({"tp_size": tp}, 16) for tp in (1, 2))
    assert one is not None
    assert two is not None
    assert two["tpot_mean_s"] < one["tpot_mean_s"]


def test_what_it_does_not_know_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tuner")
    assert made(tmp_path, product="NVIDIA L4") is None
    assert caplog.messages == ["aiconfigurator has no measurements of L4"]
    caplog.clear()
    prior = made(tmp_path)
    assert prior is not None
    assert prior.predict({"quantization": "unheard_of"}, 1) is None
    assert prior.predict({"quantization": "unheard_of"}, 64) is None
    assert len(caplog.messages) == 1


def test_an_architecture_it_does_not_know(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tuner")
    folder = model_folder(tmp_path / "strange", config("Llama-3.1-8B") | {"architectures": ["StrangeForCausalLM"]})
    assert aiconfigurator.create(RULES["vllm"], {}, work(tmp_path), spec(), 79.1, CHAT, "vllm", folder) is None
    assert len(caplog.messages) == 1
