"""What a load generator in a pod is asked to do: one load level, as one word of its command line. No secrets: servers there have no key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from tuner.benchmark.base import Load
from tuner.benchmark.client import Client
from tuner.benchmark.job_messages import PROTOCOL


class WrongProtocol(Exception):
    """The request is that of another version of tuner."""


@dataclass(frozen=True, slots=True)
class LevelRequest:
    """One load level.

    Attributes:
        url: Address of the server as the pod sees it.
        model: Name to send with requests.
        load: The level.
        tokenizer: Hub id, or directory in the pod.
        dataset: See `Client`; a file must be in the pod.
        prompt_column: See `Client`.
        request_params: See `Client`.
    """

    url: str
    model: str
    load: Load
    tokenizer: str
    dataset: str | None
    prompt_column: str | None
    request_params: Mapping[str, object]

    @property
    def client(self) -> Client:
        """The settings of the load generator."""
        return Client(self.tokenizer, None, self.dataset, self.prompt_column, self.request_params)

    def to_str(self) -> str:
        """As one word; `parse` reads it back."""
        return json.dumps({"protocol": PROTOCOL, **asdict(self)})

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads what `to_str` wrote.

        Raises:
            WrongProtocol: another version of tuner wrote it.
        """
        fields = json.loads(text)
        if fields.pop("protocol", None) != PROTOCOL:
            raise WrongProtocol
        return cls(**fields | {"load": Load(**fields["load"])})
