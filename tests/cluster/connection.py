"""JSON over HTTP to a Kubernetes API server, for the played controllers: small, and apart from the client that is tested."""

from __future__ import annotations

import http.client
import json
import random
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

Object = dict[str, Any]

_CORE = "/api/v1"
_OME = "/apis/ome.io/v1beta1"
_GROUPS = {
    "deployments": "/apis/apps/v1",
    "replicasets": "/apis/apps/v1",
    "jobs": "/apis/batch/v1",
    "customresourcedefinitions": "/apis/apiextensions.k8s.io/v1",
    "inferenceservices": _OME,
    "basemodels": _OME,
    "clusterbasemodels": _OME,
    "servingruntimes": _OME,
    "clusterservingruntimes": _OME,
}
_TIMEOUT_S = 10.0


class Refused(Exception):
    """The API server answered with an error; `status` is HTTP's, `reason` and `message` are the Status object's."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


def path_of(plural: str, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
    """The path of a collection, an object or a subresource."""
    parts = [_GROUPS.get(plural, _CORE)]
    if namespace is not None:
        parts.append(f"namespaces/{quote(namespace)}")
    parts.append(plural)
    parts.extend(quote(part) for part in (name, subresource) if part is not None)
    return "/".join(parts)


def plural_of(kind: str) -> str:
    """The plural of one of the kinds used here."""
    return kind.lower() + "s"


class Connection:
    """The API server at `url`; `authority` is a file with its certificate authority where it speaks TLS. Safe to share between threads."""

    def __init__(self, url: str, token: str, authority: str | None = None) -> None:
        self._address = urlsplit(url)
        self._headers = {"Accept": "application/json", "Authorization": f"Bearer {token}"}
        self._tls = ssl.create_default_context(cafile=authority) if self._address.scheme == "https" else None

    def request(self, method: str, path: str, body: object = None, *, kind: str = "application/json", **query: object) -> Object:
        """One call; `query` with Python's names (`label_selector` becomes `labelSelector`).

        Raises:
            Refused: the server answered with an error.
            OSError: it did not answer.
        """
        connection = self._connect(_TIMEOUT_S)
        try:
            content = None if body is None else json.dumps(body).encode()
            headers = self._headers if body is None else {**self._headers, "Content-Type": kind}
            connection.request(method, _with_query(path, query), content, headers)
            reply = connection.getresponse()
            text = reply.read()
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()
        answer = _decode(text)
        if reply.status >= 300:
            raise Refused(reply.status, str(answer.get("reason", "")), str(answer.get("message", text.decode(errors="replace"))))
        return answer

    def get(self, plural: str, namespace: str | None, name: str) -> Object:
        return self.request("GET", path_of(plural, namespace, name))

    def find(self, plural: str, namespace: str | None, name: str) -> Object | None:
        """The object, or None where there is none."""
        try:
            return self.get(plural, namespace, name)
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def objects(self, plural: str, namespace: str | None = None, **query: object) -> list[Object]:
        """The objects, each with its kind, which lists leave out."""
        return self.objects_at(plural, namespace, **query)[0]

    def objects_at(self, plural: str, namespace: str | None = None, **query: object) -> tuple[list[Object], str]:
        """The objects, and the resourceVersion from which to watch."""
        answer = self.request("GET", path_of(plural, namespace), **query)
        kind = answer["kind"].removesuffix("List")
        items = [{**item, "kind": kind, "apiVersion": answer["apiVersion"]} for item in answer["items"]]
        return items, answer["metadata"]["resourceVersion"]

    def create(self, manifest: Mapping[str, Any]) -> Object:
        metadata = manifest["metadata"]
        return self.request("POST", path_of(plural_of(manifest["kind"]), metadata.get("namespace")), manifest)

    def add(self, manifest: Mapping[str, Any]) -> Object:
        """Creates an object with its status, which a create alone leaves out."""
        created = self.create(manifest)
        if "status" not in manifest:
            return created
        return self.merge(created, {"status": manifest["status"]}, "status")

    def merge(self, target: Mapping[str, Any], patch: Object, subresource: str | None = None) -> Object:
        """A JSON merge patch."""
        return self.request("PATCH", _path_to(target, subresource), patch, kind="application/merge-patch+json")

    def change(self, target: Mapping[str, Any], alter: Callable[[Object], None], subresource: str | None = None) -> Object:
        """Reads the object, alters it and writes it back, again until nobody else wrote meanwhile. Writes nothing where nothing changed.

        Raises:
            Refused: with status 404 too where the name now belongs to another object.
        """
        while True:
            current = self.request("GET", _path_to(target))
            if current["metadata"]["uid"] != target["metadata"]["uid"]:
                raise Refused(404, "NotFound", "the object is gone; another has its name")
            altered = json.loads(json.dumps(current))
            alter(altered)
            if altered == current:
                return current
            try:
                return self.request("PUT", _path_to(target, subresource), altered)
            except Refused as error:
                if error.status != 409:
                    raise
                time.sleep(random.uniform(0.001, 0.01))

    def delete(self, target: Mapping[str, Any], *, grace_s: int | None = None, policy: str = "Background") -> None:
        """Deletes this very object; one that is gone already is none of our business."""
        options: Object = {"preconditions": {"uid": target["metadata"]["uid"]}, "propagationPolicy": policy}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        try:
            self.request("DELETE", _path_to(target), options)
        except Refused as error:
            if error.status not in (404, 409):
                raise

    def watch(self, plural: str, version: str, opened: Callable[[socket.socket], None]) -> Iterator[Object]:
        """Events of all namespaces after `version`, until the server ends the stream. `opened` gets the socket, to break the wait by.

        Raises:
            Refused: the watch was not accepted.
            OSError: the stream broke.
        """
        connection = self._connect(None)
        try:
            connection.connect()
            opened(connection.sock)
            query = {"watch": "true", "resource_version": version, "allow_watch_bookmarks": "true"}
            connection.request("GET", _with_query(path_of(plural), query), headers=self._headers)
            reply = connection.getresponse()
            if reply.status != 200:
                raise Refused(reply.status, "", reply.read().decode(errors="replace"))
            while line := reply.readline():
                yield json.loads(line)
        except (http.client.HTTPException, ValueError) as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()

    def _connect(self, timeout_s: float | None) -> http.client.HTTPConnection:
        host, port = self._address.hostname or "", self._address.port
        if self._tls is not None:
            return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=self._tls)
        return http.client.HTTPConnection(host, port, timeout=timeout_s)


def _path_to(target: Mapping[str, Any], subresource: str | None = None) -> str:
    metadata = target["metadata"]
    return path_of(plural_of(target["kind"]), metadata.get("namespace"), metadata["name"], subresource)


def _with_query(path: str, query: Mapping[str, object]) -> str:
    words = {name.split("_")[0] + "".join(part.title() for part in name.split("_")[1:]): value for name, value in query.items()}
    return f"{path}?{urlencode(words)}" if words else path


def _decode(text: bytes) -> Object:
    try:
        answer = json.loads(text)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
