"""What every way of running genai-bench shares: its settings and the environment of its process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

SECRET = "<secret>"
LOOPBACK = "127.0.0.1,localhost"


@dataclass(frozen=True, slots=True)
class Client:
    """Settings of the load generator that stay the same for a study.

    Attributes:
        tokenizer: Directory or hub id of the tokenizer that measures out the prompts.
        api_key: Key for the server, or None. Never on a command line and never in a file: see `redact`.
        dataset: File (txt, csv, json) or hub id of prompts; None for genai-bench's own text.
        prompt_column: Column of the dataset that holds the prompts.
        request_params: Further fields of the request body, for example `temperature`. genai-bench itself sets `ignore_eos`.
    """

    tokenizer: str
    api_key: str | None = field(default=None, repr=False)
    dataset: str | None = None
    prompt_column: str | None = None
    request_params: Mapping[str, object] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """The environment for a genai-bench process: no screens, no windows, no proxy before this host."""
        environment = dict(os.environ) | {"ENABLE_UI": "false", "MPLBACKEND": "Agg", "GENAI_BENCH_LOGGING_LEVEL": "WARNING"}
        for name in ("no_proxy", "NO_PROXY"):
            environment[name] = ",".join(filter(None, (os.environ.get(name), LOOPBACK)))
        if Path(self.tokenizer).is_dir():
            environment["HF_HUB_OFFLINE"] = "1"
        return environment

    def redact(self, text: str) -> str:
        """`text` without the key."""
        return text.replace(self.api_key, SECRET) if self.api_key else text


def genai_bench_version() -> str:
    """Version of the installed genai-bench, without importing it."""
    return version("genai-bench")
