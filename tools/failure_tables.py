"""Writes docs/failures.md from the tables of failure texts: `python -m tools.failure_tables > docs/failures.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from tuner.backends.docker_failures import DAEMON_TEXTS, DaemonText
from tuner.engines.failure_texts import FailureText
from tuner.engines.llamacpp import LlamaCpp
from tuner.engines.sglang import Sglang
from tuner.engines.vllm import Vllm

INTRODUCTION = """\
# What tuner makes of a failure

Written by `python -m tools.failure_tables > docs/failures.md`; do not edit.

A server that ends, or a daemon that refuses, says why somewhere. tuner looks for these texts, compared without regard to case, `…`
standing for anything, and takes the first row that is found: specific causes stand above what follows from them. The reason of a trial
quotes the line.

| failure | meaning |
|---|---|
| infeasible | the configuration's own fault: the search learns from it |
| transient | nobody's fault: the same configuration is tried once more |
| systemic | every trial would fail so: the study stops at once, and goes on with the same command after the fix |

Memory that ran out has two opposite remedies. Too little for weights and KV cache (memory `load`): **raise** the fraction, or use more
GPUs. Too little left beside them (`capture`, `run`): **lower** the fraction, the chunk or the batch. The text decides, never the exit
code, and where the text is the same at every stage (`by progress`) how far the log had come. The feasibility gate learns from it: see
[feasibility.md](feasibility.md).

Above all tables: a server that somebody else removed, restarted or killed, or that lost its Docker daemon, is transient whatever it wrote;
one that the kernel or the container runtime killed for want of main memory is infeasible. Below them: a text that no row knows is
transient, and the reason quotes the most telling line.

Files among the sources are those of the wheels of SGLang 0.5.23, vLLM 0.33.0 and xllamacpp 2026.10.11549, or of the library named.
"""


def document() -> str:
    """The whole page."""
    engines = [(f"Engine {engine.name}", engine_rows(engine.failure_texts)) for engine in (Sglang, Vllm, LlamaCpp)]
    sections = [*engines, ("Docker daemon", docker_rows(DAEMON_TEXTS))]
    return INTRODUCTION + "".join(f"\n## {title}\n\n" + "\n".join(rows) + "\n" for title, rows in sections)


def engine_rows(texts: Iterable[FailureText]) -> Iterator[str]:
    """A table of an engine's texts."""
    yield "| kind | text | failure | memory | remedy | source |"
    yield "|---|---|---|---|---|---|"
    for row in texts:
        remedy = cell(row.remedy).replace("{0}", "the figure in it") or "as the text says"
        yield f"| {row.kind} | `{cell(row.text)}` | {row.failure.__name__.lower()} | {row.memory or ''} | {remedy} | {cell(row.source)} |"


def docker_rows(texts: Iterable[DaemonText]) -> Iterator[str]:
    """A table of the daemon's texts."""
    yield "| text | failure | cause | remedy | source |"
    yield "|---|---|---|---|---|"
    for row in texts:
        kind = row.failure.__name__.lower()
        cause, remedy = (cell(text.replace("{image}", "the image")) for text in (row.cause, row.remedy))
        yield f"| `{cell(row.text)}` | {kind} | {cause or 'as the text says'} | {remedy or 'none needed'} | {cell(row.source)} |"


def cell(text: str) -> str:
    """A text inside a table."""
    return text.strip().replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(document())
