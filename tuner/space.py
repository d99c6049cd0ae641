"""The search space: parameters, conditions and constraints between them, size, and the encoding that samplers see.

Ordered parameters are encoded by their position (powers of two by their exponent): samplers then know which values are neighbours, which
finds better configurations than treating them as categories. This module does not import Optuna; it asks any object that has Optuna's
`suggest_*` methods.
"""

from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import simpleeval

from tuner.explain import nearest
from tuner.launch import Configuration, Value
from tuner.parameters import Fixed, Parameter, Suggests

ENUMERABLE = 100_000
"""Spaces with more combinations than this are not counted one by one, which would take longer than a second."""

FUNCTIONS = {"min": min, "max": max, "abs": abs, "log2": math.log2}
"""What expressions may call beside arithmetic, comparisons and `and`, `or`, `not`, `in`."""

CONSTANTS = {"true": True, "false": False}
"""Words of YAML that expressions may use beside Python's."""

_ALLOWED = (
    *(ast.Expression, ast.Constant, ast.Name, ast.Load, ast.Tuple, ast.List, ast.Call),
    *(ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.boolop, ast.operator, ast.unaryop, ast.cmpop),
)
"""All that an expression may consist of."""


@dataclass(frozen=True)
class Expression:
    """A condition such as `n_ubatch <= n_batch`, evaluated without Python's `eval`.

    Raises:
        ValueError: the text is no such expression.
    """

    text: str

    def __post_init__(self) -> None:
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS and not node.keywords):
                called = ast.unparse(node.func)
                raise ValueError(f"{self.text!r} calls {called}{nearest(called, FUNCTIONS)}; allowed are {', '.join(FUNCTIONS)}")
            if not isinstance(node, _ALLOWED):
                raise ValueError(f"{self.text!r} is more than arithmetic and comparisons: {ast.unparse(node)!r} is not allowed")

    @cached_property
    def _tree(self) -> ast.Expression:
        try:
            return ast.parse(self.text.strip(), mode="eval")
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"{self.text!r} is no expression such as 'n_ubatch <= n_batch'") from error

    @cached_property
    def _evaluator(self) -> Any:
        # one for all evaluations: to make it takes ten times longer than to evaluate
        return simpleeval.EvalWithCompoundTypes(functions=dict(FUNCTIONS))

    @cached_property
    def names(self) -> frozenset[str]:
        """The parameter names that the expression reads."""
        called = [node.func for node in ast.walk(self._tree) if isinstance(node, ast.Call)]
        return frozenset(node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name) and node not in called) - CONSTANTS.keys()

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Whether the expression is true for `values`.

        Raises:
            ValueError: it cannot be evaluated (a division by zero, a text compared with a number).
        """
        try:
            self._evaluator.names = {**CONSTANTS, **values}
            return bool(self._evaluator.eval(self.text, previously_parsed=self._tree.body))
        except (simpleeval.InvalidExpression, TypeError, ArithmeticError, ValueError) as error:
            read = ", ".join(f"{name}={values[name]!r}" for name in sorted(self.names & values.keys()))
            raise ValueError(f"{self.text!r} cannot be evaluated for {read or 'any values'}: {error}") from error


@dataclass(frozen=True)
class Space:
    """Parameters in the order of the configuration, and the expressions that every configuration must satisfy.

    Attributes:
        parameters: By name. A parameter's `when` reads only parameters that stand before it.
        constraints: Expressions between parameters. One that reads an inactive parameter does not apply.
    """

    parameters: Mapping[str, Parameter]
    constraints: tuple[Expression, ...] = ()

    @cached_property
    def conditions(self) -> Mapping[str, Expression]:
        """The conditions of the conditional parameters, by name."""
        return {name: Expression(parameter.when) for name, parameter in self.parameters.items() if parameter.when is not None}

    @cached_property
    def fixed(self) -> Configuration:
        """The values that hold in every trial, that of the engine's defaults too."""
        return {name: p.value for name, p in self.parameters.items() if isinstance(p, Fixed) and p.when is None}

    @property
    def searched(self) -> list[str]:
        """The names of the parameters that are searched."""
        return [name for name, parameter in self.parameters.items() if not isinstance(parameter, Fixed)]

    def active(self, name: str, values: Mapping[str, Value]) -> bool:
        """Whether the parameter exists, given the values of those before it. A condition on an inactive parameter is false."""
        condition = self.conditions.get(name)
        return condition is None or (condition.names <= values.keys() and condition.holds(values))

    def suggest(self, trial: Suggests) -> dict[str, Value]:
        """Draws a configuration. It may violate a constraint: see `violated`."""
        values: dict[str, Value] = {}
        for name, parameter in self.parameters.items():
            if self.active(name, values):
                values[name] = parameter.suggest(trial, name)
        return values

    def encode(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """What a trial that samples `values` would have as its parameters; values outside a range move to the nearest inside.

        Raises:
            KeyError: a searched, active parameter has no value.
        """
        inside: dict[str, Value] = {}
        encoded: dict[str, Value] = {}
        for name, parameter in self.parameters.items():
            if not self.active(name, inside):
                continue
            if isinstance(parameter, Fixed):
                inside[name] = parameter.value
            else:
                code = parameter.encode(values[name])
                inside[name] = parameter.decode(code)
                encoded[parameter.code_name(name)] = code
        return encoded

    def decode(self, encoded: Mapping[str, Any]) -> dict[str, Value]:
        """The configuration that a trial with these parameters has; the inverse of `encode`."""
        values: dict[str, Value] = {}
        for name, parameter in self.parameters.items():
            if self.active(name, values):
                values[name] = parameter.value if isinstance(parameter, Fixed) else parameter.decode(encoded[parameter.code_name(name)])
        return values

    def violated(self, values: Mapping[str, Value]) -> str | None:
        """The first constraint that `values` break, None when all hold."""
        return next((c.text for c in self.constraints if c.names <= values.keys() and not c.holds(values)), None)

    @cached_property
    def combinations(self) -> int | None:
        """Upper bound of the number of configurations, before conditions and constraints; None when a parameter is continuous."""
        sizes = [parameter.size for parameter in self.parameters.values()]
        return None if any(size is None for size in sizes) else math.prod(size for size in sizes if size is not None)

    @cached_property
    def size(self) -> int | None:
        """The exact number of different configurations; None when it is infinite or too large to be counted (`ENUMERABLE`)."""
        if self.combinations is None or self.combinations > ENUMERABLE:
            return None
        return sum(1 for _ in self.configurations())

    def configurations(self) -> Iterator[dict[str, Value]]:
        """All allowed configurations of a finite space, each once.

        Raises:
            ValueError: a parameter is continuous.
        """
        for values in self._extend(list(self.parameters.items()), {}):
            if self.violated(values) is None:
                yield values

    def _extend(self, rest: list[tuple[str, Parameter]], values: dict[str, Value]) -> Iterator[dict[str, Value]]:
        if not rest:
            yield values
            return
        (name, parameter), after = rest[0], rest[1:]
        if not self.active(name, values):
            yield from self._extend(after, values)
            return
        yield from itertools.chain.from_iterable(self._extend(after, values | {name: value}) for value in parameter.values())
