"""What a table cannot answer is told before the first trial, in one line with the key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.replay.recording import OBJECTIVES, SPACE, settings
from tuner.errors import ConfigError
from tuner.parties import decide

LEVELS = {"scenario": "D(64,32)", "levels": [4, 64]}
TP = {"type": "power_of_two", "low": 1, "high": 2}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in SPACE.items() if key != name}


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"backend": {"name": "local"}}, r"^backend=local: engine=replay replays a table, which needs backend=replay too"),
        (
            {"engine": {"name": "llamacpp", "model": "nano"}},
            r"^engine=llamacpp: backend=replay replays a table, which needs engine=replay too",
        ),
        ({"space": SPACE | {"tp_sise": TP}}, r"^space\.tp_sise: replay has no such parameter \(did you mean tp_size\?\); known: max_run"),
        (
            {"space": without("tp_size")},
            r"^space\.tp_size: missing; .*several values of it \(1, 2\): search it, fix it as in space\.tp_size=1",
        ),
        ({"space": SPACE | {"tp_size": TP | {"low": 4, "high": 8}}}, r"^space\.tp_size: none of its values is in .*, which has 1, 2"),
        (
            {"space": SPACE | {"mem_fraction_static": {"type": "float", "low": 0.7, "high": 0.9}}},
            r"^space\.mem_fraction_static: a continuous range meets no row .*0\.7, 0\.8.*give it a step",
        ),
        ({"engine": {"args": {"dp_size": 2}}}, r"^engine\.args\.dp_size: .* has no such column \(did you mean tp_size\?\)"),
        ({"engine": {"args": {"tp_size": 8}}}, r"^engine\.args\.tp_size=8: .* has only 1, 2"),
        ({"workload": LEVELS | {"levels": [2, 4, 64]}}, r"^workload\.levels: .* has 4, 64 users, 2 is beyond"),
        ({"workload": LEVELS | {"levels": [4, 64, 128]}}, r"^workload\.levels: .* has 4, 64 users, 128 is beyond"),
        (
            {"objectives": [OBJECTIVES[0] | {"metric": "ttft_p90_s"}]},
            r"^objectives\.0\.metric: .* has no ttft_p90_s \(did you mean ttft_p99_s\?\); it has ttft_p99_s, output_tokens_per_s",
        ),
        ({"constraints": [{"metric": "tpot_p99_s", "at": 4, "max": 1.0}]}, r"^constraints\.0\.metric: .* has no tpot_p99_s"),
        ({"stop": {"target": [{"metric": "tpot_p99_s", "at": 4, "max": 1.0}]}}, r"^stop\.target\.0\.metric: .* has no tpot_p99_s"),
        ({"engine": {"model": "no/such/folder"}}, r"^engine\.model=no/such/folder: no folder with a config\.json"),
        ({"engine": {"table": "no/such.csv"}}, r"^engine\.table: cannot read no/such\.csv"),
    ],
)
def test_errors(tmp_path: Path, changes: dict[str, Any], wrong: str) -> None:
    changed = dict(changes)
    if changed.get("engine", {}).get("name") == "llamacpp":
        from tests import doubles

        experiment = doubles.settings(tmp_path, backend={"name": "replay"})
    else:
        experiment = settings(tmp_path, **changed)
    with pytest.raises(ConfigError) as caught:
        decide(experiment)
    assert len(str(caught.value).splitlines()) == 1
    assert re.search(wrong, str(caught.value)), caught.value


@pytest.mark.parametrize(
    ("engine", "wrong"),
    [
        ({"noise": {"run": {"ttft_p98_s": 0.1}}}, r"^engine\.noise\.run.*ttft_p98_s"),
        ({"noise": {"run": -0.1}}, r"^engine\.noise\.run.*-0\.1 must be at least 0"),
        ({"noise": {"jitter": 0.1}}, r"^engine\.noise\.jitter: unknown key"),
        ({"noise": {"failures": 1.0}}, r"^engine\.noise\.failures: 1\.0 must be below 1"),
        ({"noise": "loud"}, r"^engine\.noise: 'loud'"),
        ({"gpu": {"name": "H100", "count": 1}}, r"^engine\.gpu\.memory_gib: missing"),
        ({"replays": "trtllm"}, r"^engine\.replays: 'trtllm' is not allowed; use one of sglang, vllm, llamacpp"),
    ],
)
def test_settings(tmp_path: Path, engine: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, engine=engine)
    assert len(str(caught.value).splitlines()) == 1
    assert re.search(wrong, str(caught.value)), caught.value


def test_levels_between_the_recorded_ones_are_fine(tmp_path: Path) -> None:
    decide(settings(tmp_path, workload=LEVELS | {"levels": [4, 16, 64]}))


def test_what_is_not_searched_may_be_fixed(tmp_path: Path) -> None:
    decide(settings(tmp_path, space=SPACE | {"tp_size": 2}))
    decide(settings(tmp_path, space=without("tp_size"), engine={"args": {"tp_size": 2}}))
