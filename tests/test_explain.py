"""What pydantic says, in one line; `tests/test_settings.py` has the whole list of what a configuration can have wrong."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tuner.explain import SHOWN, nearest, one_line, show


class Cat(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: Literal["dog"]
    tricks: tuple[str, ...] = ()


class House(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    animal: Annotated[Cat | Dog, Field(discriminator="name")]
    rooms: tuple[Annotated[int, Field(ge=1, le=9)], ...] = ()
    street: Annotated[str, Field(pattern="^[A-Z]")] = "Street"

    @field_validator("street")
    @classmethod
    def _not_there(cls, street: str) -> str:
        if street == "Nowhere":
            raise ValueError("Nowhere is no street")
        return street


def complaint(value: Any, **options: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        House.model_validate(value)
    return one_line(caught.value, House, **options)


CAT = {"name": "cat"}


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ({"animal": CAT, "stret": 1}, "stret: unknown key (did you mean street?); known here: animal, rooms, street"),
        ({"animal": CAT | {"live": 1}}, "animal.live: unknown key (did you mean lives?); known here: lives, name"),
        ({"animal": CAT | {"tricks": ()}}, "animal.tricks: unknown key; known here: lives, name"),
        ({}, "animal: missing; it needs a value"),
        ({"animal": {}}, "animal.name: missing; it needs a value"),
        ({"animal": {"name": "cow"}}, "animal.name: 'cow' is not allowed; use one of cat, dog"),
        ({"animal": {"name": "cats"}}, "animal.name: 'cats' is not allowed; use one of cat, dog (did you mean cat?)"),
        ({"animal": CAT | {"lives": "many"}}, "animal.lives: 'many' is no whole number"),
        ({"animal": CAT, "rooms": (1, 12)}, "rooms.1: 12 must be at most 9"),
        ({"animal": CAT, "rooms": (0,)}, "rooms.0: 0 must be at least 1"),
        ({"animal": CAT, "street": "Nowhere"}, "street: Nowhere is no street"),
        # a type of error that is not in our own list
        ({"animal": CAT, "street": "abc"}, "street: 'abc' should match pattern '^[A-Z]'"),
        (3, "3 is no mapping of keys to values"),
    ],
)
def test_key_value_and_what_is_allowed(value: Any, line: str) -> None:
    assert complaint(value) == line


def test_prefix_stands_before_the_key() -> None:
    assert complaint({"animal": CAT, "rooms": (0,)}, prefix="here") == "here.rooms.0: 0 must be at least 1"
    assert complaint({"animal": CAT, "street": "Nowhere"}, prefix="here").startswith("here.street: ")


def test_also_widens_what_may_have_been_meant() -> None:
    assert "did you mean garden?" in complaint({"animal": CAT, "gardn": 1}, also=["garden"])


def test_unknown_key_is_told_before_what_is_missing() -> None:
    assert complaint({"anmal": CAT}).startswith("anmal: unknown key (did you mean animal?)")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "null"), (True, "true"), (False, "false"), (1, "1"), ("a", "'a'"), ((), "[]"), ((1, 2), "[1, 2]"), ("a\n  b", r"'a\n b'")],
)
def test_values_are_shown_as_they_were_written(value: Any, shown: str) -> None:
    assert show(value) == shown


def test_long_values_are_shortened() -> None:
    assert len(show("x" * 1000)) == SHOWN
    assert show("x" * 1000).endswith("...")


def test_nearest() -> None:
    assert nearest("levls", ["levels", "scenario"]) == " (did you mean levels?)"
    assert nearest("something", ["levels", "scenario"]) == ""
    assert nearest("x", []) == ""
