"""A llama.cpp server with llama-server's flags, run inside this process by xllamacpp: `python -m tuner.engines.llamacpp_server --help`.

xllamacpp ships the whole C++ server but no executable. One process is one server: it prints one JSON line `{"ready": url, ...}` on standard
output once it answers, and serves until SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuner.engines.llamacpp_flags import BY_PARAMETER, FLAGS, check
from tuner.errors import Infeasible
from tuner.launch import Value

GGUF_MAGIC = b"GGUF"
CONTEXT_STEP = 256
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

REPORT = "tuner"
"""The key of `/props` -> `ui_settings` under which the server tells the values it runs with."""


def main(words: Sequence[str] | None = None) -> int:
    options = _options(words)
    if problem := _problem(options):
        print(f"error: {problem}", file=sys.stderr)  # noqa: T201
        return 1
    # An idle OpenMP thread spins by default and takes the core that the load generator needs. Read once, when the library is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # The threads of the server inherit the mask; so the signals wait for `sigwait` below.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        import xllamacpp
    except ImportError as error:
        print(f"error: xllamacpp is missing ({error}): pip install 'tuner[llamacpp]'", file=sys.stderr)  # noqa: T201
        return 1
    began = time.monotonic()
    try:
        server = xllamacpp.Server(_common_params(xllamacpp, options))
    except RuntimeError:
        print("error: llama.cpp could not start the server; the lines above say why", file=sys.stderr)  # noqa: T201
        return 1
    ready = {"ready": server.listening_address, "startup_s": round(time.monotonic() - began, 3)}
    print(json.dumps(ready), flush=True)  # noqa: T201
    signal.sigwait(STOP_SIGNALS)
    # Not by the server's destructor: it waits for every request in progress, and for ever for a main loop that has not begun yet.
    flush_log(xllamacpp)
    os._exit(0)


def flush_log(xllamacpp: Any) -> None:
    """Waits until llama.cpp has written what it logged: a thread of its own writes, and may be behind."""
    library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    log = library._Z15common_log_mainv  # common_log_main(), see llama.cpp's common/log.h
    log.restype = ctypes.c_void_p
    library._Z16common_log_flushP10common_log(ctypes.c_void_p(log()))


def _options(words: Sequence[str] | None) -> dict[str, Any]:
    parser = _parser()
    options = vars(parser.parse_args(words))
    given = {flag.parameter: options[flag.parameter] for flag in FLAGS if options[flag.parameter] is not None}
    try:
        for name, value in given.items():
            BY_PARAMETER[name].words(value)
        check(given)
    except Infeasible as error:
        parser.error(f"argument {error.reason}")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tuner.engines.llamacpp_server",
        description="The llama.cpp server of the xllamacpp package, with llama-server's flag names.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        # A unique prefix that works today may be ambiguous tomorrow.
        allow_abbrev=False,
    )
    parser.add_argument("-m", "--model", type=Path, required=True, help="GGUF file")
    parser.add_argument("-a", "--alias", default=None, help="model name on the API; None: the path")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on; 0: any free one")
    parser.add_argument("--metrics", action="store_true", help="serve Prometheus metrics on /metrics")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what llama.cpp makes of the values, and every request in detail")
    for flag in FLAGS:
        if flag.switch:
            parser.add_argument(
                *flag.flags, dest=flag.parameter, action=argparse.BooleanOptionalAction, default=flag.default, help=flag.help
            )
        elif flag.choices:
            parser.add_argument(*flag.flags, dest=flag.parameter, choices=flag.choices, default=flag.default, help=flag.help)
        else:
            parser.add_argument(*flag.flags, dest=flag.parameter, type=int, metavar="N", default=flag.default, help=flag.help)
    return parser


def _problem(options: dict[str, Any]) -> str | None:
    """What llama.cpp would only report as `Failed to init server, please check the input params`."""
    model: Path = options["model"]
    try:
        with model.open("rb") as file:
            if file.read(len(GGUF_MAGIC)) != GGUF_MAGIC:
                return f"model {model}: not a GGUF file"
    except OSError as error:
        return f"model {model}: {error.strerror}"
    address = (options["host"], options["port"])
    try:
        family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as probe:
            # As the server does: a connection of the previous server that is still in TIME_WAIT is no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return f"cannot listen on {address[0]}:{address[1]}: {error.strerror}"
    return None


def _common_params(xllamacpp: Any, options: dict[str, Any]) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(options["model"])
    if options["alias"]:
        params.model_alias = {options["alias"]}
    params.hostnames = [options["host"]]
    params.port = options["port"]
    params.endpoint_metrics = options["metrics"]
    if options["verbose"]:
        params.verbosity = 4
    for name in ("n_parallel", "n_ctx", "n_batch", "n_ubatch", "cont_batching", "kv_unified", "cache_prompt"):
        setattr(params, name, options[name])
    params.cpuparams.n_threads = options["n_threads"]
    params.cpuparams_batch.n_threads = options["n_threads_batch"] or options["n_threads"]
    params.flash_attn_type = {"on": 1, "off": 0, "auto": -1}[options["flash_attn"]]
    for name in ("cache_type_k", "cache_type_v"):
        setattr(params, name, xllamacpp.ggml_type.__members__[f"GGML_TYPE_{options[name].upper()}"])
    # A prompt that left its slot would stay in host memory (8 GiB by default) and come back from there, and nothing can empty that.
    params.cache_ram_mib = 0
    # Without a path the server refuses every action on slots, erasing too. Nothing can be saved below a device.
    params.slot_save_path = os.devnull + os.sep
    params.ui_config_json = json.dumps({REPORT: used_values(options)})
    return params


def used_values(options: dict[str, Any]) -> dict[str, Value]:
    """The values that llama.cpp makes of the requested ones.

    It tells most of them nowhere but in its log, so the rules are repeated here, and a test compares them with the log. Source: the
    constructor of `llama_context` in llama.cpp's src/llama-context.cpp.
    """
    context = _padded(options["n_ctx"])
    if not options["kv_unified"]:
        context = _padded(context // options["n_parallel"]) * options["n_parallel"]
    batch = min(options["n_batch"], options["n_ctx"])
    return {
        **{flag.parameter: options[flag.parameter] for flag in FLAGS},
        "n_ctx": context,
        "n_batch": batch,
        "n_ubatch": min(options["n_ubatch"], batch),
        "n_threads_batch": options["n_threads_batch"] or options["n_threads"],
    }


def _padded(tokens: int) -> int:
    return -(-tokens // CONTEXT_STEP) * CONTEXT_STEP


if __name__ == "__main__":
    sys.exit(main())
