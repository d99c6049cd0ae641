from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.confirm.studies import Study, flat
from tuner.confirm.control import Comparison
from tuner.confirm.drift import Change
from tuner.confirm.nearest import Helper, Nearest
from tuner.confirm.verdict import Finding, Gain, Rival, Verdict
from tuner.report.verdict import finding, lines

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

UP, EVEN, DOWN = Gain(12.34, 8.1, 16.5), Gain(0.5, -1.0, 2.0), Gain(-9.0, -12.0, -6.0)


def said(found: Finding, **changes: Any) -> str:
    return finding(found, Verdict((found,), 0.95, **changes))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            Finding("tok@4", "improved", 7, UP, 5),
            "tok@4: trial #7 is better than the defaults by +12.3% (95% interval +8.1% to +16.5%), 5 rounds.",
        ),
        (
            Finding("tok@4", "improved", 7, UP, 3, {"ttft@1": DOWN, "tpot@1": EVEN, "rps@4": UP}),
            "tok@4: trial #7 is better than the defaults by +12.3% (95% interval +8.1% to +16.5%), 3 rounds. Costs ttft@1 -9.0% "
            "(-12.0% to -6.0%); no significant change of tpot@1 (estimate +0.5%, -1.0% to +2.0%); "
            "also gains rps@4 +12.3% (+8.1% to +16.5%).",
        ),
        (
            Finding("tok@4", "improved", 7, UP, 3, slo_chance=0.93, slo="ttft@1<=0.5"),
            "tok@4: trial #7 is better than the defaults by +12.3% (95% interval +8.1% to +16.5%), 3 rounds. "
            "It meets ttft@1<=0.5 with a probability of 93%.",
        ),
        (
            Finding("tok@4", "improved", 7, UP, 3, rival=Rival(9, EVEN, {"ttft@1": UP})),
            "tok@4: trial #7 is better than the defaults by +12.3% (95% interval +8.1% to +16.5%), 3 rounds. "
            "Trial #9 is as good here as far as can be told, +0.5% (-1.0% to +2.0%), and better in ttft@1 +12.3% (+8.1% to +16.5%).",
        ),
        (
            Finding("tok@4", "same", 7, EVEN, 14),
            "tok@4: no significant difference: keep the defaults (trial #7: +0.5% (95% interval -1.0% to +2.0%), 14 rounds).",
        ),
        (
            Finding("tok@4", "same", 7, DOWN, 3),
            "tok@4: no improvement: keep the defaults (trial #7: -9.0% (95% interval -12.0% to -6.0%), 3 rounds).",
        ),
        (Finding("tok@4", "same", 7, None, 1), "tok@4: no significant difference: keep the defaults (trial #7: 1 round)."),
        (
            Finding("tok@4", "misses", 7, UP, 3, slo_chance=0.004, slo="ttft@1<=0.5"),
            "tok@4: trial #7 (+12.3% (95% interval +8.1% to +16.5%), 3 rounds) is not recommended: it meets ttft@1<=0.5 with a "
            "probability below 1%. Keep the defaults.",
        ),
        (
            Finding("tok@4", "failed", 7, reason="trial #7 is out of memory"),
            "tok@4: trial #7 is out of memory. Keep the defaults.",
        ),
        (Finding("tok@4", "default_best", None), "tok@4: the search found nothing better: keep the defaults."),
        (Finding("tok@4", "unconfirmed", 7), "tok@4: trial #7 was best, measured once."),
        (
            Finding("tok@4", "unconfirmed", 7, Gain(12.34)),
            "tok@4: trial #7 was best, +12.3% to the defaults, measured once and not confirmed.",
        ),
        (
            Finding("tok@4", "unfinished", 7, rounds=2),
            "tok@4: trial #7 is being compared with the defaults (2 rounds done); the same command goes on.",
        ),
    ],
)
def test_what_is_said(found: Finding, expected: str) -> None:
    assert said(found) == expected


def test_defaults_that_cannot_be_used_are_not_kept() -> None:
    same = Finding("tok@4", "same", 7, EVEN, 14, slo_chance=1.0, slo="ttft@1<=0.5")
    assert said(same, default_misses=("ttft@1<=0.5",)) == (
        "tok@4: trial #7 does not differ significantly from the defaults (+0.5% (95% interval -1.0% to +2.0%), 14 rounds), which cannot be "
        "used. It meets ttft@1<=0.5 with a probability above 99%."
    )
    worse = Finding("tok@4", "same", 7, DOWN, 3)
    assert said(worse, default_misses=("ttft@1<=0.5",)) == (
        "tok@4: trial #7 is worse than the defaults (-9.0% (95% interval -12.0% to -6.0%), 3 rounds), which cannot be used."
    )
    for found in (same, Finding("tok@4", "misses", 7, UP, 3, slo_chance=0.1, slo="x"), Finding("tok@4", "failed", 7, reason="it failed")):
        assert "eep the defaults" not in said(found, default_missing="out of memory")


def test_what_there_is_of_defaults(tmp_path: Path) -> None:
    ledger = Study(tmp_path, flat).ledger
    assert lines(ledger, Verdict((), 0.95, default_missing="out of memory")) == ["There are no defaults to compare with: out of memory"]
    assert lines(ledger, Verdict((), 0.95, default_misses=("a<=1", "b<=2"))) == ["The defaults miss a<=1, b<=2."]
    assert lines(ledger, Verdict((), 0.95, doubts=("client-bound",))) == ["Doubtful: client-bound"]


