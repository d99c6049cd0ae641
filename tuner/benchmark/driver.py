"""The warm load generator: a process that imports genai-bench once and runs one load level after another.

`python -m tuner.benchmark.driver` is started by `tuner.benchmark.driver_process` and imported by nobody: genai-bench patches the sockets
and threads of its process. It uses genai-bench's own users, samplers and request metrics, all private API of the pinned version, and
replaces only its run loop, which stops on a tick of a second, counts in whole minutes and does not get errors right.

It speaks JSON lines. On stdin:

- first the settings: `{"tokenizer", "api_key", "dataset", "prompt_column", "request_params"}`;
- `{"command": "level", "url", "model"}` and the fields of `Load`: runs a level;
- `{"command": "stop"}`: ends the running level; `{"command": "quit"}` or the end of stdin: ends the process, a level with it.

On stdout:

- `{"event": "ready"}` after the settings;
- `{"event": "progress", "finished"}` while a level runs, and `{"event": "level", ...}` when it has ended;
- `{"event": "refused", "reason"}` in place of `ready` or `level` when the settings or the level are impossible.
"""

from __future__ import annotations

import genai_bench  # noqa: F401  its patches must come before any other import

# isort: split
import gc
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TextIO

import gevent
from genai_bench.auth.openai.auth import OpenAIAuth
from genai_bench.auth.openai.model_auth_adapter import OpenAIModelAuthAdapter
from genai_bench.data.config import DatasetConfig
from genai_bench.data.loaders.factory import DataLoaderFactory
from genai_bench.metrics.aggregated_metrics_collector import AggregatedMetricsCollector
from genai_bench.metrics.request_metrics_collector import RequestMetricsCollector
from genai_bench.protocol import UserResponse
from genai_bench.sampling.base import Sampler
from genai_bench.scenarios.base import Scenario
from genai_bench.user.openai_user import OpenAIUser
from gevent.event import Event
from gevent.fileobject import FileObjectPosix
from gevent.queue import Queue
from locust.env import Environment
from transformers import AutoTokenizer

TASK = "text-to-text"
PROGRESS_S = 0.1
HOPELESS = 8
"""Failed requests, and one of every user, after which a level without a success is given up."""
MESSAGES = 20
INVALID = "invalid"
"""Error code of an answer with status 200 that holds no tokens or cannot be read."""


