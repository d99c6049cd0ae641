"""A double of `sglang.launch_server`, which needs a GPU: takes the flags of a launch, refuses as SGLang does, and serves by llama.cpp.

Run as `sglang_double.py MODEL_FILE --model-path ... --mem-fraction-static ...`. Below a fraction of 0.6 it ends with the text of SGLang
0.5.23 for weights that leave no room (arg_groups/memory_hook.py).
"""

from __future__ import annotations

import argparse
import os
import sys


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("model_file")
    for flag in ("--model-path", "--served-model-name", "--host", "--port"):
        parser.add_argument(flag, required=True)
    parser.add_argument("--mem-fraction-static", type=float, default=0.85)
    parser.add_argument("--tp-size", type=int, default=1)
    parser.add_argument("--max-running-requests", type=int, default=4)
    parser.add_argument("--chunked-prefill-size", type=int, default=2048)
    flags = parser.parse_args()
    if flags.mem_fraction_static < 0.6:
        sys.exit(
            f"RuntimeError: Loaded weights leave no GPU memory for the KV cache under --mem-fraction-static={flags.mem_fraction_static}. "
            "Raise --mem-fraction-static above 0.6 (minimum viable = 1 - available/pre = 0.6)"
        )
    server = [sys.executable, "-m", "tuner.engines.llamacpp_server", "--model", flags.model_file, "--alias", flags.served_model_name]
    server += ["--host", flags.host, "--port", flags.port, "--parallel", str(min(flags.max_running_requests, 8))]
    os.execv(sys.executable, server)


if __name__ == "__main__":
    main()
