from __future__ import annotations

import pytest

from tests.benchmark.paced_server import PacedServer
from tuner.benchmark.base import ServerUnusable
from tuner.benchmark.warmup import error_text, warm_up
from tuner.errors import Systemic


def words(body: dict[str, list[dict[str, str]]]) -> int:
    return len(body["messages"][0]["content"].split())


def test_sends_one_and_then_the_others() -> None:
    with PacedServer(count=lambda text: len(text.split())) as server:
        warm_up(server.endpoint, "D(100,5)", 4, 2, 10)
    probe, *others = server.bodies
    assert words(probe) < 100
    assert [words(body) for body in others] == [100] * 4
    assert {body["max_tokens"] for body in others} == {5}
    assert all(body["model"] == "fake" and body["ignore_eos"] for body in server.bodies)
    assert len({body["messages"][0]["content"] for body in server.bodies}) == 5


def test_never_asks_for_more_than_the_scenario() -> None:
    def count(text: str) -> int:
        return 3 * len(text.split()) + 10

    with PacedServer(count=count) as server:
        warm_up(server.endpoint, "D(600,2)", 1, 1, 10)
    tokens = count(server.bodies[1]["messages"][0]["content"])
    assert 500 < tokens <= 610


def test_a_dataset_has_lengths_of_its_own() -> None:
    with PacedServer() as server:
        warm_up(server.endpoint, "dataset", 1, 1, 30)
    assert words(server.bodies[1]) > 100


def test_the_probe_is_enough() -> None:
    with PacedServer() as server:
        warm_up(server.endpoint, "D(100,5)", 0, 1, 10)
    assert len(server.bodies) == 1


def test_an_over_long_prompt_is_a_rejection() -> None:
    behave = lambda number: "too long" if number else "ok"  # noqa: E731
    with PacedServer(behave) as server, pytest.raises(ServerUnusable) as caught:
        warm_up(server.endpoint, "D(100,5)", 3, 2, 10)
    assert caught.value.rejected
    assert caught.value.reason == ("warm-up request failed: HTTP 400: the request exceeds the context size (exceed_context_size_error)")


def test_running_out_of_context_is_a_rejection_too() -> None:
    with PacedServer(lambda _: "overflow") as server, pytest.raises(ServerUnusable, match="Context size") as caught:
        warm_up(server.endpoint, "D(100,5)", 1, 1, 10)
    assert caught.value.rejected


def test_the_probe_stays_below_a_short_scenario() -> None:
    with PacedServer() as server:
        warm_up(server.endpoint, "D(10,1)", 0, 1, 10)
    assert words(server.bodies[0]) == 5
    assert server.bodies[0]["max_tokens"] == 1


def test_a_server_error_is_no_rejection() -> None:
    with PacedServer(lambda _: "500") as server, pytest.raises(ServerUnusable, match="HTTP 500: out of luck") as caught:
        warm_up(server.endpoint, "D(100,5)", 3, 2, 10)
    assert not caught.value.rejected
    assert len(server.bodies) == 1


def test_some_failures_are_left_to_the_measurement() -> None:
    with PacedServer(lambda number: "429" if number % 2 else "ok") as server:
        warm_up(server.endpoint, "D(100,5)", 4, 4, 10)


def test_a_refused_key_is_systemic_and_stays_secret() -> None:
    with PacedServer(lambda _: "401") as server, pytest.raises(Systemic, match="API key"):
        warm_up(server.endpoint, "D(100,5)", 1, 1, 10, "sk-secret")
    assert server.authorizations == ["Bearer sk-secret"]
    with PacedServer(lambda _: "echo") as server, pytest.raises(ServerUnusable, match="rejected Bearer <secret>"):
        warm_up(server.endpoint, "D(100,5)", 1, 1, 10, "sk-secret")


def test_each_request_has_a_deadline() -> None:
    with PacedServer(lambda _: "hang") as server, pytest.raises(ServerUnusable, match=r"no complete answer within 0\.2 s"):
        warm_up(server.endpoint, "D(100,5)", 1, 1, 0.2)
    with PacedServer() as server, pytest.raises(ServerUnusable, match="no complete answer"):
        warm_up(server.endpoint, "D(100,5000)", 1, 1, 0.5)


def test_a_server_that_is_gone() -> None:
    with PacedServer() as server:
        endpoint = server.endpoint
    with pytest.raises(ServerUnusable, match="ConnectError"):
        warm_up(endpoint, "D(100,5)", 1, 1, 5)


def test_a_stream_that_breaks_off() -> None:
    with PacedServer(lambda _: "cut") as server, pytest.raises(ServerUnusable, match="warm-up request failed"):
        warm_up(server.endpoint, "D(100,5)", 1, 1, 5)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"error": {"message": "too\\nlong", "type": "bad"}}', "too long (bad)"),
        ('{"object": "error", "message": "no such model"}', "no such model"),
        ('{"detail": "Not Found"}', '{"detail": "Not Found"}'),
        ("<html>\n gone</html>", "<html> gone</html>"),
        ("[1]", "[1]"),
        ('{"error": "plain"}', '{"error": "plain"}'),
    ],
)
def test_reads_error_bodies(body: str, text: str) -> None:
    assert error_text(body) == text
