from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.standins.flag_parser import add_flags, read_table
from tuner.engines.flag_table import FlagTable
from tuner.engines.llamacpp import LlamaCpp
from tuner.engines.sglang import Sglang
from tuner.engines.vllm import Vllm
from tuner.errors import ConfigError
from tuner.launch import Value

MODEL = "org/tiny"
OME_IMAGE = "docker.io/lmsysorg/sglang:v0.5.5.post3-cu129-amd64"
OME = "python3 -m sglang.launch_server --host 0.0.0.0 --port 8080 --enable-metrics --log-requests --model-path $(MODEL_PATH) --tp-size 1"


def sglang(text: str, args: Mapping[str, Value] | None = None, version: str | None = None) -> dict[str, Value]:
    return Sglang(MODEL, args, version=version).read_flags(["python3", "-m", "sglang.launch_server", *text.split()])


def vllm(*words: str, args: Mapping[str, Value] | None = None, version: str | None = None) -> dict[str, Value]:
    return Vllm(MODEL, args, version=version).read_flags(["vllm", "serve", *words])


class TestRuntimesOfOme:
    """Command lines in the shapes of the runtimes that OME ships."""

    def test_sglang(self) -> None:
        words = f"{OME} --mem-frac 0.9 --served-model-name meta-llama/Llama-3.2-1B-Instruct".split()
        assert Sglang(MODEL, image=OME_IMAGE).read_flags(words) == {"enable_metrics": True, "tp_size": 1, "mem_fraction_static": 0.9}

    def test_sglang_with_more(self) -> None:
        words = f"{OME} --tp 8 --context-length 524288 --enable-multimodal --chat-template /sgl-workspace/a.jinja".split()
        read = Sglang(MODEL, image=OME_IMAGE, model_path="$(MODEL_PATH)").read_flags(words)
        assert read == {
            "enable_metrics": True,
            "tp_size": 8,
            "context_length": 524288,
            "enable_multimodal": True,
            "chat_template": "/sgl-workspace/a.jinja",
        }

    def test_vllm(self) -> None:
        text = "vllm serve $(MODEL_PATH) --port=8080 --served-model-name vllm-model --max-model-len 131072 --gpu-memory-utilization 0.90"
        more = "--preemption-mode swap --max-log-len=0 --disable-log-requests"
        assert Vllm(MODEL, image="vllm/vllm-openai:v0.9.0.1").read_flags(f"{text} {more}".split()) == {
            "max_model_len": 131072,
            "gpu_memory_utilization": 0.9,
            "preemption_mode": "swap",
            "max_log_len": 0,
            "disable_log_requests": True,
        }

    def test_json_behind_an_equals_sign(self) -> None:
        compilation = '{"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}'
        read = vllm("$(MODEL_PATH)", f"--compilation-config={compilation}", "--max-model-len=-1", "--enable-log-requests")
        assert read == {"compilation_config": compilation, "max_model_len": -1}

    @pytest.mark.parametrize(
        "words",
        [
            ["/bin/bash", "-lc", "--", "python3 -m sglang.launch_server \\\n --tp-size=4"],
            ["bash", "-c", "vllm serve m"],
            ["/usr/bin/env", "sh", "-c", "vllm serve m"],
        ],
    )
    def test_a_text_for_a_shell(self, words: list[str]) -> None:
        with pytest.raises(ConfigError, match=r"^backend\.runtime: .* text for the shell .*backend\.runtime_args=ignore$"):
            Sglang(MODEL).read_flags(words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {}),
        (["python3", "-m", "sglang.launch_server"], {}),
        (["--tp-size", "2"], {"tp_size": 2}),
        (["/opt/venv/bin/python3.11", "-u", "-X", "dev", "-m", "sglang.launch_server", "--tp-size", "2"], {"tp_size": 2}),
        (["numactl", "--cpunodebind=0", "python3", "-m", "sglang.launch_server", "--tp-size", "2"], {"tp_size": 2}),
        (["python3", "server.py", "--tp-size", "2"], {"tp_size": 2}),
        (["sglang", "serve", "--tp-size", "2"], {"tp_size": 2}),
    ],
)
def test_what_starts_the_engine_is_passed_over(words: list[str], expected: dict[str, Value]) -> None:
    assert Sglang(MODEL).read_flags(words) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--tp-size=2", {"tp_size": 2}),
        ("--tensor-parallel-size 2", {"tp_size": 2}),
        ("--tensor-par=2", {"tp_size": 2}),
        ("--tp 2 --tp-size 4", {"tp_size": 4}),
        ("--chunked-prefill-size -1", {"chunked_prefill_size": -1}),
        ("--mem-fraction-static 1", {"mem_fraction_static": 1.0}),
        ("--no-mm-enable-dp-encoder", {"mm_enable_dp_encoder": False}),
        ("--enable-mixed-chunk --disable-radix-cache", {"enable_mixed_chunk": True, "disable_radix_cache": True}),
        ("--cuda-graph-bs-decode 1 2 8 --tp 2", {"cuda_graph_bs_decode": "1 2 8", "tp_size": 2}),
        ("--cuda-graph-bs-decode 8", {"cuda_graph_bs_decode": 8}),
        ("--model-checksum --tp 2", {"model_checksum": True, "tp_size": 2}),
        ("--model-checksum sums.json", {"model_checksum": "sums.json"}),
        ("--served-model x --mod", None),
        ("--log-requests --log-requests-level 2", {"log_requests_level": 2}),
        ("--host $(POD_IP) --port $(PORT)", {}),
    ],
)
def test_as_argparse_reads_it(text: str, expected: dict[str, Value] | None) -> None:
    if expected is None:
        with pytest.raises(ConfigError, match=r"--mod could be --model, "):
            sglang(text)
    else:
        assert sglang(text) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-tp", "2", "-dp=3"], {"tensor_parallel_size": 2, "data_parallel_size": 3}),
        (["--max_num_seqs", "64"], {"max_num_seqs": 64}),
        (["--max-model-len", "8k"], {"max_model_len": "8k"}),
        (["--enforce-eager", "org/tiny"], {"enforce_eager": True}),
        (["--disable-prefix-caching"], {"enable_prefix_caching": False}),
        (["--enable-prefix-caching=False"], {"enable_prefix_caching": False}),
        (["--lora-modules", '{"name": "a", "path": "/a"}'], {"lora_modules": '{"name": "a", "path": "/a"}'}),
        (["--lora-modules", "a=/a", "b=/b"], {"lora_modules": "a=/a b=/b"}),
    ],
)
def test_as_vllm_reads_it(words: list[str], expected: dict[str, Value]) -> None:
    assert vllm(*words) == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--max-num-sekuences", "3"],
            r"no flag --max-num-sekuences \(did you mean max_num_seqs\?\); for another version name it: engine\.",
        ),
        (["--swap-space", "4"], r"vLLM 0\.33\.0 has no flag --swap-space, it is gone since 0\.18\.1"),
        (["--max-num-seqs", "many"], r"max_num_seqs='many': must be of type int"),
        (["--performance-mode", "fastest"], r"performance_mode='fastest': use one of "),
        (["--max-num", "3"], r"--max-num could be --max-num-\S+, --max-num-\S+, --max-num-\S+, \.\.\.; "),
        (["--max-num-seqs", "--enforce-eager"], r"--max-num-seqs: its value is missing"),
        (["--enforce-eager", "model", "hf_secret"], r"after --enforce-eager stands a word too many; "),
        (["--enforce-eager=maybe"], r"--enforce-eager: a switch, it takes no value"),
        (["--no-enforce-eager=true"], r"--no-enforce-eager: a switch, it takes no value"),
        (["-O3"], r"no flag -O3 is known"),
        (["--compilation-config.cudagraph_mode", "FULL"], r"part of a JSON text; set engine\.args\.compilation_config as a whole"),
        (["--lora-modules", '{"name": "a"}', '{"name": "b"}'], r"--lora-modules: its values have spaces in them"),
        (["--tensor-parallel-size", "$(PARALLELISM_SIZE)"], r"known only inside the pod; set engine\.args\.tensor_parallel_size"),
        (["--hf-token", "hf_secret"], r"--hf-token: who may look at a pod can read its command line"),
    ],
)
def test_what_cannot_be_taken_over(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^backend\.runtime: its command line .*{said}.*backend\.runtime_args=ignore$") as caught:
        vllm("model-before-the-flags", *words)
    assert "hf_secret" not in str(caught.value)


class TestOwnArguments:
    """What `engine.args` say holds, and what cannot be read of a flag that they decide does not matter."""

    def test_they_win_under_every_name(self) -> None:
        assert sglang("--tp-size 4 --max-running-requests 8", {"tensor_parallel_size": 2}) == {"max_running_requests": 8}
        assert vllm("--tensor-parallel-size", "$(PARALLELISM_SIZE)", args={"tensor_parallel_size": 2}) == {}

    @pytest.mark.parametrize("args", [{"attn_dp_size": 2}, {"dp_size": 2, "enable_dp_attention": True}])
    def test_they_win_over_a_pair_that_meant_the_same(self, args: dict[str, Value]) -> None:
        read = sglang("--tp-size 4 --dp-size 4 --enable-dp-attention", args, "0.5.5")
        argv = Sglang(MODEL, {**read, **args}, version="0.5.5").launch({}, "t").argv
        assert argv[-5:] == ("--tp-size", "4", "--dp-size", "2", "--enable-dp-attention")

    def test_the_size_of_a_pair_can_be_changed_alone(self) -> None:
        read = sglang("--tp-size 4 --dp-size 4 --enable-dp-attention", {"dp_size": 2}, "0.5.5")
        argv = Sglang(MODEL, {**read, "dp_size": 2}, version="0.5.5").launch({}, "t").argv
        assert set(argv[-5:]) == {"--tp-size", "4", "--dp-size", "2", "--enable-dp-attention"}


class TestOtherVersions:
    def test_names_of_today_and_back(self) -> None:
        text = "--cuda-graph-bs 1 2 8 --disable-cuda-graph --tp-size 2 --dp-size 2 --enable-dp-attention"
        read = sglang(text, version="0.5.5")
        assert read == {"cuda_graph_bs_decode": "1 2 8", "cuda_graph_backend_decode": "disabled", "tp_size": 2, "attn_dp_size": 2}
        engine = Sglang(MODEL, read, version="0.5.5")
        argv = engine.launch({}, "t").argv
        assert set(text.split()) < set(argv)
        assert argv[argv.index("--cuda-graph-bs") + 1 :][:3] == ("1", "2", "8")
        assert "--disable-cuda-graph" not in engine.launch({"cuda_graph_backend_decode": "full"}, "t").argv

    def test_unknown_flags_are_let_through(self) -> None:
        read = vllm("--some-switch", "--no-other-switch", "--some-value", "a b", "--swap-space=4", version="0.9.0.1")
        assert read == {"some_switch": True, "other_switch": False, "some_value": "a b", "swap_space": "4"}
        argv = Vllm(MODEL, read, version="0.9.0.1").launch({}, "t").argv
        assert argv[-6:] == ("--some-switch", "--no-other-switch", "--some-value", "a b", "--swap-space", "4")
        assert sglang("--no-such-thing", version="0.6.0") == {"no_such_thing": True}

    def test_flags_that_it_lacks_do_not_make_its_own_ambiguous(self) -> None:
        assert vllm("--attention-b", "x", version="0.33.1") == {"attention_backend": "x"}
        with pytest.raises(ConfigError, match=r"vLLM 0\.9\.0\.1 has no flag --attention-backend, it came with 0\.13\.0"):
            vllm("--attention-backend", "x", version="0.9.0.1")

    def test_a_type_that_was_another_one_stays_text(self) -> None:
        assert sglang("--max-running-requests auto", version="0.6.0") == {"max_running_requests": "auto"}
        with pytest.raises(ConfigError, match="known only inside the pod"):
            sglang("--tp-size $(TP)", version="0.6.0")

    @pytest.mark.parametrize("flag", ["--api-key", "--some-api-key", "--db-password"])
    def test_secrets_are_refused_nevertheless(self, flag: str) -> None:
        with pytest.raises(ConfigError, match=rf"{flag}: who may look at a pod"):
            vllm(flag, "x", version="0.9.0.1")


class TestLlamaCpp:
    def test_flags_of_the_launcher(self) -> None:
        text = "python3 -m tuner.engines.llamacpp_server -m /a.gguf -a x --host 0.0.0.0 --port 1 --metrics -v -np 8 --no-kv-unified -fa on"
        read = LlamaCpp("nano").read_flags(text.split())
        assert read == {"n_parallel": 8, "kv_unified": False, "flash_attn": "on"}

    def test_own_arguments_win(self) -> None:
        assert LlamaCpp("nano", {"n_ctx": 512}).read_flags(["llama-server", "-c", "1024", "-b", "64"]) == {"n_batch": 64}

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["-ngl", "99"], "no flag -ngl is known"),
            (["--paral", "2"], "paral: llamacpp has no such parameter"),
            (["--parallel", "zwei"], "n_parallel='zwei': must be an integer"),
            (["-c", "1", "stray"], "after -c stands a word too many"),
        ],
    )
    def test_what_cannot_be_taken_over(self, words: list[str], said: str) -> None:
        with pytest.raises(ConfigError, match=rf"^backend\.runtime: .*{said}"):
            LlamaCpp("nano").read_flags(["llama-server", *words])


