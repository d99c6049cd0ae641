from __future__ import annotations

import re
from pathlib import Path

import pytest

from tuner.engines.sglang import Sglang
from tuner.engines.vllm import Vllm
from tuner.errors import ConfigError, Infeasible, Systemic
from tuner.launch import Configuration, Value

MODEL = "org/tiny"


def flags(engine: Sglang | Vllm, configuration: Configuration) -> str:
    """What follows the address and what tuner always gives."""
    argv = engine.launch(configuration, "t").argv
    return " ".join(word for word in argv[argv.index("{port}") + 1 :] if word != "--enable-metrics")


class TestArguments:
    @pytest.mark.parametrize(
        ("args", "said"),
        [
            (
                {"mem_fraction_statik": 0.8},
                r"^engine\.args\.mem_fraction_statik: SGLang 0\.5\.23 has no flag --mem-fraction-statik \(did you mean "
                r"mem_fraction_static\?\); for another version name it: engine\.version=\.\.\.$",
            ),
            ({"tp_size": "two"}, r"^engine\.args\.tp_size='two': must be of type int"),
            ({"schedule_policy": "fifo"}, r"^engine\.args\.schedule_policy='fifo': use one of lpm, "),
            ({"enable_mixed_chunk": 1}, r"^engine\.args\.enable_mixed_chunk=1: a switch, true or false"),
            ({"tp_size": 2, "tensor_parallel_size": 4}, r"^engine\.args\.tensor_parallel_size: the same as tp_size"),
            ({"cuda_graph_max_bs": 2, "cuda_graph_max_bs_decode": 4}, r"^engine\.args\.cuda_graph_max_bs_decode: the same as"),
            ({"model": "x"}, r"^engine\.args\.model: set by tuner itself"),
        ],
    )
    def test_wrong(self, args: dict[str, Value], said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            Sglang(MODEL, args)

    @pytest.mark.parametrize(
        "configuration", [{"mem_fraction_statik": 0.8}, {"tp_size": "two"}, {"schedule_policy": "two\nlines"}, {"hf_token": "x"}]
    )
    def test_wrong_in_a_trial(self, configuration: Configuration) -> None:
        with pytest.raises(Infeasible) as caught:
            Sglang(MODEL).launch(configuration, "t")
        assert "\n" not in caught.value.reason

    def test_a_hub_token_belongs_into_the_environment(self) -> None:
        with pytest.raises(ConfigError, match=r"^engine\.args\.hf_token: .* set HF_TOKEN in your environment$") as caught:
            Vllm(MODEL, {"hf_token": "hf_secretOfTests"})
        assert "secretOfTests" not in str(caught.value)

    def test_a_trial_overrides_what_is_fixed_under_another_name(self) -> None:
        engine = Sglang(MODEL, {"tensor_parallel_size": 2})
        assert engine.defaults["tp_size"] == 2
        assert flags(engine, {"tp_size": 4}) == "--tp-size 4"
        assert engine.launch({}, "t").gpus == 2

    def test_names_are_known(self) -> None:
        names = Sglang(MODEL).parameters
        assert names is not None
        assert {"tp_size", "tensor_parallel_size", "cuda_graph_max_bs", "enable_dp_attention"} <= names
        assert not names & {"port", "model_path", "model", "api_key"}


class TestVersions:
    @pytest.mark.parametrize(
        ("version", "configuration", "expected"),
        [
            ("0.5.5.post3", {"cuda_graph_max_bs_decode": 64}, "--cuda-graph-max-bs 64"),
            ("0.5.13.post1", {"cuda_graph_max_bs_decode": 64}, "--cuda-graph-max-bs 64"),
            ("0.5.14", {"cuda_graph_max_bs_decode": 64}, "--cuda-graph-max-bs-decode 64"),
            (None, {"cuda_graph_max_bs": 64}, "--cuda-graph-max-bs-decode 64"),
            ("0.5.10", {"cuda_graph_bs_decode": "1 2"}, "--cuda-graph-bs 1 2"),
            ("0.5.21", {"tp_size": 4, "attn_dp_size": 2}, "--tp-size 4 --dp-size 2 --enable-dp-attention"),
            ("0.5.21", {"tp_size": 4, "attn_dp_size": 1}, "--tp-size 4"),
            ("0.5.22", {"tp_size": 4, "attn_dp_size": 2}, "--tp-size 4 --attn-dp-size 2"),
            ("0.5.5", {"tp_size": 4, "dp_size": 2, "enable_dp_attention": True}, "--tp-size 4 --dp-size 2 --enable-dp-attention"),
            (None, {"tp_size": 4, "dp_size": 2, "enable_dp_attention": True}, "--tp-size 4 --attn-dp-size 2"),
            (None, {"dp_size": 2, "enable_dp_attention": False}, "--dp-size 2"),
            ("0.5.13", {"cuda_graph_backend_decode": "disabled"}, "--disable-cuda-graph"),
            ("0.5.13", {"cuda_graph_backend_decode": "full"}, ""),
            ("0.5.14", {"cuda_graph_backend_decode": "disabled"}, "--cuda-graph-backend-decode disabled"),
            ("0.5.13", {"disable_cuda_graph": True}, "--disable-cuda-graph"),
            ("0.5.7", {"prefill_max_requests": 4}, "--prefill-max-requests 4"),
            ("0.5.19", {"stream_output": True}, "--stream-output"),
        ],
    )
    def test_spelling(self, version: str | None, configuration: Configuration, expected: str) -> None:
        assert flags(Sglang(MODEL, version=version), configuration) == expected

    def test_the_same_gpus_in_each_spelling(self) -> None:
        old = {"tp_size": 4, "dp_size": 4, "enable_dp_attention": True}
        assert Sglang(MODEL).launch(old, "t").gpus == Sglang(MODEL).launch({"tp_size": 4, "attn_dp_size": 4}, "t").gpus == 4

    def test_halves_of_a_pair_in_different_places(self) -> None:
        assert flags(Sglang(MODEL, {"enable_dp_attention": True}), {"tp_size": 4, "dp_size": 2}) == "--tp-size 4 --attn-dp-size 2"

    @pytest.mark.parametrize(
        ("image", "expected"),
        [
            ("lmsysorg/sglang:v0.5.5.post3-cu126", "--cuda-graph-max-bs 8"),
            ("registry.corp:5000/mirror/sglang:v0.5.10", "--cuda-graph-max-bs 8"),
            ("lmsysorg/sglang:latest", "--cuda-graph-max-bs-decode 8"),
            ("lmsysorg/sglang:dev-20260101", "--cuda-graph-max-bs-decode 8"),
            ("lmsysorg/sglang@sha256:0123", "--cuda-graph-max-bs-decode 8"),
            ("corp/llm-server:0.1", "--cuda-graph-max-bs-decode 8"),
            (None, "--cuda-graph-max-bs-decode 8"),
        ],
    )
    def test_the_tag_of_the_official_image_tells(self, image: str | None, expected: str) -> None:
        assert flags(Sglang(MODEL, image=image), {"cuda_graph_max_bs_decode": 8}) == expected

    def test_the_setting_wins_over_the_tag(self) -> None:
        engine = Sglang(MODEL, image="lmsysorg/sglang:v0.5.5", version="0.5.23")
        assert engine.parameters is not None

    def test_of_another_version_its_own_command_line_is_the_judge(self) -> None:
        engine = Sglang(MODEL, {"some_new_flag": True, "another": 3, "schedule_policy": "brand-new"}, version="0.6.0")
        assert engine.parameters is None
        assert flags(engine, {"old_switch": False}) == "--some-new-flag --another 3 --schedule-policy brand-new"
        vllm = Vllm(MODEL, image="vllm/vllm-openai:v0.9.0.1")
        assert flags(vllm, {"preemption_mode": "swap", "some_switch": False}) == "--preemption-mode swap --no-some-switch"

    @pytest.mark.parametrize(
        ("engine", "version", "configuration", "said"),
        [
            (Sglang, "0.5.6", {"prefill_max_requests": 4}, "SGLang 0.5.6 has no flag --prefill-max-requests, it came with 0.5.7"),
            (Sglang, "0.5.20", {"stream_output": True}, "SGLang 0.5.20 has no flag --stream-output, it is gone since 0.5.20"),
            (Sglang, "0.5.13", {"cuda_graph_backend_decode": "breakable"}, "SGLang 0.5.13 knows only disabled and full"),
            (Vllm, "0.16.0", {"performance_mode": "throughput"}, "vLLM 0.16.0 has no flag --performance-mode, it came with 0.17.0"),
            (Vllm, None, {"swap_space": 4}, "vLLM 0.33.0 has no flag --swap-space, it is gone since 0.18.1"),
        ],
    )
    def test_what_a_version_lacks(
        self, engine: type[Sglang] | type[Vllm], version: str | None, configuration: Configuration, said: str
    ) -> None:
        with pytest.raises(Infeasible, match=re.escape(said)):
            engine(MODEL, version=version).launch(configuration, "t")
        with pytest.raises(ConfigError, match=r"^engine\.args\." + f".*{re.escape(said)}"):
            engine(MODEL, configuration, version=version)

    def test_the_defaults_of_an_older_version_can_be_launched(self) -> None:
        engine = Vllm(MODEL, version="0.9.0.1")
        assert "performance_mode" not in engine.defaults
        engine.launch(engine.defaults, "t")

    def test_no_version(self) -> None:
        with pytest.raises(ConfigError, match=r"^engine\.version=newest: no version; write it like 0\.5\.23$"):
            Sglang(MODEL, version="newest")


class TestLocalModels:
    def test_a_directory_must_hold_a_model(self, tmp_path: Path) -> None:
        engine = Sglang(str(tmp_path))
        with pytest.raises(Systemic, match=r": no model in this directory, config\.json is missing$"):
            engine.prepare()
        (tmp_path / "config.json").write_text("{}")
        engine.prepare()
        assert engine.model_folder == tmp_path
        assert engine.launch({}, "t").env == {}

    def test_its_server_gets_no_token(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_x")
        assert Sglang(str(tmp_path)).launch({}, "t").env == {}

    def test_a_template_itself_is_no_file(self) -> None:
        template = "{% for m in messages %}" + "a/b" * 200 + "{% endfor %}"
        assert template in Vllm(MODEL, {"chat_template": template}).launch({}, "t").argv


def test_sglang_reports_metrics_unless_the_user_decides_otherwise() -> None:
    assert "--enable-metrics" in Sglang(MODEL).launch({}, "t").argv
    assert "--enable-metrics" not in Sglang(MODEL, {"enable_metrics": False}).launch({}, "t").argv
