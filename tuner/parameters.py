"""The kinds of parameters a search space is made of, as the configuration writes them: range, size and encoding of each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Protocol

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

from tuner.launch import Value

Scalar = StrictBool | StrictInt | StrictFloat | StrictStr


class Suggests(Protocol):
    """The part of Optuna's `Trial` that a parameter needs."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...
    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float: ...
    def suggest_categorical(self, name: str, choices: Any) -> Any: ...


class _Parameter(BaseModel):
    """What all kinds share.

    Attributes:
        when: Expression over parameters that stand before this one; the parameter exists only where it holds.
        default: The engine's own value, needed only where the engine decides it at start (`mem_fraction_static`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    when: str | None = None
    default: Scalar | None = None

    def code_name(self, name: str) -> str:
        """The name under which samplers and the dashboard see the parameter."""
        return name


class Float(_Parameter):
    """A number in `[low, high]`, continuous or in steps, on a linear or logarithmic scale."""

    type: Literal["float"]
    low: float
    high: float
    step: Annotated[float, Field(gt=0)] | None = None
    log: bool = False

    @model_validator(mode="after")
    def _possible(self) -> Float:
        _check_range(self.low, self.high, self.log, self.step)
        return self

    @property
    def size(self) -> int | None:
        return None if self.step is None and self.low < self.high else self._steps + 1

    @property
    def _steps(self) -> int:
        # 1e-9: 0.3 / 0.1 is 2.9999999999999996
        return 0 if self.step is None else math.floor((self.high - self.low) / self.step + 1e-9)

    def values(self) -> Iterator[Value]:
        if self.size is None:
            raise ValueError("a continuous parameter has no list of values")
        return (self._step(number) for number in range(self.size))

    def suggest(self, trial: Suggests, name: str) -> Value:
        high = self.high if self.step is None else self._step(self._steps)
        return self.decode(trial.suggest_float(name, self.low, high, step=self.step, log=self.log))

    def encode(self, value: Any) -> Value:
        number = min(max(float(value), self.low), self.high)
        if self.step is None:
            return number
        return self._step(min(round((number - self.low) / self.step), self._steps))

    def decode(self, code: Any) -> Value:
        return float(code) if self.step is None else round(float(code), 12)

    def _step(self, number: int) -> float:
        # 0.8 + 3 * 0.05 is 0.9500000000000001, for Optuna beyond 0.95; twelve digits are more than any engine reads
        return round(self.low + number * (self.step or 0.0), 12)


class Int(_Parameter):
    """A whole number in `[low, high]`, in steps, or on a logarithmic scale."""

    type: Literal["int"]
    low: int
    high: int
    step: Annotated[int, Field(gt=0)] = 1
    log: bool = False

    @model_validator(mode="after")
    def _possible(self) -> Int:
        _check_range(self.low, self.high, self.log, None if self.step == 1 else self.step)
        return self

    @property
    def size(self) -> int:
        return (self.high - self.low) // self.step + 1

    def values(self) -> Iterator[Value]:
        return iter(range(self.low, self.high + 1, self.step))

    def suggest(self, trial: Suggests, name: str) -> Value:
        return trial.suggest_int(name, self.low, self.low + (self.size - 1) * self.step, step=self.step, log=self.log)

    def encode(self, value: Any) -> Value:
        position = round((float(value) - self.low) / self.step)
        return self.low + min(max(position, 0), self.size - 1) * self.step

    def decode(self, code: Any) -> Value:
        return int(code)


class PowerOfTwo(_Parameter):
    """`low`, `2 low`, ... `high`, both powers of two; encoded by the exponent."""

    type: Literal["power_of_two"]
    low: int
    high: int

    @model_validator(mode="after")
    def _possible(self) -> PowerOfTwo:
        for key, value in (("low", self.low), ("high", self.high)):
            if value < 1 or value & (value - 1):
                below = 1 << max(value, 1).bit_length() - 1
                raise ValueError(f"{key}={value} is no power of two; the nearest are {below} and {below * 2}")
        _check_range(self.low, self.high, log=False, step=None)
        return self

    @property
    def size(self) -> int:
        return self.high.bit_length() - self.low.bit_length() + 1

    def values(self) -> Iterator[Value]:
        return (self.low << i for i in range(self.size))

    def code_name(self, name: str) -> str:
        return f"log2_{name}"

    def suggest(self, trial: Suggests, name: str) -> Value:
        return self.decode(trial.suggest_int(self.code_name(name), self.low.bit_length() - 1, self.high.bit_length() - 1))

    def encode(self, value: Any) -> Value:
        inside = min(max(float(value), self.low), self.high)
        return round(math.log2(inside))

    def decode(self, code: Any) -> Value:
        return 1 << int(code)


def _distinct(choices: tuple[Any, ...]) -> tuple[Any, ...]:
    for i, choice in enumerate(choices):
        if (first := choices.index(choice)) < i:
            # 1, 1.0 and true are equal in Python, and so in Optuna
            twin = "stands there twice" if repr(choices[first]) == repr(choice) else f"is the same as {choices[first]!r}"
            raise ValueError(f"{choice!r} {twin}; remove one")
    return choices


Choices = Annotated[
    tuple[Scalar, ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
    Field(min_length=1),
    AfterValidator(_distinct),
]


class _OfChoices(_Parameter):
    choices: Choices

    @property
    def size(self) -> int:
        return len(self.choices)

    def values(self) -> Iterator[Value]:
        return iter(self.choices)


class Ordinal(_OfChoices):
    """Choices with an order, such as ever larger chunk sizes that are no powers of two; encoded by the position in the list."""

    type: Literal["ordinal"]

    def code_name(self, name: str) -> str:
        return f"{name}_index"

    def suggest(self, trial: Suggests, name: str) -> Value:
        return self.decode(trial.suggest_int(self.code_name(name), 0, self.size - 1))

    def encode(self, value: Any) -> Value:
        if value in self.choices:
            return self.choices.index(value)
        numbers = [(abs(c - value), i) for i, c in enumerate(self.choices) if isinstance(c, int | float) and isinstance(value, int | float)]
        return min(numbers)[1] if numbers else 0

    def decode(self, code: Any) -> Value:
        return self.choices[int(code)]


class Categorical(_OfChoices):
    """Choices without an order, such as scheduling policies."""

    type: Literal["categorical"]

    def suggest(self, trial: Suggests, name: str) -> Value:
        return self.decode(trial.suggest_categorical(name, self.choices))

    def encode(self, value: Any) -> Value:
        return value if value in self.choices else self.choices[0]

    def decode(self, code: Any) -> Value:
        return code  # type: ignore[no-any-return]


class Fixed(_Parameter):
    """One value for all trials. In the configuration a plain value stands for it: `space.n_ctx=8192`."""

    type: Literal["fixed"] = "fixed"
    value: Scalar

    @property
    def size(self) -> int:
        return 1

    def values(self) -> Iterator[Value]:
        return iter((self.value,))

    def suggest(self, trial: Suggests, name: str) -> Value:
        return self.value

    def encode(self, value: Any) -> Value:
        return self.value

    def decode(self, code: Any) -> Value:
        return self.value


Parameter = Float | Int | PowerOfTwo | Ordinal | Categorical | Fixed


def _check_range(low: float, high: float, log: bool, step: float | None) -> None:
    if low > high:
        raise ValueError(f"low={low} is above high={high}; swap them")
    if log and low <= 0:
        raise ValueError(f"low={low} must be above 0 on a log scale")
    if log and step is not None:
        raise ValueError("a log scale has no step; remove one of log and step")
