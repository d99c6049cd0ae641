"""Part of the doubles of SGLang and vLLM: a command line parser made of an engine's flag table, as strict and as lax as the real one."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

HUMAN_READABLE = frozenset({"max_model_len", "max_num_batched_tokens", "max_num_scheduled_tokens", "kv_cache_memory_bytes"})
"""Flags of vLLM that take `8k` for 8000 and `8K` for 8192 (vllm/engine/arg_utils.py)."""


def read_table(stem: str) -> dict[str, Any]:
    """The flags of `<stem>.json`: in the folder STANDIN_FLAGS, or else in the installed package."""
    folder = os.environ.get("STANDIN_FLAGS")
    table = Path(folder) if folder else files("tuner.engines") / "flags"
    flags: dict[str, Any] = json.loads((table / f"{stem}.json").read_text())["flags"]
    return flags


def add_flags(parser: argparse.ArgumentParser, table: Mapping[str, Any], required: Sequence[str] = ()) -> None:
    """Registers every flag of the table; those not given are None."""
    for name, flag in table.items():
        words = [flag["flag"], *flag["aliases"]]
        if flag["switch"]:
            parser.add_argument(*words, dest=name, action="store_true", default=None, help=flag["deprecated"] or None)
            if flag["off"]:
                parser.add_argument(*flag["off"], dest=name, action="store_false", default=None)
            continue
        kind: Callable[[str], Any] = {"int": int, "float": float, "str": str}[flag["type"]]
        if name in HUMAN_READABLE:
            kind = human_readable_int
        parser.add_argument(*words, dest=name, type=kind, nargs=flag["nargs"], choices=flag["choices"], required=name in required)


def human_readable_int(value: str) -> int:
    """`8k` is 8000 and `8K` 8192; `auto` and `-1` let the engine find it."""
    if value in ("-1", "auto"):
        return -1
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgG])", value.strip())
    if not found:
        return int(value)
    power = "kmg".index(found[2].lower()) + 1
    return int(float(found[1]) * (1000 if found[2].islower() else 1024) ** power)


class FlexibleParser(argparse.ArgumentParser):
    """As `FlexibleArgumentParser` of vllm/utils/argparse_utils.py: `_` for `-`, `-O3`, and `--json.key value` for JSON."""

    def parse_args(self, args: Sequence[str], namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        words: list[str] = []
        nested: dict[str, dict[str, Any]] = {}
        rest = iter(args)
        for word in rest:
            name, equals, value = word.partition("=")
            if re.fullmatch(r"-O=?\d", word):
                words += ["--optimization-level", word[-1]]
            elif not word.startswith("--"):
                words.append(word)
            elif "." in name:
                flag, *keys = name.split(".")
                node = nested.setdefault(flag.replace("_", "-"), {})
                for key in keys[:-1]:
                    node = node.setdefault(key, {})
                node[keys[-1]] = _json(value if equals else next(rest))
            else:
                words.append(name.replace("_", "-") + equals + value)
        for flag, content in nested.items():
            words += [flag, json.dumps(content)]
        parsed, unknown = self.parse_known_args(words, namespace)
        if unknown:
            self.refuse_unknown(unknown)
        return parsed

    def refuse_unknown(self, words: Sequence[str]) -> NoReturn:
        # `vllm serve` is a sub-command: it is the parser above it that finds words left over.
        self._print_message("usage: vllm [-h] [-v] {chat,complete,serve,launch,bench,collect-env,run-batch} ...\n", sys.stderr)
        self.exit(2, f"vllm: error: unrecognized arguments: {' '.join(words)}\n")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