class Level:
    """Keeps count of one level, and ends it."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.concurrency: int = request["concurrency"]
        self.target: int = request["requests"]
        self.stall_s: float = request["stall_s"]
        self.max_time_s: float = request["max_time_s"]
        self.started = self.last_success = 0.0
        self.requests: list[dict[str, Any]] = []
        self.errors: Counter[str] = Counter()
        self.messages: list[str] = []
        self.unlucky: set[object] = set()
        self.stop: str | None = None
        self.ended = Event()

    @property
    def finished(self) -> int:
        return len(self.requests) + self.errors.total()

    def start(self) -> None:
        """Sets the clocks to now."""
        self.started = self.last_success = time.monotonic()

    def end(self, reason: str) -> None:
        """Ends the level; the first reason stays."""
        self.stop = self.stop or reason
        self.ended.set()

    def succeeded(self, response: UserResponse) -> None:
        if self.stop:
            return
        collector = RequestMetricsCollector()  # type: ignore[no-untyped-call]
        collector.calculate_metrics(response)
        AggregatedMetricsCollector.filter_metrics(collector.metrics)
        self.last_success = time.monotonic()
        self.requests.append(collector.metrics.model_dump() | {"finished_s": (response.end_time or time.monotonic()) - self.started})
        if len(self.requests) >= self.target:
            self.end("requests")

    def failed(self, user: object, code: str, message: str) -> None:
        if self.stop:
            return
        self.errors[code] += 1
        self.unlucky.add(user)
        if len(self.messages) < MESSAGES:
            self.messages.append(message)
        # Errors come back faster than successes: those of some users say nothing while others still wait for their first answer.
        if not self.requests and self.finished >= HOPELESS and len(self.unlucky) == self.concurrency:
            self.end("errors")

    def wait(self, progress: Callable[[int], None]) -> None:
        """Returns when the level has ended, at once on its last request."""
        told = 0
        while not self.stop:
            over_s = self.started + self.max_time_s - time.monotonic()
            stalled_s = self.last_success + self.stall_s - time.monotonic()
            if min(over_s, stalled_s) <= 0:
                self.end("time" if over_s <= stalled_s else "stall")
            self.ended.wait(max(0.0, min(PROGRESS_S, over_s, stalled_s)))
            if self.finished > told:
                told = self.finished
                progress(told)


def user_of(level: Level, url: str, auth: OpenAIModelAuthAdapter) -> type[OpenAIUser]:
    """A user class for one level only, so that no address or key of it outlives the level."""

    class LevelUser(OpenAIUser):
        host = url
        auth_provider = auth
        api_backend = "vllm"  # the dialect that sends ignore_eos; llama.cpp and SGLang honour it too

        def chat(self) -> None:
            try:
                super().chat()
            except Exception as error:  # locust would log it and go on for ever without counting it
                level.failed(self, INVALID, f"{type(error).__name__}: {error}")

        def collect_metrics(self, response: UserResponse, endpoint: str) -> None:
            if response.status_code == 200:
                level.succeeded(response)
            else:
                level.failed(self, str(response.status_code), response.error_message or "")

    LevelUser.tasks = [LevelUser.chat]  # in the class body locust would add it to those inherited
    return LevelUser


class Driver:
    """Reads requests, runs levels, writes replies."""

    def __init__(self, replies: TextIO) -> None:
        self.replies = replies
        self.inbox: Queue[dict[str, Any]] = Queue()
        self.level: Level | None = None

    def serve(self) -> None:
        gevent.spawn(self.read)
        try:
            self.prepare(self.inbox.get())
        except Exception as error:
            self.reply("refused", reason=one_line(error))
            return
        # A full garbage collection over the 3,000 modules of genai-bench would pause all users at once.
        gc.collect()
        gc.freeze()
        self.reply("ready")
        while (request := self.inbox.get())["command"] != "quit":
            if request["command"] != "level":
                continue
            try:
                self.run(request)
            except Exception as error:
                self.reply("refused", reason=one_line(error))

    def read(self) -> None:
        """Runs beside a level, so that a stop is heard, and so that the process ends with the one that feeds its stdin."""
        for line in FileObjectPosix(0, "rb"):
            message = json.loads(line)
            if message.get("command") == "stop" and self.level:
                self.level.end("stopped")
            else:
                self.inbox.put(message)
        os._exit(0)

    def prepare(self, setup: dict[str, Any]) -> None:
        self.auth = OpenAIModelAuthAdapter(OpenAIAuth(setup["api_key"] or "unused"))
        self.request_params: dict[str, Any] = setup["request_params"]
        self.tokenizer = AutoTokenizer.from_pretrained(setup["tokenizer"])
        self.dataset = DatasetConfig.from_cli_args(dataset_path=setup["dataset"], prompt_column=setup["prompt_column"])
        self.data = DataLoaderFactory.load_data_for_task(TASK, self.dataset)

    def run(self, request: dict[str, Any]) -> None:
        sampler = Sampler.create(
            task=TASK,
            tokenizer=self.tokenizer,
            model=request["model"],
            data=self.data,
            additional_request_params=dict(self.request_params),
            dataset_config=self.dataset,
        )
        scenario = Scenario.from_string(request["scenario"])
        sampler.sample(scenario)  # fails here rather than in every user
        self.level = level = Level(request)
        environment: Any = Environment(user_classes=[user_of(level, request["url"], self.auth)])
        environment.scenario, environment.sampler = scenario, sampler
        runner = environment.create_local_runner()
        cpu_s = time.process_time()
        level.start()
        try:
            runner.start(level.concurrency, spawn_rate=level.concurrency)
            level.wait(lambda finished: self.reply("progress", finished=finished))
            duration_s, cpu_s = time.monotonic() - level.started, time.process_time() - cpu_s
        finally:
            self.level = None
            runner.quit()
        self.reply(
            "level",
            stop=level.stop,
            duration_s=duration_s,
            client_cpu_s=cpu_s,
            errors=level.errors,
            messages=level.messages,
            requests=level.requests,
        )

    def reply(self, event: str, **fields: Any) -> None:
        self.replies.write(json.dumps({"event": event, **fields}) + "\n")
        self.replies.flush()


def one_line(error: Exception) -> str:
    """The error's first line, for a reply."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"


def main() -> None:
    """Serves until told to quit."""
    # Whatever a library prints must not mix with the replies: stdout is theirs, a copy of it ours.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.basicConfig(level=logging.ERROR)
    Driver(replies).serve()


if __name__ == "__main__":
    main()
