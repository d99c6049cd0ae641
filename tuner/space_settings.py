"""From what the configuration writes under `space` to the search space, and what is wrong with it in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from tuner.errors import ConfigError
from tuner.explain import nearest, one_line, show
from tuner.parameters import Categorical, Fixed, Float, Int, Ordinal, Parameter, PowerOfTwo
from tuner.space import Expression, Space

PARAMETER_TYPES: Mapping[str, type[Parameter]] = {
    "float": Float,
    "int": Int,
    "power_of_two": PowerOfTwo,
    "ordinal": Ordinal,
    "categorical": Categorical,
    "fixed": Fixed,
}


def read_space(value: Any) -> Space:
    """The search space that a mapping from parameter names to ranges or values describes.

    Raises:
        ConfigError: a parameter, a condition or a constraint is wrong; names its key.
        ValueError: the space as a whole is.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{show(value)} does not map parameters to their ranges")
    raw = {str(name): entry for name, entry in value.items() if name != "constraints"}
    parameters = {name: _parameter(name, entry) for name, entry in raw.items()}
    constraints = value.get("constraints") or []
    if not isinstance(constraints, list) or not all(isinstance(text, str) for text in constraints):
        raise ConfigError(f"space.constraints: {show(constraints)} is no list of expressions such as ['n_ubatch <= n_batch']")
    space = Space(parameters, tuple(_expression("space.constraints", text) for text in constraints))
    for constraint in space.constraints:
        _check_reads("space.constraints", constraint, list(parameters), parameters)
    for position, (name, parameter) in enumerate(parameters.items()):
        if parameter.when is not None:
            key = f"space.{name}.when"
            _check_reads(key, _expression(key, parameter.when), list(parameters)[:position], parameters)
    if not space.searched:
        raise ValueError("nothing to search; give at least one parameter a range, for example {type: int, low: 1, high: 8}")
    if len(codes := [parameters[name].code_name(name) for name in space.searched]) > len(set(codes)):
        raise ValueError(f"two parameters are both called {max(codes, key=codes.count)} in the study; rename one")
    if space.size == 0:
        raise ValueError(f"no configuration satisfies constraints={show([constraint.text for constraint in space.constraints])}")
    return space


def _expression(key: str, text: str) -> Expression:
    try:
        return Expression(text)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error


def _check_reads(key: str, expression: Expression, known: Sequence[str], parameters: Mapping[str, Parameter]) -> None:
    for name in sorted(expression.names.difference(known)):
        wrong = "does not stand before it" if name in parameters else f"is no parameter{nearest(name, known)}"
        raise ConfigError(f"{key}: {expression.text!r} reads {name}, which {wrong}; known here: {', '.join(known) or 'none'}")


def _parameter(name: str, entry: Any) -> Parameter:
    if entry is None:
        raise ConfigError(f"space.{name}: null is no value; ~space.{name} on the command line leaves the parameter out")
    if isinstance(entry, list):
        raise ConfigError(f"space.{name}: {show(entry)} is neither a range nor a value; choices are {{type: categorical, choices: [...]}}")
    if not isinstance(entry, dict):
        entry = {"type": "fixed", "value": entry}
    kind = entry.get("type")
    if kind not in PARAMETER_TYPES:
        wrong = f"{show(kind)} is not allowed" if "type" in entry else "missing"
        raise ConfigError(f"space.{name}.type: {wrong}; use one of {', '.join(PARAMETER_TYPES)}{nearest(str(kind), PARAMETER_TYPES)}")
    try:
        parameter = PARAMETER_TYPES[kind].model_validate(entry)
    except ValidationError as error:
        raise ConfigError(one_line(error, PARAMETER_TYPES[kind], prefix=f"space.{name}")) from error
    if parameter.default is not None:
        check_encodable(f"space.{name}.default", parameter, parameter.default)
    return parameter


def check_encodable(key: str, parameter: Parameter, value: Any) -> None:
    """Refuses a value that a parameter's range cannot take in: a text where numbers are searched.

    Raises:
        ConfigError: names `key`.
    """
    try:
        parameter.encode(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {show(value)} is no number, but the parameter has a range of numbers") from error
