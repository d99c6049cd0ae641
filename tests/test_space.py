"""The search space: expressions, conditions, constraints, its size, and what a real Optuna study draws from it."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
import pytest

from tuner import space as space_module
from tuner.launch import Value
from tuner.parameters import Categorical, Fixed, Float, Int, Ordinal, Parameter, PowerOfTwo
from tuner.space import Expression, Space

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def a_space(*constraints: str, **parameters: Parameter) -> Space:
    return Space(parameters, tuple(Expression(text) for text in constraints))


def every_kind() -> Space:
    """Conditions that hang on each other, constraints, and every kind of parameter."""
    return a_space(
        "n_ubatch <= n_batch",
        "draft <= n_parallel",
        n_parallel=Int(type="int", low=1, high=3),
        n_batch=PowerOfTwo(type="power_of_two", low=64, high=256),
        n_ubatch=PowerOfTwo(type="power_of_two", low=64, high=256),
        speculative=Categorical(type="categorical", choices=(True, False)),
        draft=Int(type="int", low=1, high=3, when="speculative"),
        draft_share=Float(type="float", low=0.1, high=0.5, step=0.2, when="draft >= 2"),
        chunk=Ordinal(type="ordinal", choices=(512, 768), when="not speculative and n_batch > 64"),
        n_ctx=Fixed(value=8192),
    )


def brute_force() -> list[dict[str, Value]]:
    """What `every_kind` allows, written down a second time without the code under test."""
    allowed = []
    powers, shares = (64, 128, 256), (0.1, 0.3, 0.5)
    for n_parallel, n_batch, n_ubatch, speculative in itertools.product((1, 2, 3), powers, powers, (True, False)):
        if n_ubatch > n_batch:
            continue
        base: dict[str, Value] = {"n_parallel": n_parallel, "n_batch": n_batch, "n_ubatch": n_ubatch, "speculative": speculative}
        if speculative:
            for draft in range(1, n_parallel + 1):
                for share in shares if draft >= 2 else (None,):
                    allowed.append(base | {"draft": draft} | ({} if share is None else {"draft_share": share}) | {"n_ctx": 8192})
        else:
            for chunk in (512, 768) if n_batch > 64 else (None,):
                allowed.append(base | ({} if chunk is None else {"chunk": chunk}) | {"n_ctx": 8192})
    return allowed


class TestExpression:
    @pytest.mark.parametrize(
        ("text", "values", "holds"),
        [
            ("a <= b", {"a": 1, "b": 1}, True),
            ("a < b", {"a": 1, "b": 1}, False),
            ("a * 2 + 1 == b", {"a": 1, "b": 3}, True),
            ("a // 2 >= 1 and not b", {"a": 2, "b": False}, True),
            ("1 <= a < b", {"a": 1, "b": 2}, True),
            ("kind == 'fp8' or a in (1, 2)", {"kind": "fp8", "a": 9}, True),
            ("a in [1, 2]", {"a": 2}, True),
            ("a not in [1, 2]", {"a": 2}, False),
            ("min(a, b) * max(a, b) == 6", {"a": 2, "b": 3}, True),
            ("log2(a) + abs(b) == 5", {"a": 8, "b": -2}, True),
            ("on == true", {"on": True}, True),
            ("on == True", {"on": True}, True),
            ("on == false", {"on": True}, False),
            ("on", {"on": False}, False),
            (" a > 0 ", {"a": 1}, True),
            ("-a < 0", {"a": 1}, True),
        ],
    )
    def test_holds(self, text: str, values: Mapping[str, Value], holds: bool) -> None:
        assert Expression(text).holds(values) is holds

    @pytest.mark.parametrize(
        ("text", "names"),
        [
            ("n_ubatch <= n_batch", {"n_ubatch", "n_batch"}),
            ("min(a, 3) > log2(b)", {"a", "b"}),
            ("min > min(min, 2)", {"min"}),
            ("a == true and b == False", {"a", "b"}),
            ("kind == 'other'", {"kind"}),
            ("1 < 2", set()),
        ],
    )
    def test_names_are_the_parameters_it_reads(self, text: str, names: set[str]) -> None:
        assert Expression(text).names == names

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("__import__('os').system('true')", "calls __import__"),
            ("__import__('os')", "calls __import__; allowed are min, max, abs, log2"),
            ("open('/etc/passwd')", "calls open"),
            ("list(a)", "calls list"),
            ("mn(a, 2)", r"calls mn \(did you mean min\?\)"),
            ("a.bit_length() > 1", r"calls a\.bit_length"),
            ("min(a, key=b)", "calls min"),
            ("(lambda: 1)()", "calls lambda"),
            ("a.__class__", r"'a\.__class__' is not allowed"),
            ("a.real > 1", r"'a\.real' is not allowed"),
            ("a[0]", r"'a\[0\]' is not allowed"),
            ("[b for b in a]", "is not allowed"),
            ("{'x': a}", "is not allowed"),
            ("f'{a}'", "is not allowed"),
            ("(b := 3)", "is not allowed"),
            ("min(*a)", "is not allowed"),
            ("a = 4", "no expression such as"),
            ("import os", "no expression such as"),
            ("a; b", "no expression such as"),
            ("a >", "no expression such as"),
            ("", "no expression such as"),
            ("a\x00", "no expression such as"),
        ],
    )
    def test_refuses_all_but_arithmetic_and_comparisons(self, text: str, complaint: str) -> None:
        with pytest.raises(ValueError, match=complaint) as caught:
            Expression(text)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("text", "values"),
        [
            ("a / b > 1", {"a": 1, "b": 0}),
            ("a > 'text'", {"a": 1}),
            ("log2(a) > 1", {"a": 0}),
            ("min(a) > 1", {"a": 1}),
            ("a ** a ** a ** a > 1", {"a": 99}),
            ("a * 1e308 * 1e308 ** 9 > 1", {"a": 1}),
            ("'x' * a == ''", {"a": 10**9}),
        ],
    )
    def test_what_cannot_be_evaluated_names_the_values_it_read(self, text: str, values: Mapping[str, Value]) -> None:
        with pytest.raises(ValueError, match=f"cannot be evaluated for a={values['a']}") as caught:
            Expression(text).holds({**values, "unrelated": 7})
        assert "\n" not in str(caught.value)
        assert "unrelated" not in str(caught.value)

    def test_python_itself_evaluates_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*args: Any) -> None:
            raise AssertionError("eval or exec was called")

        monkeypatch.setattr("builtins.eval", refuse)
        monkeypatch.setattr("builtins.exec", refuse)
        assert Expression("min(a, 2) <= b and a in (1, 2)").holds({"a": 1, "b": 1})

    def test_one_expression_serves_many_configurations(self) -> None:
        expression = Expression("a > b")
        assert [expression.holds({"a": a, "b": 2}) for a in (1, 3, 2)] == [False, True, False]


class TestSize:
    def test_counts_exactly_what_is_allowed(self) -> None:
        space = every_kind()
        expected = brute_force()
        found = list(space.configurations())
        assert sorted(map(repr, found)) == sorted(map(repr, expected))
        assert space.size == len(expected)
        assert space.combinations is not None
        assert space.combinations > len(expected)

    def test_continuous_is_infinite(self) -> None:
        space = a_space(x=Float(type="float", low=0, high=1), n=Int(type="int", low=1, high=2))
        assert space.size is None
        assert space.combinations is None

    def test_too_many_are_not_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(space_module, "ENUMERABLE", 5)
        assert a_space(n=Int(type="int", low=1, high=6)).size is None
        assert a_space(n=Int(type="int", low=1, high=6)).combinations == 6
        assert a_space(n=Int(type="int", low=1, high=5)).size == 5

    def test_constraints_that_leave_nothing(self) -> None:
        assert a_space("n > 6", n=Int(type="int", low=1, high=6)).size == 0


class TestConditions:
    def test_a_condition_on_an_inactive_parameter_is_false(self) -> None:
        space = a_space(
            a=Categorical(type="categorical", choices=(True, False)),
            b=Int(type="int", low=1, high=2, when="a"),
            c=Int(type="int", low=1, high=2, when="b != 5"),
        )
        # `b != 5` would hold for any b; without b it does not
        assert [sorted(values) for values in space.configurations() if not values["a"]] == [["a"]]

    def test_a_constraint_on_an_inactive_parameter_does_not_apply(self) -> None:
        space = every_kind()
        values: dict[str, Value] = {"n_parallel": 1, "n_batch": 64, "n_ubatch": 64, "speculative": False}
        assert space.violated(values) is None
        assert space.violated(values | {"speculative": True, "draft": 2}) == "draft <= n_parallel"

    def test_first_broken_constraint_is_named(self) -> None:
        assert a_space("a > 1", "a > 0", a=Int(type="int", low=0, high=3)).violated({"a": 0}) == "a > 1"

    def test_fixed_and_searched(self) -> None:
        space = a_space(a=Int(type="int", low=0, high=3), b=Fixed(value=1), c=Fixed(value=2, when="a > 1"))
        assert space.searched == ["a"]
        assert space.fixed == {"b": 1}, "c exists only in some trials"


class TestEncoding:
    def test_all_configurations_lead_back(self) -> None:
        space = every_kind()
        for values in space.configurations():
            code = space.encode(values)
            trial = optuna.trial.FixedTrial(code)
            assert space.suggest(trial) == values
            assert code.keys() == trial.distributions.keys()

    def test_clipping_decides_what_is_active(self) -> None:
        space = a_space(a=Int(type="int", low=1, high=2), b=Int(type="int", low=1, high=2, when="a == 2"))
        assert space.encode({"a": 100, "b": 1}) == {"a": 2, "b": 1}
        assert space.encode({"a": 0, "b": 1}) == {"a": 1}

    def test_missing_value_is_named(self) -> None:
        with pytest.raises(KeyError, match="n_batch"):
            every_kind().encode({"n_parallel": 1})


SAMPLERS = {
    "random": lambda: optuna.samplers.RandomSampler(seed=1),
    "tpe": lambda: optuna.samplers.TPESampler(multivariate=True, group=True, n_startup_trials=5, seed=1),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
class TestSuggestions:
    def test_are_always_allowed_values(self, sampler: str) -> None:
        space = every_kind()
        unconstrained = Space(space.parameters)
        possible = [repr(values) for values in unconstrained.configurations()]
        study = optuna.create_study(sampler=SAMPLERS[sampler]())
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Optuna warns of ranges that are no multiple of their step
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            for _ in range(40):
                trial = study.ask()
                values = space.suggest(trial)
                assert repr(values) in possible
                assert {name for name in values if name != "n_ctx"} == {
                    name.removeprefix("log2_").removesuffix("_index") for name in trial.params
                }
                study.tell(trial, float(values["n_batch"]))

    def test_continuous_values_stay_inside(self, sampler: str) -> None:
        space = a_space(x=Float(type="float", low=0.25, high=0.75), y=Float(type="float", low=1e-3, high=1, log=True))
        study = optuna.create_study(sampler=SAMPLERS[sampler]())
        for _ in range(20):
            trial = study.ask()
            values = space.suggest(trial)
            assert 0.25 <= float(values["x"]) <= 0.75
            assert 1e-3 <= float(values["y"]) <= 1
            study.tell(trial, float(values["x"]))

    @pytest.mark.parametrize("low", [0.1, 0.5, 0.8])
    def test_enqueued_values_are_what_is_drawn(self, sampler: str, low: float) -> None:
        space = a_space(x=Float(type="float", low=low, high=low + 0.15, step=0.05))
        for values in space.configurations():
            study = optuna.create_study(sampler=SAMPLERS[sampler]())
            study.enqueue_trial(space.encode(values))
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # Optuna warns of enqueued values that are outside the range
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                assert space.suggest(study.ask()) == values
