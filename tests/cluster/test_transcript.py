"""The double answers as a real API server did: a recording of one, replayed."""

from __future__ import annotations

import http.client
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.cluster.api_server import ApiServer
from tests.conformance.backend import eventually

RECORDING = Path(__file__).resolve().parents[3] / "shared" / "kube" / "transcript.real.jsonl"
WIDGETS = "/apis/kt.example.com/v1/namespaces/default/widgets"
KNOWN_DIFFERENCES = {
    "pod-spec-change": "the message ends with a diff of Go structs, which the double does not print",
}
"""Steps whose body differs, with the reason. Their statuses are right."""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not RECORDING.exists(), reason="needs the recording beside the project")]


def steps() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RECORDING.read_text().splitlines()]


class Replay:
    """Sends the recorded requests and brings the answers into the form of the recording."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._uids: set[str] = set()

    def answer(self, step: dict[str, Any]) -> tuple[int, str | None, Any]:
        """Status, content type and body."""
        body = step["request"]
        if step["name"] == "PUT-CURRENT":
            body = json.loads(self._send("GET", step["path"], None, None)[2])
            del body["metadata"]["managedFields"]
            body["spec"]["model"] = "m9"
        content = None if body is None else body if isinstance(body, str) else json.dumps(body)
        status, media, text = self._send(step["method"], step["path"], step["content_type"], content)
        is_watch = media == "application/json" and "watch=true" in step["path"] and status == 200
        if media != "application/json":
            return status, media, text
        found: Any = [json.loads(line) for line in text.splitlines()] if is_watch else json.loads(text)
        if step["name"].startswith("crd"):
            found = {"status": status} | {name: found.get(name) for name in ("kind", "reason", "message")}
        return status, media, self._normal(found)

    def _send(self, method: str, path: str, media: str | None, body: str | None) -> tuple[int, str | None, str]:
        headers = {"Accept": "application/json", "Authorization": f"Bearer {self._server.token}"}
        if media == "NOAUTH":
            del headers["Authorization"]
        elif media == "BADAUTH":
            headers["Authorization"] = "Bearer wrong"
        elif media:
            headers["Content-Type"] = media
        connection = http.client.HTTPConnection(urlsplit(self._server.url).netloc, timeout=30)
        try:
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            return reply.status, reply.getheader("Content-Type"), reply.read().decode()
        finally:
            connection.close()

    def _normal(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._normal(element) for element in value]
        if not isinstance(value, dict):
            return self._normal_text(value) if isinstance(value, str) else value
        told = {name: self._normal(element) for name, element in value.items() if name != "managedFields"}
        replaced = {
            "resourceVersion": "<rv>",
            "uid": "<uid>",
            "creationTimestamp": "<ts>",
            "deletionTimestamp": "<ts>",
            "continue": "<continue>",
        }
        self._uids |= {element for name, element in value.items() if name == "uid"}
        return {name: replaced.get(name, element) for name, element in told.items()}

    def _normal_text(self, text: str) -> str:
        for uid in self._uids:
            text = text.replace(uid, "<uid>")
        text = re.sub(r"\bg-[a-z0-9]{5}\b", "g-<rnd>", text)
        return re.sub(r"(too old resource version: \d+) \(\d+\)", r"\1 (<rv>)", text)


@pytest.fixture(scope="module")
def differences() -> dict[str, str]:
    """What differs, by the name of the step: `status`, `type` or `body`."""
    found = {}
    with ApiServer() as server:
        replay = Replay(server)
        for step in steps():
            status, media, body = replay.answer(step)
            if status != step["status"]:
                found[step["name"]] = "status"
            elif media != step["response_type"]:
                found[step["name"]] = "type"
            elif body != step["response"]:
                found[step["name"]] = "body"
            if step["name"] == "crd-create-again":
                eventually(lambda: replay.answer({"name": "", "method": "GET", "path": WIDGETS} | _NOTHING)[0] == 200, "the definition")
    return found


_NOTHING = {"content_type": None, "request": None}


def test_every_status_and_type_is_the_real_one(differences: dict[str, str]) -> None:
    assert {name: what for name, what in differences.items() if what != "body"} == {}


def test_every_body_is_the_real_one_but_for_the_known(differences: dict[str, str]) -> None:
    assert {name for name, what in differences.items() if what == "body"} == KNOWN_DIFFERENCES.keys()


def test_whole_recording_was_replayed() -> None:
    names = [step["name"] for step in steps()]
    assert len(names) == 85
    assert len(set(names)) == 85
    assert KNOWN_DIFFERENCES.keys() <= set(names)