ENGINES = {"sglang": Sglang(MODEL), "vllm": Vllm(MODEL)}
WORDS = {"int": ["0", "-1", "8"], "float": ["0.5", "2.0", "-0.25"], "str": ["a", "/a/b", "a=b", "-1", "$(X)"]}


@cache
def parser(engine: str) -> argparse.ArgumentParser:
    """Python's own, with the flags of the table."""
    made = argparse.ArgumentParser()
    add_flags(made, read_table(f"{engine}-{FlagTable.newest(engine).version}"))
    return made


@cache
def spellings(engine: str, word: str) -> list[str]:
    """A flag and the beginnings that stand for it."""
    options = [option for action in parser(engine)._actions for option in action.option_strings]
    begun = [word[:end] for end in range(4, len(word)) if sum(option.startswith(word[:end]) for option in options) == 1]
    return [word, *begun] if word.startswith("--") else [word]


@st.composite
def one_flag(draw: st.DrawFn, engine: str) -> list[str]:
    """A flag, in one of the ways that argparse takes it."""
    cli = ENGINES[engine]
    known = (cli.parameters or frozenset()) - cli.costly_args
    flag = draw(st.sampled_from([flag for flag in FlagTable.newest(engine).flags if flag.name in known]))
    word = draw(st.sampled_from(spellings(engine, draw(st.sampled_from([flag.flag, *flag.aliases, *flag.off])))))
    if flag.switch:
        return [word]
    value = st.sampled_from([str(choice) for choice in flag.choices] if flag.choices else WORDS[flag.type])
    values = draw(st.lists(value, min_size=1, max_size=3 if flag.nargs in ("+", "*") else 1))
    return [f"{word}={values[0]}"] if len(values) == 1 and draw(st.booleans()) else [word, *values]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_what_is_read_is_what_argparse_reads(engine: str, data: st.DataObject) -> None:
    words = [word for flag in data.draw(st.lists(one_flag(engine), max_size=6)) for word in flag]
    expected = {name: value for name, value in vars(parser(engine).parse_args(words)).items() if value is not None}
    for name, value in expected.items():
        if isinstance(value, list):
            expected[name] = value[0] if len(value) == 1 else " ".join(map(str, value))
    assert ENGINES[engine].read_flags(words) == expected
