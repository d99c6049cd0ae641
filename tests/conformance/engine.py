"""What every engine must do, as abstract test classes: inherit them and provide the fixture `engine`."""

from __future__ import annotations

import dataclasses
import socket
import time
from pathlib import Path
from typing import ClassVar

import pytest

from tests.engines.fake_server import FakeServer, Reply
from tests.engines.serving import complete, running
from tuner.engines.base import Engine
from tuner.errors import ConfigError, Infeasible, Systemic, Transient, TunerError
from tuner.launch import Configuration, Endpoint, ExitStatus
from tuner.server_facts import Startup

SECRET = "hf_conformanceSecret"
MODEL_PATH = "$(MODEL_PATH)"

LOGS = {
    "empty": "",
    "no error in it": "INFO starting\nINFO loading weights\n",
    "binary": "\x00\x01\ufffd\n",
    "one very long line": "x" * 100_000,
    "a traceback": 'Traceback (most recent call last):\n  File "a.py", line 1, in b\n    c()\nRuntimeError: the real cause\n',
}


class EngineConformance:
    """Needs no running server."""

    refused: ClassVar[Configuration]
    """A configuration that the engine would certainly refuse."""

    flags: ClassVar[Configuration]
    """Values of every kind: a switch that is on, a number, a word, and what else the engine has."""

    @pytest.fixture
    def engine(self) -> Engine:
        raise NotImplementedError

    @pytest.fixture
    def engine_elsewhere(self, folder: Path) -> Engine:
        """One that was never prepared, whose model servers find at `MODEL_PATH`. `folder` stands for its configuration on this host."""
        raise NotImplementedError

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "config.json").write_text("{}")
        return tmp_path

    def test_an_empty_configuration_launches(self, engine: Engine) -> None:
        spec = engine.launch({}, "tok3n")
        assert all(isinstance(word, str) and word for word in spec.argv)
        assert "{host}" in spec.argv
        assert "{port}" in spec.argv
        assert spec.ready_timeout_s > 0
        assert spec.gpus >= 0

    def test_the_backends_address_is_bound(self, engine: Engine) -> None:
        words = engine.launch({}, "tok3n").bound("127.0.0.1", 4711)
        assert "127.0.0.1" in words
        assert "4711" in words
        assert not any("{host}" in word or "{port}" in word for word in words)

    def test_served_model_is_unique_to_the_deployment(self, engine: Engine) -> None:
        spec = engine.launch({}, "tok3n")
        assert "tok3n" in spec.served_model
        assert spec.served_model in spec.argv
        assert engine.launch({}, "other").served_model != spec.served_model

    def test_launch_is_deterministic(self, engine: Engine) -> None:
        assert engine.launch(engine.defaults, "t") == engine.launch(engine.defaults, "t")

    def test_defaults_are_parameters_and_accepted(self, engine: Engine) -> None:
        assert engine.parameters is None or engine.parameters >= set(engine.defaults)
        assert engine.launch(engine.defaults, "t").gpus == engine.launch({}, "t").gpus

    def test_a_configuration_that_contradicts_itself_is_infeasible(self, engine: Engine) -> None:
        with pytest.raises(Infeasible) as caught:
            engine.launch(self.refused, "t")
        assert_one_line(caught.value)

    def test_secrets_stay_out_of_the_command_line(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", SECRET)
        spec = engine.launch({}, "t")
        assert SECRET not in str(dataclasses.replace(spec, env={}))
        assert SECRET not in str(engine.describe())

    def test_launch_command_can_be_pasted(self, engine: Engine) -> None:
        command = engine.launch(engine.defaults, "").bound("127.0.0.1", 8000)
        assert "8000" in command
        assert not any("{" in word or word.endswith("-") for word in command)

    def test_a_model_elsewhere_is_named_by_its_servers_words(
        self, engine_elsewhere: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", SECRET)
        spec = engine_elsewhere.launch(engine_elsewhere.defaults, "tok3n")
        assert MODEL_PATH in spec.argv
        assert not [word for word in spec.argv if word.startswith("/")]
        assert str(folder) not in str(spec)
        assert spec.mounts == ()
        assert spec.env == {}
        assert "tok3n" in spec.served_model
        assert SECRET not in str(engine_elsewhere.describe())

    def test_what_is_prepared_here_changes_no_launch_elsewhere(self, engine_elsewhere: Engine) -> None:
        before = engine_elsewhere.launch(self.flags, "t")
        engine_elsewhere.prepare()
        assert engine_elsewhere.launch(self.flags, "t") == before
        assert engine_elsewhere.tokenizer

    def test_a_command_line_is_read_back(self, engine: Engine, engine_elsewhere: Engine) -> None:
        for launched in (engine, engine_elsewhere):
            for configuration in ({}, launched.defaults, self.flags):
                spec = launched.launch(configuration, "t")
                assert launched.launch(launched.read_flags(spec.argv), "t") == spec
            read = launched.read_flags(launched.launch(self.flags, "t").argv)
            assert {name: read.get(name) for name in self.flags} == dict(self.flags)

    def test_a_command_line_for_a_shell_is_not_read(self, engine: Engine) -> None:
        with pytest.raises(ConfigError, match=r"^backend\.runtime: .*shell /bin/bash.*backend\.runtime_args=ignore") as caught:
            engine.read_flags(["/bin/bash", "-lc", "--", f"python3 server.py \\\n --api-key {SECRET}"])
        assert_one_line(caught.value)

    @pytest.mark.parametrize("words", [["--api-key", SECRET], [f"--api-key={SECRET}"], [f"--api_key={SECRET}"], ["--my-token", SECRET]])
    def test_a_secret_in_a_command_line_is_refused_and_not_repeated(self, engine: Engine, words: list[str]) -> None:
        with pytest.raises(ConfigError, match=r"^backend\.runtime: .*backend\.runtime_args=ignore$") as caught:
            engine.read_flags([*engine.launch({}, "t").argv, *words])
        assert_one_line(caught.value)

    def test_an_unknown_flag_in_a_command_line_is_named(self, engine: Engine) -> None:
        with pytest.raises(ConfigError, match=r"^backend\.runtime: .*cast_spells.*backend\.runtime_args=ignore$") as caught:
            engine.read_flags([*engine.launch({}, "t").argv, "--cast-spells", "3"])
        assert_one_line(caught.value)

    def test_describe_is_short(self, engine: Engine) -> None:
        assert all(isinstance(value, str) and "\n" not in value and len(value) < 1000 for value in engine.describe().values())

    def test_nobody_at_the_endpoint(self, engine: Engine) -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            self.assert_silent(engine, Endpoint(f"http://127.0.0.1:{bound.getsockname()[1]}", "m"))

    def test_a_server_that_never_answers(self, engine: Engine) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            began = time.monotonic()
            assert not engine.ready(Endpoint(f"http://127.0.0.1:{silent.getsockname()[1]}", "m"))
            assert time.monotonic() - began < 30

    @pytest.mark.parametrize(
        "reply",
        [
            Reply("", 503),
            Reply(b"not json"),
            Reply([]),
            Reply({"data": None}),
            Reply({"data": ["m"]}),
            Reply(None),
            Reply({"ui_settings": [], "internal_states": 1}),
            Reply(b"a{b 1\n"),
            Reply(b"# TYPE a gauge\na 1\n"),
            Reply(b"[" * 100_000),
        ],
    )
    def test_a_stranger_at_the_endpoint(self, engine: Engine, fake_server: FakeServer, reply: Reply) -> None:
        for path in ("/v1/models", "/health", "/props", "/slots", "/server_info", "/version", "/metrics"):
            fake_server.routes[f"GET {path}"] = reply
        self.assert_silent(engine, Endpoint(fake_server.url, "m"))

    def test_ready_only_under_the_expected_name(self, engine: Engine, fake_server: FakeServer) -> None:
        fake_server.routes["GET /v1/models"] = Reply({"object": "list", "data": [{"id": "mine", "object": "model"}]})
        fake_server.routes["GET /health"] = Reply({"status": "ok"})
        assert engine.ready(Endpoint(fake_server.url, "mine"))
        assert not engine.ready(Endpoint(fake_server.url, "other"))

    @pytest.mark.parametrize("log", LOGS.values(), ids=LOGS.keys())
    @pytest.mark.parametrize("code", [None, 0, 1, 2, 134, 137, 139, 143])
    @pytest.mark.parametrize("oom_killed", [False, True])
    def test_every_end_has_a_diagnosis(self, engine: Engine, code: int | None, oom_killed: bool, log: str) -> None:
        failure = engine.diagnose(ExitStatus(code, oom_killed, log))
        assert isinstance(failure, Infeasible | Transient | Systemic)
        assert failure.detail == log
        assert_one_line(failure)

    @pytest.mark.parametrize("log", LOGS.values(), ids=LOGS.keys())
    def test_a_log_without_facts_of_the_start(self, engine: Engine, log: str) -> None:
        assert engine.startup(log) == Startup()

    def test_a_disturbed_server_is_nobodys_fault(self, engine: Engine) -> None:
        failure = engine.diagnose(ExitStatus(137, oom_killed=True, log_tail="ValueError: x", disturbed="Somebody stopped it."))
        assert isinstance(failure, Transient)
        assert failure.reason == "Somebody stopped it."

    def test_memory_that_ran_out_is_the_configurations_fault(self, engine: Engine) -> None:
        assert isinstance(engine.diagnose(ExitStatus(137, oom_killed=True)), Infeasible)

    def test_a_kill_without_a_reason_is_nobodys_fault(self, engine: Engine) -> None:
        assert isinstance(engine.diagnose(ExitStatus(137)), Transient)

    def test_a_taken_port_is_nobodys_fault(self, engine: Engine) -> None:
        log = "ERROR: [Errno 98] error while attempting to bind on address ('127.0.0.1', 8000): address already in use"
        assert isinstance(engine.diagnose(ExitStatus(1, log_tail=log)), Transient)

    def test_the_root_cause_is_quoted(self, engine: Engine) -> None:
        assert "the real cause" in engine.diagnose(ExitStatus(1, log_tail=LOGS["a traceback"])).reason

    def assert_silent(self, engine: Engine, endpoint: Endpoint) -> None:
        assert not engine.ready(endpoint)
        assert engine.effective(endpoint) == {}
        assert engine.version(endpoint)
        assert not engine.flush_cache(endpoint)
        assert engine.metrics(endpoint) is None


@pytest.mark.slow
class ServedEngineConformance:
    """Needs an engine that can run here."""

    @pytest.fixture
    def engine(self) -> Engine:
        raise NotImplementedError

    def test_the_default_launch_uses_the_defaults(self, engine: Engine, tmp_path: Path) -> None:
        with running(engine, {}, tmp_path / "log") as endpoint:
            effective = engine.effective(endpoint)
            assert {name: effective.get(name) for name in engine.defaults} == dict(engine.defaults)

    def test_ready_only_under_the_expected_name(self, engine: Engine, tmp_path: Path) -> None:
        with running(engine, {}, tmp_path / "log") as endpoint:
            assert engine.ready(endpoint)
            assert not engine.ready(dataclasses.replace(endpoint, model="another"))

    def test_it_answers_as_soon_as_it_is_ready(self, engine: Engine, tmp_path: Path) -> None:
        with running(engine, {}, tmp_path / "log") as endpoint:
            assert complete(endpoint, "Hello", max_tokens=3)["usage"]["completion_tokens"] == 3

    def test_an_idle_server_runs_nothing(self, engine: Engine, tmp_path: Path) -> None:
        with running(engine, {}, tmp_path / "log") as endpoint:
            metrics = engine.metrics(endpoint)
            assert metrics is not None
            assert (metrics.running, metrics.queued) == (0, 0)

    def test_version_is_known(self, engine: Engine, tmp_path: Path) -> None:
        with running(engine, {}, tmp_path / "log") as endpoint:
            assert engine.version(endpoint) != "unknown"


def assert_one_line(error: TunerError) -> None:
    line = str(error)
    assert line
    assert "\n" not in line
    assert SECRET not in line
    assert len(line) < 600
