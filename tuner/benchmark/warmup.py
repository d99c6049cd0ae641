"""Requests of our own before the first load level: they warm the server up, and show for the price of one whether it can serve the traffic.

genai-bench's own `--warmup-ratio` cannot be used: it takes the warm-up's tokens out of the rates but not its time.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass
from typing import Any

import httpx

from tuner.benchmark.base import ServerUnusable
from tuner.benchmark.results import refuses
from tuner.benchmark.scenario import Scenario
from tuner.errors import Systemic
from tuner.launch import Endpoint

WORDS = ("the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not", "he", "his", "but", "at")
"""Words that nearly every tokenizer keeps whole. Drawn at random, so that no prompt cache answers for the server."""

PROBE_WORDS = 64
PROBE_OUTPUT = 2
DATASET_INPUT = 256
DATASET_OUTPUT = 64
"""Tokens of a warm-up request where a dataset, not the scenario, decides the lengths."""

TIMEOUT_S = 120.0
"""Bound on one request: the first ones compile kernels on a GPU."""

CREDENTIALS = (401, 403)


class _Failed(Exception):
    """One request failed: status (None without an answer) and one line."""

    def __init__(self, status: int | None, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def warm_up(
    endpoint: Endpoint, scenario: str, requests: int, concurrency: int, timeout_s: float = TIMEOUT_S, api_key: str | None = None
) -> None:
    """Sends requests of the scenario's mean lengths and returns when they have ended.

    The first one is short and goes alone. It tells how many tokens the server makes of a word, so that the prompts that follow come close
    to the scenario's length from below: a server that refuses one of them would refuse the real traffic too.

    Args:
        endpoint: A server that is ready.
        scenario: See `Scenario.parse`.
        requests: Number of requests after the first one.
        concurrency: Requests in flight.
        timeout_s: Seconds that each request may take.
        api_key: Key for the server.

    Raises:
        ServerUnusable: the first request failed, or all that followed; `rejected` when the server refuses such requests.
        Systemic: the server refuses the API key.
    """
    asyncio.run(_warm_up(endpoint, Scenario.parse(scenario), requests, concurrency, timeout_s, api_key))


async def _warm_up(endpoint: Endpoint, scenario: Scenario, requests: int, concurrency: int, timeout_s: float, api_key: str | None) -> None:
    # A connection for each request, as genai-bench has it: llama.cpp closes connections after streamed replies without saying so.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    local = httpx.URL(endpoint.url).host in ("127.0.0.1", "localhost")
    async with httpx.AsyncClient(timeout=None, limits=limits, headers=headers, trust_env=not local) as client:
        sender = _Sender(client, endpoint, asyncio.Semaphore(concurrency), timeout_s)
        try:
            input_tokens, output_tokens = scenario.input_tokens or DATASET_INPUT, scenario.output_tokens or DATASET_OUTPUT
            probe_words = min(PROBE_WORDS, max(1, input_tokens // 2))
            seen = await sender.send(probe_words, min(PROBE_OUTPUT, output_tokens))
            # The probe's count holds the chat template too, so this is a little below the length asked for.
            words = round(input_tokens * probe_words / max(seen or 0, probe_words))
            sends = [sender.send(words, output_tokens) for _ in range(requests)]
            failures = [outcome for outcome in await asyncio.gather(*sends, return_exceptions=True) if isinstance(outcome, BaseException)]
            if failures and len(failures) == requests:
                raise failures[0]
        except _Failed as failure:
            reason = failure.reason.replace(api_key, "<secret>") if api_key else failure.reason
            if failure.status in CREDENTIALS:
                raise Systemic(f"the server refuses the API key: {reason}") from None
            raise ServerUnusable(f"warm-up request failed: {reason}", rejected=refuses([str(failure.status)], [reason])) from None


@dataclass(frozen=True, slots=True)
class _Sender:
    client: httpx.AsyncClient
    endpoint: Endpoint
    slots: asyncio.Semaphore
    timeout_s: float

    async def send(self, words: int, output_tokens: int) -> int | None:
        """Sends one request and returns its number of prompt tokens, where the server tells it.

        Raises:
            _Failed: no good answer.
        """
        body = {
            "model": self.endpoint.model,
            "messages": [{"role": "user", "content": " ".join(random.choices(WORDS, k=max(1, words)))}],
            "max_tokens": output_tokens,
            "temperature": 0.0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        async with self.slots:
            try:
                async with asyncio.timeout(self.timeout_s):
                    return await self._stream(body)
            except TimeoutError:
                raise _Failed(None, f"no complete answer within {self.timeout_s:g} s") from None
            except httpx.HTTPError as error:
                raise _Failed(None, f"{type(error).__name__}: {error}") from None

    async def _stream(self, body: dict[str, Any]) -> int | None:
        prompt_tokens = None
        async with self.client.stream("POST", f"{self.endpoint.url}/v1/chat/completions", json=body) as response:
            if response.status_code != httpx.codes.OK:
                text = (await response.aread()).decode(errors="replace")
                raise _Failed(response.status_code, f"HTTP {response.status_code}: {error_text(text)}")
            async for line in response.aiter_lines():
                data = line.removeprefix("data:").strip()
                if not line.startswith("data:") or data == "[DONE]":
                    continue
                try:
                    chunk = json.loads(data)
                except ValueError:
                    raise _Failed(None, f"the answer is no JSON: {data[:80]}") from None
                if chunk.get("error"):
                    code = chunk["error"].get("code")
                    raise _Failed(code if isinstance(code, int) else None, error_text(data))
                prompt_tokens = (chunk.get("usage") or {}).get("prompt_tokens", prompt_tokens)
        return prompt_tokens


def error_text(body: str) -> str:
    """The message and type of an OpenAI-style error body, or the body's beginning, in one line."""
    try:
        error = json.loads(body)
        error = error.get("error", error)
        text = f"{error['message']} ({error['type']})" if "type" in error else error["message"]
    except (ValueError, KeyError, TypeError, AttributeError):
        text = body
    return " ".join(str(text).split())[:300]
