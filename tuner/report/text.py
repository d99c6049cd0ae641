"""How numbers and configurations read on a line."""

from __future__ import annotations

import math

from tuner.launch import Configuration, Value

NONE = "n/a"
UNITS = {
    "output_tokens_per_s": "tok/s",
    "input_tokens_per_s": "tok/s",
    "requests_per_s": "req/s",
    "error_rate": "",
    "concurrency": "users",
    "output_tokens": "tok/$",
    "input_tokens": "tok/$",
    "requests": "req/$",
}


def configuration(values: Configuration) -> str:
    """`n_parallel=16 cont_batching=true`."""
    return " ".join(f"{name}={value(v)}" for name, v in values.items())


def value(v: Value) -> str:
    """A parameter's value as a user would type it."""
    return str(v).lower() if isinstance(v, bool) else f"{v:g}" if isinstance(v, float) else str(v)


def metric(name: str, number: float) -> str:
    """A metric's value with its unit; times below a second in milliseconds. `name` may carry a level: `ttft_p99_s@16`."""
    if not math.isfinite(number):
        return NONE
    unit = UNITS.get(name.partition("@")[0])
    if unit is not None:
        return f"{_three_digits(number)} {unit}".strip()
    return f"{_three_digits(number * 1000)} ms" if number < 1 else f"{number:.2f} s"


def _three_digits(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
