"""Writes the table of an engine's command line flags, read in its wheel by `ast`: the engine, its CUDA and its GPU are not needed.

    pip download --no-deps sglang==0.5.23
    python -m tools.flag_tables sglang sglang-0.5.23-*.whl > tuner/engines/flags/sglang-0.5.23.json

SGLang declares a flag as an annotated field of a class in `srt/arg_groups/fields`, some more by `add_argument` in `server_args.py`.
vLLM calls `add_argument("--flag", **get_kwargs(Config)["field"])` in `engine/arg_utils.py`, and derives the rest from the field's type.
What is computed at run time and so not in the sources is null in the table and named on stderr.

The table maps a flag's name in Python to:
    flag: How it is written.
    type: `int`, `float`, `str` or `bool`, of one value. JSON and what only the engine can read are `str`.
    switch: Whether the flag takes no value.
    off: For a switch, what is written to turn it off; empty where nothing can.
    nargs: argparse's `nargs` where the flag takes a list or an optional value, null where it takes one value.
    choices: The only values allowed, or null.
    aliases: Other ways to write it.
    deprecated: What the engine says about a flag on its way out; empty for the others.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from tools.flag_tables import sglang, vllm
from tools.flag_tables.flag import Flag
from tools.flag_tables.wheel import Wheel


def write(engine: str, wheel: Wheel, source: str, flags: Mapping[str, Flag]) -> None:
    head = json.dumps({"engine": engine, "version": wheel.version, "source": f"{wheel.name}: {source}"}, indent=1)
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(asdict(flags[name]))}" for name in sorted(flags))
    sys.stdout.write(head.removesuffix("\n}") + ',\n "flags": {\n' + rows + "\n }\n}\n")


def main() -> None:
    engine, path = sys.argv[1:]
    reader = {"sglang": sglang, "vllm": vllm}[engine]
    wheel = Wheel(Path(path))
    write(engine, wheel, reader.SOURCE, reader.read(wheel))


if __name__ == "__main__":
    main()
