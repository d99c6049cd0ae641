"""What an API server, or something before it, answers instead of what was asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tuner.kube.errors import MAX_QUOTE, ApiError, one_line


def answered(status: int, body: dict[str, Any] | bytes, **headers: str) -> ApiError:
    content = body if isinstance(body, bytes) else json.dumps({"kind": "Status", "code": status} | body).encode()
    return ApiError.answered(status, content, {name.replace("_", "-"): value for name, value in headers.items()})


def test_status_object() -> None:
    error = answered(409, {"reason": "AlreadyExists", "message": 'widgets "a"\n already exists'})
    assert (error.status, error.reason, error.message) == (409, "AlreadyExists", 'widgets "a" already exists')
    assert str(error) == '409 AlreadyExists: widgets "a" already exists'
    assert (error.away, error.passing, error.gone, error.found_api) == (False, False, False, True)


def test_answer_without_a_reason() -> None:
    assert str(answered(404, b"")) == "404: no explanation"
    assert str(answered(502, b"Bad Gateway\n")) == "502: Bad Gateway"


def test_status_object_without_words() -> None:
    assert answered(500, {"reason": None, "message": None}).message.startswith('{"kind": "Status"')


@pytest.mark.parametrize("body", [b"404 page not found\n", b"", b"<html>", b'{"error": "no such cluster"}', b"[]", b"null", b"\xff"])
def test_404_that_says_nothing_about_an_object(body: bytes) -> None:
    error = answered(404, body)
    assert (error.status, error.found_api) == (404, False)
    assert error.message


def test_404_of_a_built_in_group_without_the_kind() -> None:
    assert not answered(404, {"reason": "NotFound", "message": "the server could not find the requested resource"}).found_api
    assert answered(404, {"reason": "NotFound", "message": 'pods "p" not found'}).found_api


def test_plain_text_of_another_status_is_no_unknown_api() -> None:
    error = answered(502, b"Bad Gateway\n")
    assert (error.message, error.found_api, error.passing) == ("Bad Gateway", True, True)


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("0", 0.0), ("", None), ("soon", None), ("-1", None), ("1.5", None)])
def test_when_to_ask_again(header: str, seconds: float | None) -> None:
    assert answered(429, {}, Retry_After=header).retry_after_s == seconds


def test_no_header_when_to_ask_again() -> None:
    assert answered(429, {}).retry_after_s is None


@pytest.mark.parametrize("status", [0, 429, 500, 502, 503, 504])
def test_passing(status: int) -> None:
    assert ApiError(status, "", "").passing


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 415, 422, 501])
def test_not_passing(status: int) -> None:
    assert not ApiError(status, "", "").passing


def test_gone() -> None:
    assert ApiError(410, "Expired", "too old resource version: 1 (7)").gone


def test_no_answer() -> None:
    error = ApiError.no_answer(ConnectionRefusedError(111, "Connection\nrefused"))
    assert (error.status, error.away, error.passing) == (0, True, True)
    assert str(error) == "no answer (ConnectionRefusedError: [Errno 111] Connection refused)"
    assert str(ApiError.no_answer(TimeoutError())) == "no answer (TimeoutError: no explanation)"


def test_one_line() -> None:
    assert one_line("  a\n\tb  ") == "a b"
    assert one_line("x" * MAX_QUOTE) == "x" * MAX_QUOTE
    assert len(one_line("x" * (MAX_QUOTE + 1))) == MAX_QUOTE
    assert one_line("x" * (MAX_QUOTE + 1)).endswith("…")
