"""Every kind of parameter: its values, its size, its encoding, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tuner.launch import Value
from tuner.parameters import Categorical, Fixed, Float, Int, Ordinal, Parameter, PowerOfTwo

KINDS: dict[str, type[Parameter]] = {
    "float": Float,
    "int": Int,
    "power_of_two": PowerOfTwo,
    "ordinal": Ordinal,
    "categorical": Categorical,
    "fixed": Fixed,
}

FINITE: list[tuple[dict[str, Any], list[Value]]] = [
    ({"type": "float", "low": 0.5, "high": 0.9, "step": 0.05}, [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9]),
    ({"type": "float", "low": 0.1, "high": 0.3, "step": 0.1}, [0.1, 0.2, 0.3]),
    ({"type": "float", "low": 0.5, "high": 0.9, "step": 0.3}, [0.5, 0.8]),
    ({"type": "float", "low": -0.2, "high": 0.1, "step": 0.1}, [-0.2, -0.1, 0.0, 0.1]),
    ({"type": "float", "low": 1, "high": 3, "step": 1}, [1.0, 2.0, 3.0]),
    ({"type": "float", "low": 0.5, "high": 0.5}, [0.5]),
    ({"type": "float", "low": 0.5, "high": 0.6, "step": 0.5}, [0.5]),
    ({"type": "int", "low": 1, "high": 4}, [1, 2, 3, 4]),
    ({"type": "int", "low": -1, "high": 1}, [-1, 0, 1]),
    ({"type": "int", "low": 1, "high": 10, "step": 4}, [1, 5, 9]),
    ({"type": "int", "low": 1, "high": 4, "log": True}, [1, 2, 3, 4]),
    ({"type": "int", "low": 1, "high": 4, "step": 100}, [1]),
    ({"type": "power_of_two", "low": 1, "high": 16}, [1, 2, 4, 8, 16]),
    ({"type": "power_of_two", "low": 64, "high": 256}, [64, 128, 256]),
    ({"type": "power_of_two", "low": 8, "high": 8}, [8]),
    ({"type": "ordinal", "choices": [512, 768, 2048]}, [512, 768, 2048]),
    ({"type": "ordinal", "choices": ["small", "large"]}, ["small", "large"]),
    ({"type": "categorical", "choices": ["fcfs", "lpm"]}, ["fcfs", "lpm"]),
    ({"type": "categorical", "choices": [True, False]}, [True, False]),
    ({"type": "categorical", "choices": ["auto", 1, 2.5]}, ["auto", 1, 2.5]),
    ({"type": "fixed", "value": 8192}, [8192]),
    ({"value": "fp8"}, ["fp8"]),
]

CONTINUOUS = [
    {"type": "float", "low": 0.0, "high": 1.0},
    {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
]


def parameter(entry: dict[str, Any]) -> Parameter:
    return KINDS[entry.get("type", "fixed")].model_validate(entry)


def name_of(case: Any) -> str | None:
    return " ".join(str(value) for value in case.values()) if isinstance(case, dict) else ""


@pytest.mark.parametrize(("entry", "values"), FINITE, ids=name_of)
class TestFinite:
    def test_values_are_exact(self, entry: dict[str, Any], values: list[Value]) -> None:
        found = list(parameter(entry).values())
        assert found == values
        assert [type(value) for value in found] == [type(value) for value in values]
        # 0.8, not 0.7999999999999999: it stands on a command line and in tables
        assert [str(value) for value in found] == [str(value) for value in values]

    def test_size_counts_the_values(self, entry: dict[str, Any], values: list[Value]) -> None:
        assert parameter(entry).size == len(values)

    def test_codes_lead_back_to_the_values(self, entry: dict[str, Any], values: list[Value]) -> None:
        kind = parameter(entry)
        assert [kind.decode(kind.encode(value)) for value in values] == values


@pytest.mark.parametrize("entry", CONTINUOUS, ids=name_of)
def test_continuous_has_no_size_and_no_list(entry: dict[str, Any]) -> None:
    kind = parameter(entry)
    assert kind.size is None
    with pytest.raises(ValueError, match="continuous"):
        list(kind.values())
    assert kind.decode(kind.encode(0.05)) == 0.05


@pytest.mark.parametrize(
    ("entry", "value", "nearest"),
    [
        ({"type": "float", "low": 0.5, "high": 0.9}, 2, 0.9),
        ({"type": "float", "low": 0.5, "high": 0.9}, 0.1, 0.5),
        ({"type": "float", "low": 0.5, "high": 0.9, "step": 0.05}, 0.88, 0.9),
        ({"type": "float", "low": 0.5, "high": 0.9, "step": 0.05}, 0.86, 0.85),
        ({"type": "float", "low": 0.5, "high": 0.9, "step": 0.05}, 7, 0.9),
        ({"type": "float", "low": 0.5, "high": 0.9, "step": 0.3}, 0.9, 0.8),
        ({"type": "int", "low": 1, "high": 8}, 100, 8),
        ({"type": "int", "low": 1, "high": 8}, -3, 1),
        ({"type": "int", "low": 1, "high": 8}, 2.7, 3),
        ({"type": "int", "low": 1, "high": 10, "step": 4}, 10, 9),
        ({"type": "int", "low": 1, "high": 10, "step": 4}, 6, 5),
        ({"type": "power_of_two", "low": 64, "high": 512}, 8192, 512),
        ({"type": "power_of_two", "low": 64, "high": 512}, 1, 64),
        ({"type": "power_of_two", "low": 64, "high": 512}, 0, 64),
        ({"type": "power_of_two", "low": 64, "high": 512}, 100, 128),
        ({"type": "ordinal", "choices": [512, 768, 2048]}, 4096, 2048),
        ({"type": "ordinal", "choices": [512, 768, 2048]}, 700, 768),
        ({"type": "ordinal", "choices": [512, 768, 2048]}, "auto", 512),
        ({"type": "ordinal", "choices": ["small", "large"]}, 3, "small"),
        ({"type": "categorical", "choices": ["fcfs", "lpm"]}, "lof", "fcfs"),
        ({"type": "fixed", "value": 8192}, 4096, 8192),
    ],
    ids=name_of,
)
def test_values_outside_move_to_the_nearest_inside(entry: dict[str, Any], value: Value, nearest: Value) -> None:
    kind = parameter(entry)
    assert kind.decode(kind.encode(value)) == nearest


@pytest.mark.parametrize("entry", [entry for entry, _ in FINITE if entry.get("type") in ("float", "int", "power_of_two")], ids=name_of)
def test_words_have_no_place_in_a_range(entry: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="auto"):
        parameter(entry).encode("auto")


def test_ordered_kinds_show_their_encoding_in_their_name() -> None:
    assert parameter({"type": "power_of_two", "low": 1, "high": 8}).code_name("n_batch") == "log2_n_batch"
    assert parameter({"type": "ordinal", "choices": [1, 3]}).code_name("n_batch") == "n_batch_index"
    assert parameter({"type": "int", "low": 1, "high": 8}).code_name("n_batch") == "n_batch"


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"type": "float", "low": 2, "high": 1}, r"low=2\.0 is above high=1\.0; swap them"),
        ({"type": "int", "low": 2, "high": 1}, "low=2 is above high=1; swap them"),
        ({"type": "power_of_two", "low": 16, "high": 1}, "low=16 is above high=1; swap them"),
        ({"type": "float", "low": 0, "high": 1, "log": True}, "above 0 on a log scale"),
        ({"type": "int", "low": -1, "high": 1, "log": True}, "low=-1 must be above 0 on a log scale"),
        ({"type": "int", "low": 1, "high": 9, "step": 2, "log": True}, "a log scale has no step"),
        ({"type": "float", "low": 1, "high": 9, "step": 2, "log": True}, "a log scale has no step"),
        ({"type": "power_of_two", "low": 1, "high": 3}, "high=3 is no power of two; the nearest are 2 and 4"),
        ({"type": "power_of_two", "low": 0, "high": 4}, "low=0 is no power of two; the nearest are 1 and 2"),
        ({"type": "power_of_two", "low": -4, "high": 4}, "low=-4 is no power of two; the nearest are 1 and 2"),
        ({"type": "power_of_two", "low": 1, "high": 96}, "the nearest are 64 and 128"),
        ({"type": "categorical", "choices": ["a", "b", "a"]}, "'a' stands there twice; remove one"),
        ({"type": "ordinal", "choices": [2, 2]}, "2 stands there twice; remove one"),
        ({"type": "categorical", "choices": [1, True]}, "True is the same as 1; remove one"),
        ({"type": "categorical", "choices": [1, 1.0]}, r"1\.0 is the same as 1; remove one"),
        ({"type": "float", "low": 0, "high": float("inf")}, "finite"),
        ({"type": "float", "low": float("nan"), "high": 1}, "finite"),
    ],
    ids=name_of,
)
def test_refuses_what_cannot_be(entry: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        parameter(entry)
