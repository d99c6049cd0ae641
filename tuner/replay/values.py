"""Values of parameters as a table has them, and when two of them are the same."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tuner.launch import Value

DIGITS = 7
"""Significant digits in which two broken numbers must agree: a column of 32 bit floats has no more."""

MISSING = frozenset({"", "nan", "na", "n/a", "<na>", "null"})
"""What stands in a cell for nothing; pandas and R write it so."""

_WORDS: Mapping[str, bool] = {"true": True, "false": False}


def parse(cell: object) -> Value | None:
    """The value of a parameter in a cell, a text or what a Parquet file holds; None for an empty one."""
    if isinstance(cell, bool):
        return cell
    text = str(cell).strip()
    if cell is None or text.lower() in MISSING:
        return None
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() else number


def same(value: Value | None) -> float | str | None:
    """What is equal for two values that mean the same: 4, 4.0, "4"; 0.85 and 0.8500000238; true, True and 1."""
    if isinstance(value, str):
        value = parse(value)
    if value is None or isinstance(value, str):
        return value
    number = float(value)
    return number if number.is_integer() or not math.isfinite(number) else float(f"{number:.{DIGITS}g}")
