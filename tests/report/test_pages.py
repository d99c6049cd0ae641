from __future__ import annotations

import json
import socket
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest

from tests.doubles import (
    DEFAULTS,
    OBJECTIVES,
    BackendDouble,
    BenchmarkDouble,
    EngineDouble,
    GateDouble,
    ProgressDouble,
    World,
    measurement,
    settings,
    timing,
)
from tuner.errors import Infeasible, NotReadyError, Transient
from tuner.report.dashboard import serve
from tuner.report.pages import Pages, artifacts_folder, curve_of
from tuner.runner import run_trials
from tuner.storage import open_storage
from tuner.study import Ledger
from tuner.trial import Rig

pytestmark = pytest.mark.slow

pytest.importorskip("optuna_dashboard")

SLO = {"metric": "latency_p99_s", "at": 1, "max": 0.5}


def errors_at_level_4(*errors: Exception | None) -> Callable[[str], None]:
    rest = list(errors)

    def at(stage: str) -> None:
        if stage == "run 4" and rest and (error := rest.pop(0)) is not None:
            raise error

    return at


@pytest.fixture(autouse=True)
def no_warnings() -> Any:
    """Whatever Optuna warns of in our use of it is an error; that a function is experimental is known."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def study(folder: Path, world: World, storage: optuna.storages.BaseStorage | None = None, **changes: Any) -> Ledger:
    config = settings(folder, **({"constraints": [SLO]} | changes))
    ledger = Ledger(config, storage or optuna.storages.InMemoryStorage(), DEFAULTS)
    pages = Pages(ledger, artifacts_folder(config))
    pages.introduction()
    rig = Rig(GateDouble(world), EngineDouble(world), BackendDouble(world), BenchmarkDouble(world), config.workload)
    run_trials(ledger, rig, ProgressDouble(world), pages)
    return ledger


def note(ledger: Ledger, number: int | None = None) -> str:
    from optuna_dashboard._note import get_note_from_system_attrs

    trial_id = None if number is None else ledger.study.trials[number]._trial_id
    return str(get_note_from_system_attrs(ledger.study._storage.get_study_system_attrs(ledger.study._study_id), trial_id)["body"])


def artifacts(ledger: Ledger, number: int) -> list[Any]:
    return optuna.artifacts.get_all_artifact_meta(ledger.study.trials[number], storage=ledger.study._storage)


def plots(ledger: Ledger) -> dict[str, str]:
    from optuna_dashboard._custom_plot_data import get_plotly_graph_objects

    return get_plotly_graph_objects(ledger.study._storage.get_study_system_attrs(ledger.study._study_id))


class TestNotes:
    def test_of_the_study(self, tmp_path: Path) -> None:
        text = note(study(tmp_path, World(), stand_in_for="llama1b"))
        assert text.startswith("# some-study\n\n**A stand-in on the CPU for llama1b: the numbers say nothing about a GPU.**")
        assert "llamacpp serving `nano` on backend local; traffic `D(64,32)` at 1, 4 users." in text
        assert "SLOs: latency_p99_s@1<=0.5." in text
        assert f"`{tmp_path}/studies/some-study/`" in text

    def test_of_measured_trials(self, tmp_path: Path) -> None:
        ledger = study(tmp_path, World(measures=lambda configuration, level: measurement(level, client_bound=level == 4)))
        text = note(ledger, 0)
        assert text.startswith("Engine defaults. `n_ctx=8192`")
        assert "| users | output_tokens_per_s | requests_per_s |" in text
        assert "| 4 | 150 tok/s | 5 req/s | 50 ms |" in text
        assert "**Client-bound at 4 users**" in text
        assert "The server's own metrics:\n\n| users | running_max | preemptions |\n|---|---|---|\n| 1 | 2 | 1 |\n| 4 | 2 | 0 |" in text
        assert "The server says it uses: n_parallel=4 n_ctx_slot=2048" in text
        assert f"Server log: `{tmp_path}/studies/some-study/trial-0000/server.log`" in text
        assert not note(ledger, 1).startswith("Engine defaults")

    def test_of_a_server_that_keeps_its_prompt_cache(self, tmp_path: Path) -> None:
        assert "**Prompt cache not flushed before 1, 4 users**: see `cache_hit_rate`." in note(study(tmp_path, World(flushes=False)), 0)
        assert "flushed" not in note(study(tmp_path / "other", World()), 0)

    def test_of_one_that_misses_an_slo(self, tmp_path: Path) -> None:
        ledger = study(tmp_path, World(measures=lambda configuration, level: measurement(level, latency=timing(0.6))))
        assert "**Misses latency_p99_s@1<=0.5**: not on the front." in note(ledger, 0)
        assert "Misses" not in note(study(tmp_path / "other", World()), 0)

    def test_of_failed_trials(self, tmp_path: Path) -> None:
        world = World(errors_at_level_4(None, Infeasible("out of memory", "x" * 9000 + "the end"), Transient("no port")))
        ledger = study(tmp_path, world)
        assert note(ledger, 1).startswith("**Infeasible**: out of memory\n\n```\nxxx")
        assert note(ledger, 1).endswith("the end\n```")
        assert len(note(ledger, 1)) < 5000
        assert note(ledger, 2).startswith("**Transient**: no port")


class TestPictures:
    def test_one_for_each_trial_that_measured_something(self, tmp_path: Path) -> None:
        world = World(errors_at_level_4(None, Infeasible("out of memory at level 4")))
        ledger = study(tmp_path, world)
        for number in range(4):
            (artifact,) = artifacts(ledger, number)
            assert (artifact.filename, artifact.mimetype) == ("curve.png", "image/png")
            assert (tmp_path / "studies/artifacts" / artifact.artifact_id).read_bytes().startswith(b"\x89PNG")

    def test_none_for_one_that_measured_nothing(self, tmp_path: Path) -> None:
        errors = [Infeasible("out of memory")]

        def at(stage: str) -> None:
            if stage == "ready" and errors:
                raise errors.pop()

        ledger = study(tmp_path, World(at))
        assert artifacts(ledger, 0) == []
        assert len(artifacts(ledger, 1)) == 1

    def test_plots_of_the_study(self, tmp_path: Path) -> None:
        ledger = study(tmp_path, World())
        assert set(plots(ledger)) == {"latency_throughput", "feasible_front"}
        assert '"name":"#0 defaults"' in plots(ledger)["latency_throughput"]

    @pytest.mark.parametrize("objectives", [OBJECTIVES[:1], [*OBJECTIVES, {"metric": "ttft_p99_s", "direction": "minimize"}]])
    def test_any_number_of_objectives(self, tmp_path: Path, objectives: list[Any]) -> None:
        assert len(study(tmp_path, World(), objectives=objectives).finished) == 4

    def test_no_front(self, tmp_path: Path) -> None:
        ledger = study(tmp_path, World(measures=lambda configuration, level: measurement(level, latency=timing(9.0))))
        assert ledger.front == []
        assert len(ledger.finished) == 4

    def test_curve_survives_the_storage(self, tmp_path: Path) -> None:
        ledger = study(tmp_path, World(measures=lambda configuration, level: measurement(level, tpot=None)))
        assert curve_of(ledger.study.trials[0]) == {1: measurement(1, tpot=None), 4: measurement(4, tpot=None)}


def test_nothing_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.report.pages.importlib.util.find_spec", lambda name: None if name == "plotly" else object())
    ledger = study(tmp_path, World(errors_at_level_4(None, Infeasible("out of memory"))))
    assert len(ledger.finished) == 4
    assert note(ledger) == note(ledger, 0) == note(ledger, 1) == ""
    assert artifacts(ledger, 0) == []
    assert not (tmp_path / "studies/artifacts").exists()


def test_the_dashboard_shows_it_all(tmp_path: Path) -> None:
    from optuna.artifacts import FileSystemArtifactStore
    from optuna_dashboard import wsgi

    storage = open_storage(f"sqlite:///{tmp_path}/tuner.db")
    ledger = study(tmp_path, World(errors_at_level_4(None, None, Infeasible("out of memory"))), storage)
    app = wsgi(storage, artifact_store=FileSystemArtifactStore(artifacts_folder(ledger.settings)))

    def get(path: str) -> Any:
        seen: list[str] = []
        environ: dict[str, Any] = {"PATH_INFO": path, "QUERY_STRING": "after=0"}
        setup_testing_defaults(environ)
        body = b"".join(app(environ, lambda status, headers, *_: seen.append(status)))
        assert seen == ["200 OK"]
        return json.loads(body)

    (summary,) = get("/api/studies")["study_summaries"]
    assert summary["study_name"] == "some-study"
    detail = get(f"/api/studies/{summary['study_id']}")
    assert detail["objective_names"] == ["latency_p99_s@1", "output_tokens_per_s@4"]
    assert detail["note"]["body"].startswith("# some-study")
    assert detail["plotly_graph_objects"]
    trials = detail["trials"]
    assert [trial["state"] for trial in trials] == ["Complete", "Complete", "Pruned", "Complete"]
    assert [len(trial["constraints"]) for trial in trials] == [2, 2, 2, 2]
    assert all(value > 0 for value in trials[2]["constraints"])
    assert trials[2]["note"]["body"].startswith("**Infeasible**: out of memory")
    assert [len(trial["artifacts"]) for trial in trials] == [1, 1, 1, 1]
    assert {"key": "outcome", "value": "infeasible"} in trials[2]["user_attrs"]


class TestServe:
    def test_taken_port_is_one_line(self, tmp_path: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(
                NotReadyError, match=rf"^dashboard\.port: cannot listen on 127\.0\.0\.1:{port} \(.+\); try dashboard\.port="
            ):
                serve(settings(tmp_path, dashboard={"port": port}))

    def test_foreign_host_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(
            NotReadyError, match=r"^dashboard\.host: cannot listen on 192\.0\.2\.1:8080 .*try dashboard\.host=127\.0\.0\.1$"
        ):
            serve(settings(tmp_path, dashboard={"host": "192.0.2.1"}))

    def test_folder_that_cannot_be_is_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "studies").write_text("a file")
        with pytest.raises(NotReadyError, match=r"^folder: cannot create .*studies/artifacts"):
            serve(settings(tmp_path, dashboard={"port": free_port()}))

    def test_says_where_and_serves_the_artifacts(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        served: dict[str, Any] = {}

        def run_server(storage: Any, **options: Any) -> None:
            served.update(options)
            raise KeyboardInterrupt

        monkeypatch.setattr("optuna_dashboard.run_server", run_server)
        port = free_port()
        assert serve(settings(tmp_path, dashboard={"port": port})) == 0
        assert capsys.readouterr().out == f"Studies in sqlite:///{tmp_path}/tuner.db: http://127.0.0.1:{port}/dashboard (Ctrl-C ends it)\n"
        assert (served["host"], served["port"]) == ("127.0.0.1", port)
        assert served["artifact_store"] is not None
        assert (tmp_path / "studies/artifacts").is_dir()

    def test_without_the_extra_it_names_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
        with pytest.raises(NotReadyError, match=r"pip install 'tuner\[dashboard\]'"):
            serve(settings(tmp_path))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