def test_an_slo_that_nothing_meets(tmp_path: Path) -> None:
    ledger = Study(tmp_path, flat, constraints=[{"metric": "ttft_p99_s", "at": 4, "max": 0.5}]).ledger
    helper = Helper("n_parallel", 16, -0.71, 24, at_edge=True)
    found = Nearest(7, {"ttft_p99_s@4<=0.5": 0.1001}, "ttft_p99_s@4<=0.5", 0.55005, helper)
    assert lines(ledger, Verdict((), 0.95, nearest=found)) == [
        "No trial meets all SLOs. The nearest is trial #7: it misses ttft_p99_s@4<=0.5 by 10.0%. ttft_p99_s@4<=0.5 binds.",
        "It would meet a bound of ttft_p99_s@4 0.551.",
        "n_parallel=16 had the lowest ttft_p99_s@4 (rank correlation with the violation -0.71 over 24 trials). "
        "It is the last value of its range: widen that.",
    ]
    within = Nearest(7, {"ttft_p99_s@4<=0.5": 0.1}, "ttft_p99_s@4<=0.5", None, Helper("policy", "lpm", 0.6, 9, at_edge=False))
    assert lines(ledger, Verdict((), 0.95, nearest=within))[1:] == [
        "policy=lpm had the lowest ttft_p99_s@4 (rank correlation with the violation +0.60 over 9 trials)."
    ]


def test_a_lower_bound_that_nothing_meets(tmp_path: Path) -> None:
    ledger = Study(tmp_path, flat, constraints=[{"metric": "output_tokens_per_s", "at": 4, "min": 400}]).ledger
    label = "output_tokens_per_s@4>=400"
    found = Nearest(7, {label: 0.5}, label, 123.456, Helper("n_parallel", 16, -0.71, 24, at_edge=False))
    told = lines(ledger, Verdict((), 0.95, nearest=found))
    assert told[1] == "It would meet a bound of output_tokens_per_s@4 123."
    assert told[2].startswith("n_parallel=16 had the highest output_tokens_per_s@4 ")


def test_bounds_of_goodput_that_nothing_meets(tmp_path: Path) -> None:
    workload = {"scenario": "D(64,32)", "levels": [1, 4], "goodput": {"bounds": [{"metric": "ttft_p99_s", "max": 0.5}]}}
    objectives = [{"metric": "requests_per_s", "at": "goodput", "direction": "maximize"}]
    ledger = Study(tmp_path, flat, workload=workload, objectives=objectives).ledger
    label = ledger.settings.goodput_label
    found = Nearest(7, {label: 0.5}, label, None, Helper("n_parallel", 16, -0.71, 24, at_edge=False))
    assert lines(ledger, Verdict((), 0.95, nearest=found)) == [
        "No trial meets all SLOs. The nearest is trial #7: it misses goodput>=1 by 50.0%. goodput>=1 binds.",
        "n_parallel=16 came nearest to goodput>=1 (rank correlation with the violation -0.71 over 24 trials).",
    ]


def test_drift_is_told(tmp_path: Path) -> None:
    ledger = Study(tmp_path, flat).ledger
    (told,) = lines(ledger, Verdict((), 0.95, trend=Change(1, -0.105, -0.16, -0.05, 3.24)))
    assert told == (
        "Drift: output_tokens_per_s@4 of the defaults fell by 10.0% (95% interval 4.9 to 14.8%) within 3 h 14 min; "
        "trials of different times are not quite comparable."
    )
    (told,) = lines(ledger, Verdict((), 0.95, trend=Change(0, -0.105, -0.16, -0.05, 3.24)))
    assert told.startswith("Drift: latency_p99_s@1 of the defaults rose by 11.1% (95% interval 5.1 to 17.4%)")


@pytest.mark.parametrize(
    ("volume", "expected"),
    [
        ((12.0, 5.0, 20.0), "The search was worth it"),
        ((1.0, -2.0, 4.0), "Random search did as well"),
        ((1.0, -5.0, 7.0), "Whether the search beat random search cannot be told"),
        ((-9.0, -15.0, -3.0), "Random search did better"),
    ],
)
def test_the_control_arm(tmp_path: Path, volume: tuple[float, float, float], expected: str) -> None:
    ledger = Study(tmp_path, flat).ledger
    best = ((3.0, -1.0, 4.0), (4.0, -2.0, 4.5))
    compared = Comparison((20, 20), (3.1, 4.0), volume, best), Comparison((26, 20), (4.0, 4.0), volume, best)
    told = lines(ledger, Verdict((), 0.95, control=compared))
    assert told[0] == (
        f"{expected}: at equal deployments, 20 (3.1 h) against 20 (4 h), its front covers {volume[0]:+.1f}% "
        f"({volume[1]:+.1f}% to {volume[2]:+.1f}%) against random's; best latency_p99_s@1 +3.0% (-1.0% to +4.0%), "
        "output_tokens_per_s@4 +4.0% (-2.0% to +4.5%)."
    )
    assert told[1].startswith(f"{expected}: at equal cost, 26 (4 h) against 20 (4 h)")


def test_a_control_arm_without_anything_feasible(tmp_path: Path) -> None:
    compared = Comparison((20, 20), (3.1, 4.0), None, (None, None))
    told = lines(Study(tmp_path, flat).ledger, Verdict((), 0.95, control=(compared, compared)))
    assert told[0].endswith("random trials had found nothing feasible.")
