"""The lines by which a load generator in a pod tells what it does: numbered and checked, for they come amid whatever else is logged.

A line is `tuner-load <number> <CRC-32> <length> <JSON>`. A log that broke off is read again, so each may come more than once, and one that
was cut or mixed with others is dropped until then. Numbers tell whether all is there.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from tuner.benchmark.base import ServerUnusable
from tuner.benchmark.measurement import Measurement
from tuner.errors import Systemic, Transient

PROTOCOL = 1
"""Version of these lines and of the request. Both sides must have the same."""

OUTCOME = "outcome.json"
"""The parcel that says how the level ended: `measurement`, or `failure`."""

CHUNK = 3000
"""Characters of a parcel in one line, which with all around it stays below 4096 bytes: what a process writes at once into a pipe is mixed
with the writing of others only above that (PIPE_BUF), and container runtimes cut lines only at 16 KiB."""

_MARK = "tuner-load"
_LINE = re.compile(rf"{_MARK} (\d+) ([0-9a-f]{{8}}) (\d+) ")


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Attributes:
        kind: `hello` (`version` of genai-bench), `progress` (`finished`), `alive`, `part` of a parcel (`name`, `index`, `data`), and last
            `end` (`parcels`: the number of parts by name).
        body: Its fields.
    """

    kind: str
    body: Mapping[str, Any]


class Speaker:
    """The side in the pod.

    Args:
        out: Where to write, usually stdout.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._number = 0
        self._parcels: dict[str, int] = {}

    def say(self, kind: str, **body: Any) -> None:
        """Writes one message."""
        text = json.dumps({"kind": kind, **body})
        self._out.write(f"{_MARK} {self._number} {_checksum(self._number, text)} {len(text)} {text}\n".encode("ascii"))
        self._out.flush()
        self._number += 1

    def send(self, name: str, content: bytes) -> None:
        """Writes a file, in as many messages as it takes."""
        data = base64.b64encode(gzip.compress(content)).decode("ascii")
        parts = [data[i : i + CHUNK] for i in range(0, len(data), CHUNK)]
        for index, part in enumerate(parts):
            self.say("part", name=name, index=index, data=part)
        self._parcels[name] = len(parts)

    def end(self) -> None:
        """Says that nothing more comes."""
        self.say("end", parcels=self._parcels)


class Transcript:
    """The near side: what has come so far, each message once."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._parts: dict[str, dict[int, str]] = {}
        self._expected: Mapping[str, int] | None = None

    def take(self, line: str) -> Message | None:
        """Takes in a line of the log; returns the message in it, None where there is none, or one that was seen before."""
        found = _LINE.search(line)
        if found is None:
            return None
        number, length = int(found[1]), int(found[3])
        text = line[found.end() : found.end() + length]
        if number in self._seen or len(text) < length or _checksum(number, text) != found[2]:
            return None
        self._seen.add(number)
        body = json.loads(text)
        message = Message(str(body.pop("kind")), body)
        if message.kind == "part":
            self._parts.setdefault(body["name"], {})[body["index"]] = body["data"]
        elif message.kind == "end":
            self._expected = body["parcels"]
        return message

    @property
    def complete(self) -> bool:
        """Whether all parcels are here, and no more to come."""
        return self._expected is not None and all(len(self._parts.get(name, ())) == count for name, count in self._expected.items())

    def parcels(self) -> dict[str, bytes]:
        """The files by name, once `complete`."""
        whole = {name: "".join(parts[index] for index in sorted(parts)) for name, parts in self._parts.items()}
        return {name: gzip.decompress(base64.b64decode(data)) for name, data in whole.items()}


def own(line: str) -> bool:
    """Whether a line of the log holds a message, whole or not; it is nothing to show to people then."""
    return f"{_MARK} " in line


def to_outcome(how: Measurement | ServerUnusable | Transient | Systemic) -> bytes:
    """How a level ended, as the content of the parcel `OUTCOME`."""
    if isinstance(how, Measurement):
        return json.dumps({"measurement": how.to_dict()}).encode()
    if isinstance(how, ServerUnusable):
        return json.dumps({"failure": "unusable", "reason": how.reason, "rejected": how.rejected}).encode()
    failure = "transient" if isinstance(how, Transient) else "systemic"
    return json.dumps({"failure": failure, "reason": how.reason, "detail": how.detail}).encode()


def of_outcome(content: bytes) -> Measurement:
    """Reads what `to_outcome` wrote.

    Raises:
        ServerUnusable: as in the pod.
        Transient: as in the pod.
        Systemic: as in the pod.
    """
    told = json.loads(content)
    match told.get("failure"):
        case None:
            return Measurement.from_dict(told["measurement"])
        case "unusable":
            raise ServerUnusable(told["reason"], told["rejected"])
        case "transient":
            raise Transient(told["reason"], told["detail"])
    raise Systemic(told["reason"], told["detail"])


def _checksum(number: int, text: str) -> str:
    return f"{zlib.crc32(f'{number} {text}'.encode()):08x}"
