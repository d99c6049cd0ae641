"""The plain `genai-bench benchmark` command as reference for the warm driver: slower by 11 to 15 s a level, but nobody else's run loop.

What it cannot give: completion times (so rates keep genai-bench's own duration and are a little low, see `measure`), limits in seconds (its
own are whole minutes, and it looks at the number of requests once a second, so it overshoots), progress, and its own CPU share. A hung
server is noticed by the outer deadline only.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

from tuner.benchmark.base import Load, ServerUnusable
from tuner.benchmark.client import Client
from tuner.benchmark.results import Level, Request
from tuner.errors import Systemic
from tuner.launch import Endpoint

OVERHEAD_S = 40.0
"""Seconds allowed beyond the level's own limit: import, spreadsheet and plots took 11 to 15 s on two busy cores."""
POLL_S = 0.1
LOG_BYTES = 1_000_000
"""Size at which the log is cut: empty completions alone make genai-bench print 18 MB a minute."""
USAGE_ERROR = 2
MESSAGES = 20


def run_level(client: Client, endpoint: Endpoint, load: Load, folder: Path, server_alive: Callable[[], bool]) -> Level:
    """Runs one level by the command line and returns what it showed.

    Leaves genai-bench's own results in `folder/cli-<concurrency>` and its output in `folder/cli-<concurrency>.log`.

    Raises:
        ServerUnusable: there is no result because the server hung or ended.
        Systemic: genai-bench cannot work with these settings.
    """
    results = folder / f"cli-{load.concurrency}"
    log = folder / f"cli-{load.concurrency}.log"
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir()
    (results / "genai_bench.log").symlink_to(os.devnull)  # what it would hold is on stdout too, where it can be cut and redacted
    if client.api_key:
        # genai-bench writes the key into this file. Without the file it ends without spreadsheet and plots, but with its results.
        (results / "experiment_metadata.json").symlink_to(os.devnull)
    minutes = ceil(load.max_time_s / 60)
    deadline_s = load.max_time_s + OVERHEAD_S
    started = time.monotonic()
    with _process(_argv(client, endpoint, load, results, minutes), client, log) as process:
        while process.poll() is None:
            if not server_alive():
                raise ServerUnusable("the server ended during the load level")
            if time.monotonic() - started >= deadline_s:
                raise ServerUnusable(f"no result of genai-bench within {deadline_s:g} s: the server hangs, or the level is too long")
            time.sleep(POLL_S)
    _redact(results, client)
    level = read_level(results, load.concurrency)
    if level is not None:
        return level
    if process.returncode != USAGE_ERROR and time.monotonic() - started >= 60 * minutes:
        raise ServerUnusable(f"no request finished within {60 * minutes} s")
    tail = log.read_text(encoding="utf-8").strip().splitlines()[-20:]
    raise Systemic(f"genai-bench cannot work with its settings: {tail[-1] if tail else 'no output'}", "\n".join(tail))


def read_level(results: Path, concurrency: int) -> Level | None:
    """Reads the level of one concurrency from a results folder of genai-bench, or None where it left none.

    Raises:
        Systemic: genai-bench could not sum up a level in which requests did end well.
    """
    for path in results.glob(f"*_num_concurrency_{concurrency}_time_*s.json"):
        return _level(json.loads(path.read_text(encoding="utf-8")), "requests")
    for path in results.glob(f"debug_for_run_*_{concurrency}.json"):
        level = _level(json.loads(path.read_text(encoding="utf-8")), "errors")
        if level.requests:
            raise Systemic("genai-bench's command line cannot sum up such short outputs: use its warm driver (mode: driver)")
        return level
    return None


def _level(data: dict[str, Any], stop: str) -> Level:
    aggregated, individual = data["aggregated_metrics"], data["individual_request_metrics"]
    return Level(
        stop=stop,
        duration_s=aggregated["run_duration"],
        requests=[Request.from_genai_bench(metrics) for metrics in individual if metrics["error_code"] is None],
        # The file's own error_rate is always 0 and num_error_requests is 0 when all fail; only these counts are right.
        errors=aggregated["error_codes_frequency"],
        messages=[metrics["error_message"] for metrics in individual if metrics["error_code"] is not None][:MESSAGES],
    )


def _argv(client: Client, endpoint: Endpoint, load: Load, results: Path, minutes: int) -> list[str]:
    program = Path(sys.executable).with_name("genai-bench")
    argv = [str(program)] if program.exists() else [sys.executable, "-m", "genai_bench.cli.cli"]
    # The order matters: genai-bench checks the key and the task against the backend before them.
    argv += ["benchmark", "--api-backend", "vllm", "--api-base", endpoint.url, "--api-key", "unused"]
    argv += ["--api-model-name", endpoint.model, "--model-tokenizer", client.tokenizer, "--task", "text-to-text"]
    argv += ["--traffic-scenario", load.scenario, "--num-concurrency", str(load.concurrency)]
    argv += ["--max-time-per-run", str(minutes), "--max-requests-per-run", str(load.requests)]
    argv += ["--experiment-base-dir", str(results.parent), "--experiment-folder-name", results.name, "--log-dir", str(results)]
    if client.dataset:
        argv += ["--dataset-path", client.dataset]
    if client.prompt_column:
        argv += ["--dataset-prompt-column", client.prompt_column]
    if client.request_params:
        argv += ["--additional-request-params", json.dumps(dict(client.request_params))]
    return argv


@contextmanager
def _process(argv: list[str], client: Client, log: Path) -> Iterator[subprocess.Popen[str]]:
    """Runs genai-bench in a process group of its own, which outlives neither the block nor this process."""
    environment = client.environment() | ({"MODEL_API_KEY": client.api_key} if client.api_key else {})
    process = subprocess.Popen(
        [sys.executable, "-m", "tuner.benchmark.tether", *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    copier = threading.Thread(target=_copy_log, args=(process, client, log), daemon=True)
    copier.start()
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert process.stdin is not None
        process.stdin.close()
        copier.join(timeout=1.0)


def _copy_log(process: subprocess.Popen[str], client: Client, log: Path) -> None:
    assert process.stdout is not None
    room = LOG_BYTES
    with process.stdout, log.open("w", encoding="utf-8") as file:
        for line in process.stdout:
            if room > 0:
                file.write(client.redact(line))
                room -= len(line)


def _redact(results: Path, client: Client) -> None:
    """A server may echo the key in its error texts, which stand in the results."""
    for path in results.glob("*.json"):
        if not path.is_symlink():
            path.write_text(client.redact(path.read_text(encoding="utf-8")), encoding="utf-8")
