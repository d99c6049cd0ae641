"""What all sections of the settings share: frozen, strict, without unknown keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY", re.IGNORECASE)
"""Names of variables whose values are secret."""


class Section(BaseModel):
    """A group of keys of the configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)


def as_tuple(value: Any) -> Any:
    """A list of the configuration as the tuple that a frozen section holds."""
    return tuple(value) if isinstance(value, list) else value


def as_mapping(value: Any) -> Any:
    """An empty key of the configuration as an empty mapping."""
    return {} if value is None else value


Text = Annotated[str, Field(min_length=1)]
Args = Annotated[Mapping[str, StrictBool | StrictInt | StrictFloat | StrictStr], BeforeValidator(as_mapping)]
