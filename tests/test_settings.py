"""What a configuration may say, what it must not, and how it is told: one line with key, value, what is allowed, the nearest spelling."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from tuner.engine_settings import GpuEngineSettings, LlamaCppSettings
from tuner.errors import ConfigError
from tuner.objectives import Objective, Slo
from tuner.settings import Settings, difference, load

BASE: Mapping[str, Any] = {
    "study_name": "some-study",
    "trials": 4,
    "seed": 1,
    "folder": "studies",
    "engine": {"name": "llamacpp", "model": "nano", "args": {"threads": 2}},
    "backend": {"name": "local"},
    "space": {
        "n_parallel": {"type": "power_of_two", "low": 1, "high": 16},
        "n_batch": {"type": "power_of_two", "low": 64, "high": 512},
        "share": {"type": "float", "low": 0.5, "high": 0.9, "step": 0.1, "when": "n_parallel > 1"},
        "flash_attn": {"type": "categorical", "choices": ["auto", "off"]},
        "n_ctx": 8192,
        "constraints": ["n_parallel <= n_batch"],
    },
    "workload": {"scenario": "D(64,32)", "levels": [1, 4, 16]},
    "objectives": [
        {"metric": "latency_p99_s", "at": "min", "direction": "minimize"},
        {"metric": "output_tokens_per_s", "at": "max", "direction": "maximize"},
    ],
    "constraints": [{"metric": "ttft_p99_s", "at": 4, "max": 0.5}],
    "sampler": {"name": "tpe"},
    "storage": {"url": "sqlite:///studies/tuner.db"},
}
SGLANG = {"name": "sglang", "model": "m", "executable": ["sglang"]}
CONCURRENCY = {"metric": "concurrency", "direction": "maximize"}
GOODPUT: dict[str, Any] = {"bounds": [{"metric": "ttft_p99_s", "max": 0.5}]}
GONE = object()
"""A value that stands for: take this key away."""


def composed(**changes: Any) -> dict[str, Any]:
    """`BASE` with dotted keys changed: `{"space.n_parallel.low": 3}`."""
    config: dict[str, Any] = json.loads(json.dumps(BASE))
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        place: Any = config
        for step in path:
            place = place[int(step) if isinstance(place, list) else step]
        if value is GONE:
            del place[last]
        else:
            place[int(last) if isinstance(place, list) else last] = value
    return config


def settings(**changes: Any) -> Settings:
    return load(composed(**changes))


WRONG: list[tuple[dict[str, Any], str]] = [
    # unknown keys, at every depth
    ({"samplr": 1}, r"samplr: unknown key \(did you mean sampler\?\); known here: backend, .*, workload"),
    ({"experimnt": "x"}, r"experimnt: unknown key \(did you mean experiment\?\); known here: .*"),
    ({"experiment": {"trials": 3}}, r"experiment: a file of an experiment must begin with the line '# @package _global_'"),
    (
        {"workload.levls": [1]},
        r"workload\.levls: unknown key \(did you mean levels\?\); known here: dataset, goodput, levels, .*, warmup_requests",
    ),
    ({"engine.modle": "x"}, r"engine\.modle: unknown key \(did you mean model\?\); known here: args, executable, image, model, .*"),
    ({"engine": SGLANG | {"imag": "x"}}, r"engine\.imag: unknown key \(did you mean image\?\); known here: args, executable, image, .*"),
    ({"objectives.0.metrik": "x"}, r"objectives\.0\.metrik: unknown key \(did you mean metric\?\); known here: at, direction, metric, per"),
    ({"constraints.0.maximum": 1}, r"constraints\.0\.maximum: unknown key \(did you mean max\?\); known here: at, max, metric, min, per"),
    ({"space.n_parallel.hihg": 8}, r"space\.n_parallel\.hihg: unknown key \(did you mean high\?\); known here: default, .*"),
    ({"space.share.choices": [1]}, r"space\.share\.choices: unknown key; known here: default, high, log, low, step, type, when"),
    (
        {"sampler.startup": 1},
        r"sampler\.startup: unknown key \(did you mean startup_trials\?\); known here: name, prior, startup_trials, warm_start",
    ),
    ({"storage.ulr": "x"}, r"storage\.ulr: unknown key \(did you mean url\?\); known here: url"),
    # an unknown key explains the missing one, so it is told first
    ({"workload.levls": [1], "workload.levels": GONE}, r"workload\.levls: unknown key \(did you mean levels\?\); .*"),
    # missing keys
    ({"trials": GONE}, r"trials: missing; it needs a value"),
    ({"engine.model": GONE}, r"engine\.model: missing; it needs a value"),
    ({"engine.name": GONE}, r"engine\.name: missing; it needs a value"),
    ({"workload": GONE}, r"workload: missing; it needs a value"),
    ({"space.n_parallel.low": GONE}, r"space\.n_parallel\.low: missing; it needs a value"),
    ({"space.n_parallel.type": GONE}, r"space\.n_parallel\.type: missing; use one of float, int, power_of_two, .*"),
    ({"objectives.0.direction": GONE}, r"objectives\.0\.direction: missing; it needs a value"),
    # wrong types
    ({"trials": "abc"}, r"trials: 'abc' is no whole number"),
    ({"trials": 1.5}, r"trials: 1\.5 is no whole number"),
    ({"trials": True}, r"trials: true is no whole number"),
    ({"trials": None}, r"trials: null is no whole number"),
    ({"seed": "x"}, r"seed: 'x' is no whole number"),
    ({"study_name": 5}, r"""study_name: 5 is no text; quote it, on the command line as 'study_name="5"'"""),
    ({"study_name": None}, r"study_name: null is no text"),
    ({"engine.model": 5}, r"""engine\.model: 5 is no text; quote it, on the command line as 'engine\.model="5"'"""),
    ({"engine.args": {"x": [1]}}, r"engine\.args\.x: \[1\] is no single value: a number, a text, true or false"),
    ({"engine.args": {"x": None}}, r"engine\.args\.x: null is no single value: a number, a text, true or false"),
    ({"engine.args": 3}, r"engine\.args: 3 is no mapping of keys to values"),
    ({"engine": SGLANG | {"executable": "sglang"}}, r"engine\.executable: 'sglang' is no list; put it into \[ \]"),
    ({"benchmark": "driver"}, r"benchmark: 'driver' is no mapping of keys to values"),
    ({"workload.levels": ["a"]}, r"workload\.levels\.0: 'a' is no whole number"),
    ({"workload.levels": [1, 1.5]}, r"workload\.levels\.1: 1\.5 is no whole number"),
    ({"workload.levels": 5}, r"workload\.levels: 5 is no list; put it into \[ \]"),
    ({"workload.levels": None}, r"workload\.levels: null is no list; put it into \[ \]"),
    ({"workload.max_time_s": "1m"}, r"workload\.max_time_s: '1m' is no number"),
    ({"workload.scenario": 5}, r"workload\.scenario: 5 is no text; .*"),
    ({"constraints.0.max": "abc"}, r"constraints\.0\.max: 'abc' is no number"),
    ({"constraints": "abc"}, r"constraints: 'abc' is no list; put it into \[ \]"),
    ({"constraints": ["abc"]}, r"constraints\.0: 'abc' is no mapping of keys to values"),
    ({"space.n_parallel.high": "abc"}, r"space\.n_parallel\.high: 'abc' is no whole number"),
    ({"space.n_parallel.high": 8.5}, r"space\.n_parallel\.high: 8\.5 is no whole number"),
    ({"space.share.log": "yep"}, r"space\.share\.log: 'yep' is neither true nor false"),
    ({"space.flash_attn.choices": "auto"}, r"space\.flash_attn\.choices: 'auto' is no list; put it into \[ \]"),
    ({"space.flash_attn.choices": [[1]]}, r"space\.flash_attn\.choices\.0: \[1\] is no single value: .*"),
    ({"dashboard": {"port": "abc"}}, r"dashboard\.port: 'abc' is no whole number"),
    # values outside what is possible
    ({"trials": -3}, r"trials: -3 must be above 0"),
    ({"trials": 0}, r"trials: 0 must be above 0"),
    ({"seed": -1}, r"seed: -1 must be at least 0"),
    ({"max_consecutive_failures": 0}, r"max_consecutive_failures: 0 must be above 0"),
    ({"workload.max_error_rate": 1}, r"workload\.max_error_rate: 1 must be below 1"),
    ({"workload.max_time_s": float("inf")}, r"workload\.max_time_s: inf must be finite"),
    ({"workload.levels": [0]}, r"workload\.levels\.0: 0 must be above 0"),
    ({"dashboard": {"port": 70000}}, r"dashboard\.port: 70000 must be at most 65535"),
    ({"benchmark": {"mode": "drive"}}, r"benchmark\.mode: 'drive' is not allowed; use one of driver, cli, job \(did you mean driver\?\)"),
    (
        {"sampler.name": "tpee"},
        r"sampler\.name: 'tpee' is not allowed; use one of ehvi, tpe, gp, nsgaii, random, grid, qmc \(did you mean tpe\?\)",
    ),
    (
        {"backend.name": "dokcer"},
        r"backend\.name: 'dokcer' is not allowed; use one of auto, local, docker, ome, replay \(did you mean docker\?\)",
    ),
    ({"engine.name": "vlm"}, r"engine\.name: 'vlm' is not allowed; use one of llamacpp, sglang, vllm, replay \(did you mean vllm\?\)"),
    ({"objectives.0.direction": "minimise"}, r"objectives\.0\.direction: 'minimise' .* minimize, maximize \(did you mean minimize\?\)"),
    ({"study_name": "a/b"}, r"study_name: 'a/b' names a folder too: at most 200 letters, digits and .*"),
    ({"study_name": ".."}, r"study_name: '\.\.' names a folder too: .*"),
    ({"study_name": "-x"}, r"study_name: '-x' names a folder too: .*"),
    ({"study_name": "x" * 201}, r"study_name: 'x+\.\.\. names a folder too: .*"),
    ({"study_name": "a\nb"}, r"study_name: 'a\\nb' names a folder too: .*"),
    # nothing there
    ({"study_name": ""}, r"study_name: '' is empty; it needs a value"),
    ({"engine.model": ""}, r"engine\.model: '' is empty; it needs a value"),
    ({"workload.levels": []}, r"workload\.levels: \[\] is empty; give at least one"),
    ({"objectives": []}, r"objectives: \[\] is empty; give at least one"),
    ({"objectives": GONE}, r"objectives: \[\] is empty; give at least one"),
    ({"engine": SGLANG | {"executable": []}}, r"engine\.executable: \[\] is empty; give at least one"),
    ({"space.flash_attn.choices": []}, r"space\.flash_attn\.choices: \[\] is empty; give at least one"),
    # the traffic, objectives and SLOs
    ({"workload.scenario": "abc"}, r"workload\.scenario: traffic scenario 'abc' is none of D\(in,out\), .*"),
    ({"workload.scenario": "dataset"}, r"workload\.dataset: missing; workload\.scenario=dataset needs a file or hub id of prompts"),
    ({"workload.dataset": "p.txt"}, r"workload\.dataset: not used by workload\.scenario=D\(64,32\); set workload\.scenario=dataset"),
    ({"workload.scenario": "D(10,0)"}, r"workload\.scenario: .*'D\(10,0\)'.* at least one token"),
    ({"workload.levels": [4, 1, 4]}, r"workload\.levels: \[4, 1, 4\] names a level twice"),
    ({"objectives.0.metric": "latency_p99"}, r"objectives\.0\.metric: 'latency_p99' is no metric \(did you mean latency_p99_s\?\); .*"),
    ({"objectives.0.at": 7}, r"objectives\.0\.at: level 7 is not run; use min, max, best, or one of workload\.levels=\[1, 4, 16\]"),
    ({"objectives.0.at": "maxx"}, r"objectives\.0\.at: 'maxx' is not allowed; use min, max, .*workload\.levels \(did you mean max\?\)"),
    ({"objectives.0.at": 1.5}, r"objectives\.0\.at: 1\.5 is not allowed; .*"),
    ({"objectives.0.at": True}, r"objectives\.0\.at: true is not allowed; .*"),
    ({"objectives.0.at": None}, r"objectives\.0\.at: null is not allowed; .*"),
    ({"constraints.0.at": 7}, r"constraints\.0\.at: level 7 is not run; .*"),
    ({"constraints.0.at": -1}, r"constraints\.0\.at: -1 is not allowed; .*"),
    (
        {"objectives.0": {"metric": "output_tokens_per_s", "at": 16, "direction": "maximize"}},
        r"objectives\.1: output_tokens_per_s@16 .*twice.*",
    ),
    (
        {"constraints": [{"metric": "ttft_p99_s", "max": 1}, {"metric": "ttft_p99_s", "at": 16, "max": 1}]},
        r"constraints\.1: .*<=1 .*twice.*",
    ),
    ({"objectives.0": CONCURRENCY | {"at": "goodput"}}, r"workload\.goodput: missing; objectives\.0\.at=goodput needs the bounds .*"),
    (
        {"workload.goodput": GOODPUT},
        r"workload\.goodput: nothing uses it; give an objective or a constraint at: goodput, or set it to null",
    ),
    ({"workload.goodput": GOODPUT | {"low": 2}}, r"workload\.goodput\.low: 2 is above the lowest of workload\.levels=\[1, 4, 16\]"),
    ({"workload.goodput": GOODPUT | {"high": 8}}, r"workload\.goodput\.high: 8 is below the highest of workload\.levels=\[1, 4, 16\]"),
    ({"workload.goodput": {"bounds": []}}, r"workload\.goodput\.bounds: \[\] is empty; give at least one"),
    (
        {"workload.goodput": {"bounds": [{"metric": "ttft_p99", "max": 1}]}},
        r"workload\.goodput\.bounds\.0\.metric: 'ttft_p99' is no metric .*",
    ),
    ({"objectives.0": CONCURRENCY | {"at": 16}}, r"objectives\.0: concurrency@16 is the load itself; .*"),
    ({"objectives.1.per": "gpu"}, r"objectives\.1\.per: engine=llamacpp uses no GPU here; remove it"),
    ({"objectives.0.per": "gpu"}, r"objectives\.0: per: gpu is for output_tokens_per_s, .*; latency_p99_s does not grow with the hardware"),
    ({"objectives.1.per": "cpu"}, r"objectives\.1\.per: 'cpu' is not allowed; use one of gpu, dollar \(did you mean gpu\?\)"),
    ({"engine": SGLANG, "objectives.1.per": "dollar"}, r"cost\.gpu_hour: missing; objectives\.1\.per=dollar needs the price .*"),
    ({"stop": {"gpu_hours": 2}}, r"stop\.gpu_hours: engine=llamacpp uses no GPU here; use stop\.wall_time_h"),
    ({"stop": {"target": [{"metric": "ttft_p99_s", "at": 7, "max": 1}]}}, r"stop\.target\.0\.at: level 7 is not run; .*"),
    ({"constraints.0.min": 0.1}, r"constraints\.0: give exactly one of min and max"),
    ({"constraints.0.max": GONE}, r"constraints\.0: give exactly one of min and max"),
    ({"constraints.0.max": 0}, r"constraints\.0\.max: 0 must be above 0"),
    ({"constraints.0.max": -1}, r"constraints\.0\.max: -1 must be above 0"),
    ({"constraints.0.max": float("nan")}, r"constraints\.0\.max: nan must be .*"),
    # the space
    ({"space.n_parallel.low": 32}, r"space\.n_parallel: low=32 is above high=16; swap them"),
    ({"space.n_parallel.high": 12}, r"space\.n_parallel: high=12 is no power of two; the nearest are 8 and 16"),
    ({"space.share.low": 0.95}, r"space\.share: low=0\.95 is above high=0\.9; swap them"),
    ({"space.share.step": 0}, r"space\.share\.step: 0 must be above 0"),
    ({"space.share.log": True}, r"space\.share: a log scale has no step; remove one of log and step"),
    ({"space.n_parallel.type": "power"}, r"space\.n_parallel\.type: 'power' is not allowed; use one of float, .*"),
    ({"space.share.type": "flaot"}, r"space\.share\.type: 'flaot' .* fixed \(did you mean float\?\)"),
    ({"space.flash_attn.choices": ["a", "a"]}, r"space\.flash_attn\.choices: 'a' stands there twice; remove one"),
    ({"space.n_parallel": None}, r"space\.n_parallel: null is no value; ~space\.n_parallel on the command line leaves the parameter out"),
    ({"space.x": [1, 2]}, r"space\.x: \[1, 2\] is neither a range nor a value; choices are \{type: categorical, choices: \[\.\.\.\]\}"),
    ({"space.n_parallel.default": "auto"}, r"space\.n_parallel\.default: 'auto' is no number, but the parameter has a range of numbers"),
    ({"engine.args": {"n_batch": "big"}}, r"engine\.args\.n_batch: 'big' is no number, but the parameter has a range of numbers"),
    ({"space": [1]}, r"space: \[1\] does not map parameters to their ranges"),
    ({"space": {}}, r"space: nothing to search; give at least one parameter a range, for example \{type: int, low: 1, high: 8\}"),
    ({"space": {"n_ctx": 8192}}, r"space: nothing to search; .*"),
    ({"space.log2_n_batch": {"type": "int", "low": 1, "high": 2}}, r"space: two parameters are both called log2_n_batch in the study; .*"),
    # its expressions
    ({"space.constraints": "n_parallel <= n_batch"}, r"space\.constraints: 'n_parallel <= n_batch' is no list of expressions such as .*"),
    ({"space.constraints": [5]}, r"space\.constraints: \[5\] is no list of expressions such as .*"),
    ({"space.constraints": ["n_paralel < 3"]}, r"space\.constraints: .* reads n_paralel, .* \(did you mean n_parallel\?\); known here: .*"),
    ({"space.constraints": ["n_batch <"]}, r"space\.constraints: 'n_batch <' is no expression such as 'n_ubatch <= n_batch'"),
    ({"space.constraints": ["mn(n_batch, 3) < 3"]}, r"space\.constraints: .* calls mn \(did you mean min\?\); allowed are min, .*"),
    ({"space.constraints": ["n_batch.real < 3"]}, r"space\.constraints: .*'n_batch\.real' is not allowed"),
    ({"space.constraints": ["n_batch < 3"]}, r"space: no configuration satisfies constraints=\['n_batch < 3'\]"),
    ({"space.constraints": ["n_batch < 'a'"]}, r"space: \"n_batch < 'a'\" cannot be evaluated for n_batch=64: .*"),
    ({"space.constraints": ["1 / (n_batch - 64) > 1"]}, r"space: .* cannot be evaluated for n_batch=64: division by zero"),
    (
        {"space.share.when": "n_paralel > 1"},
        r"space\.share\.when: .* reads n_paralel, which is no parameter \(did you mean n_parallel\?\); .*",
    ),
    (
        {"space.share.when": "n_ctx > 1"},
        r"space\.share\.when: .* reads n_ctx, which does not stand before it; known here: n_parallel, n_batch",
    ),
    ({"space.share.when": "share > 1"}, r"space\.share\.when: 'share > 1' reads share, which does not stand before it; .*"),
    ({"space.share.when": "n_parallel = 4"}, r"space\.share\.when: 'n_parallel = 4' is no expression such as .*"),
    ({"space.share.when": 5}, r"space\.share\.when: 5 is no text; .*"),
    ({"space.share.when": "__import__('os')"}, r"space\.share\.when: .* calls __import__; allowed are .*"),
]


@pytest.mark.parametrize(("changes", "line"), WRONG, ids=[re.sub(r"<object.*?>", "gone", str(changes))[:60] for changes, _ in WRONG])
def test_what_is_wrong_is_told_in_one_line(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(**changes)
    message = str(caught.value)
    assert re.fullmatch(line, message), message
    assert len(message.splitlines()) == 1
    assert len(message) < 400


def test_base_is_right() -> None:
    right = settings()
    assert isinstance(right.engine, LlamaCppSettings)
    assert right.space.searched == ["n_parallel", "n_batch", "share", "flash_attn"]
    assert isinstance(load(BASE | {"engine": SGLANG}).engine, GpuEngineSettings)
    assert load(BASE | {"hydra": {"anything": 1}}) == right


def test_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        settings().trials = 5


def test_levels_are_sorted() -> None:
    assert settings(**{"workload.levels": [16, 1, 4]}).workload.levels == (1, 4, 16)


@pytest.mark.parametrize("null", ["space.constraints", "engine.args"])
def test_an_empty_section_of_yaml_is_nothing(null: str) -> None:
    settings(**{null: None})


def test_space_that_cannot_be_counted_is_accepted() -> None:
    assert settings(**{"space.x": {"type": "float", "low": 0, "high": 1}}).space.size is None


class TestRequests:
    @pytest.mark.parametrize(
        ("level", "requests"),
        [(1, 16), (4, 16), (5, 20), (16, 48), (100, 300)],
    )
    def test_whole_waves_and_not_too_few(self, level: int, requests: int) -> None:
        workload = settings(**{"workload.requests_per_user": 3, "workload.min_requests": 16}).workload
        assert workload.requests(level) == requests


class TestSlo:
    def test_labels(self) -> None:
        assert Slo(metric="ttft_p99_s", at="max", max=0.5).label((1, 4)) == "ttft_p99_s@4<=0.5"
        assert Slo(metric="output_tokens_per_s", at="min", min=100).label((1, 4)) == "output_tokens_per_s@1>=100"
        assert Objective(metric="tpot_mean_s", at=4, direction="minimize").label((1, 4)) == "tpot_mean_s@4"

    @pytest.mark.parametrize(("value", "violation"), [(0.25, -0.5), (0.5, 0.0), (0.75, 0.5), (9.0, 1.0)])
    def test_upper_bound(self, value: float, violation: float) -> None:
        assert Slo(metric="ttft_p99_s", max=0.5).violation(value) == pytest.approx(violation)

    @pytest.mark.parametrize(("value", "violation"), [(150, -0.5), (100, 0.0), (50, 0.5), (0, 1.0), (900, -1.0)])
    def test_lower_bound(self, value: float, violation: float) -> None:
        assert Slo(metric="output_tokens_per_s", min=100).violation(value) == pytest.approx(violation)


class TestIdentity:
    @pytest.mark.parametrize(
        "changes",
        [
            {"trials": 400},
            {"seed": 2},
            {"study_name": "other"},
            {"folder": "elsewhere"},
            {"storage.url": "postgresql://host/db"},
            {"sampler.name": "random"},
            {"engine.ready_timeout_s": 5},
            {"workload.stall_s": 5},
            {"max_consecutive_failures": 9},
            {"dashboard": {"port": 9999}},
            {"stand_in_for": "llama1b"},
            {"workload.levels": [16, 4, 1]},
            {"stop": {"wall_time_h": 3.0, "target": [{"metric": "ttft_p99_s", "max": 0.1}]}},
            {"cost": {"gpu_hour": 2.5}},
        ],
        ids=str,
    )
    def test_unchanged_by_what_decides_no_measurement(self, changes: dict[str, Any]) -> None:
        assert settings(**changes).fingerprint == settings().fingerprint

    @pytest.mark.parametrize(
        "changes",
        [
            {"engine.model": "micro"},
            {"engine.args": {"threads": 1}},
            {"backend.name": "docker"},
            {"space.n_batch.high": 1024},
            {"space.n_ctx": 4096},
            {"space.share.when": "n_parallel > 2"},
            {"space.flash_attn.choices": ["off", "auto"]},
            {"space.n_batch.default": 512},
            {"space.constraints": []},
            {"workload.levels": [1, 4]},
            {"workload.scenario": "D(64,33)"},
            {"workload.max_error_rate": 0.1},
            {"objectives.0.at": "max"},
            {"constraints": []},
            {"benchmark": {"mode": "cli"}},
            {"objectives.1.at": "best"},
            {"objectives.1.at": "goodput", "workload.goodput": GOODPUT},
        ],
        ids=str,
    )
    def test_changed_by_what_decides_a_measurement(self, changes: dict[str, Any]) -> None:
        assert settings(**changes).fingerprint != settings().fingerprint

    def test_a_price_that_decides_values_is_part_of_it(self) -> None:
        priced = composed(**{"objectives.1.per": "dollar"}) | {"engine": SGLANG}
        prints = {load(priced | {"cost": {"gpu_hour": price}}).fingerprint for price in (2.5, 3.0)}
        assert len(prints) == 2

    def test_executable_is_no_part_of_it(self) -> None:
        engines = [SGLANG, SGLANG | {"executable": ["/opt/sglang"]}]
        assert len({load(BASE | {"engine": engine}).fingerprint for engine in engines}) == 1

    def test_survives_json(self) -> None:
        """It is compared with what the storage kept as JSON, where a tuple would come back as a list."""
        identity = settings().identity
        assert json.loads(json.dumps(identity)) == identity

    def test_difference_of_equals(self) -> None:
        assert difference({"a": {"b": 1}}, {"a": {"b": 1}}) == "with other settings"
