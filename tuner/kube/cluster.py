"""One cluster, through the transport and the credentials of the official client: objects as plain JSON, patience for a busy server.

The generated model classes are left aside: they refuse answers in which a field is missing, and a merge patch or a manifest is plain JSON
in any case.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import urllib3
from kubernetes.client import ApiClient
from kubernetes.client.exceptions import OpenApiException
from kubernetes.config import ConfigException

from tuner.kube.errors import ApiError
from tuner.kube.resources import Object, Resource, inside

CONNECT_S = 2.0
ANSWER_S = 20.0
PATIENCE_S = 30.0
"""Seconds for which a request is repeated that the server could not take for the moment."""

WATCH_S = 300
"""Seconds after which the server ends a watch."""
SILENCE_S = 90.0
"""A watch gets a bookmark each minute; one without any sign for so long has lost its connection."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
_CHUNK = 1 << 16

_MERGE_PATCH = "application/merge-patch+json"
_JSON = "application/json"

Query = Sequence[tuple[str, str]]


class Cluster:
    """The API of one cluster. Threads may share it.

    Args:
        client: The official client, set up to reach the cluster.
        namespace: Where namespaced objects are meant to be.
        title: What to call the cluster in messages: `context minikube (https://192.168.49.2:8443)`.
    """

    def __init__(self, client: ApiClient, namespace: str, title: str) -> None:
        self.client = client
        self.namespace = namespace
        self.title = title

    def get(self, resource: Resource, name: str, patience_s: float = PATIENCE_S) -> dict[str, Any] | None:
        """The object of that name; None where there is none.

        Raises:
            ApiError: all but a missing object.
        """
        try:
            return self._ask("GET", resource.path(self.namespace, name), patience_s=patience_s)
        except ApiError as error:
            if error.status == 404 and error.found_api:
                return None
            raise

    def list(
        self, resource: Resource, labels: str = "", fields: str = "", patience_s: float = PATIENCE_S, everywhere: bool = False
    ) -> tuple[list[dict[str, Any]], str]:
        """The objects that both selectors match, and the version of the collection from which a watch goes on.

        Args:
            resource: Their kind.
            labels: Label selector.
            fields: Field selector.
            patience_s: See `PATIENCE_S`.
            everywhere: In all namespaces.

        Raises:
            ApiError: there is no answer.
        """
        path = _of_all_namespaces(resource) if everywhere else resource.path(self.namespace)
        answer = self._ask("GET", path, _selectors(labels, fields), patience_s=patience_s)
        version = str(inside(answer, "metadata", "resourceVersion") or "")
        if not version:  # from something before the server: not to be taken for a cluster without objects
            raise ApiError(0, "NotAList", f"the answer is not a list of {resource.plural}")
        return answer.get("items") or [], version

    def create(self, resource: Resource, body: Object, dry_run: bool = False) -> dict[str, Any]:
        """Creates an object, once: after an error of which `away` is true it may exist nevertheless.

        Raises:
            ApiError: the server refused, failed, or did not answer.
        """
        # without the second word the server drops what it does not know, as a misspelled key of a patch
        query = [("dryRun", "All"), ("fieldValidation", "Strict")] if dry_run else []
        return self._ask("POST", resource.path(self.namespace), query, body, patience_s=0.0)

    def patch(self, resource: Resource, name: str, body: Object, patience_s: float = 0.0) -> None:
        """Changes an object by a JSON merge patch (RFC 7386): lists are replaced, None deletes.

        Raises:
            ApiError: the server refused, failed, or did not answer.
        """
        self._ask("PATCH", resource.path(self.namespace, name), (), body, _MERGE_PATCH, patience_s)

    def delete(self, resource: Resource, name: str, uid: str = "", propagation: str = "Foreground", patience_s: float = PATIENCE_S) -> None:
        """Asks for an object's end; finalizers and its own grace period delay it. One that is gone already is fine.

        Args:
            resource: Its kind.
            name: Its name.
            uid: Deletes only the object with this uid; empty takes whichever has the name.
            propagation: `Foreground` deletes what it owns first.
            patience_s: See `PATIENCE_S`.

        Raises:
            ApiError: the server refused, failed, or did not answer.
        """
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            self._ask("DELETE", resource.path(self.namespace, name), (), options, patience_s=patience_s)
        except ApiError as error:
            if error.status != 404 and not (error.status == 409 and uid):  # 409: another object has taken the name
                raise

    def ask(self, path: str, patience_s: float = 0.0) -> dict[str, Any]:
        """The answer to a GET of any other path: `/version`, `/apis/ome.io/v1beta1`.

        Raises:
            ApiError: there is none.
        """
        return self._ask("GET", path, patience_s=patience_s)

    def watch(self, resource: Resource, version: str, labels: str = "", fields: str = "") -> Stream:
        """The changes since `version`, as lines of JSON: `{"type": ..., "object": ...}`.

        Raises:
            ApiError: the server refused or did not answer.
        """
        query = [
            *_selectors(labels, fields),
            ("watch", "true"),
            ("resourceVersion", version),
            ("timeoutSeconds", str(WATCH_S)),
            ("allowWatchBookmarks", "true"),
        ]
        return Stream(self._open("GET", resource.path(self.namespace), query, timeout=(CONNECT_S, SILENCE_S)))

    def log(
        self,
        pod: str,
        container: str,
        *,
        follow: bool = False,
        previous: bool = False,
        since: str = "",
        lines: int = 0,
        silence_s: float | None = None,
    ) -> Stream:
        """A container's output.

        Args:
            pod: Name of the pod.
            container: Name of the container; empty takes the only one.
            follow: Goes on as the container writes, each line after the time at which it was written.
            previous: That of the container before the last restart.
            since: RFC 3339 time, to the second, before which nothing is wanted.
            lines: Only so many last lines; 0 takes all.
            silence_s: Seconds without output after which `follow` has lost its connection; None where a container may be silent for ever.

        Raises:
            ApiError: the server refused or did not answer, as long as the container has not started too.
        """
        options = {
            "container": container,
            "follow": "true" if follow else "",
            "timestamps": "true" if follow else "",
            "previous": "true" if previous else "",
            "sinceTime": since,
            "tailLines": str(lines) if lines else "",
        }
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log"
        query = [(name, value) for name, value in options.items() if value]
        return Stream(self._open("GET", path, query, timeout=(CONNECT_S, silence_s if follow else ANSWER_S), accept="*/*"))

    def _ask(
        self,
        method: str,
        path: str,
        query: Query = (),
        body: Object | None = None,
        content_type: str = _JSON,
        patience_s: float = PATIENCE_S,
    ) -> dict[str, Any]:
        deadline = time.monotonic() + patience_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                response = self._open(method, path, query, body, content_type)
                try:
                    answer = json.loads(response.data or b"{}")
                except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                    raise ApiError.no_answer(error) from error
                return answer if isinstance(answer, dict) else {}
            except ApiError as error:
                wait_s = error.retry_after_s or pause_s * random.uniform(0.5, 1.5)
                if not error.passing or time.monotonic() + wait_s > deadline:
                    raise
            time.sleep(wait_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _open(
        self,
        method: str,
        path: str,
        query: Query = (),
        body: Object | None = None,
        content_type: str = _JSON,
        timeout: tuple[float, float | None] | None = None,
        accept: str = _JSON,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": accept, "Content-Type": content_type}
        try:
            request = self.client.param_serialize(
                method, path, query_params=list(query), header_params=headers, body=body, auth_settings=["BearerToken"]
            )
            response = self.client.call_api(*request, _request_timeout=timeout or (CONNECT_S, ANSWER_S)).response
            if 200 <= response.status <= 299:
                return response  # type: ignore[no-any-return]
            text = response.data
        except (urllib3.exceptions.HTTPError, OSError, OpenApiException) as error:
            raise ApiError.no_answer(error) from error
        except ValueError:  # nothing of it may be quoted: it quotes the credentials
            raise ApiError(401, "Unauthorized", "they hold a character that no request may have") from None
        except ConfigException as error:  # the kubeconfig's command for credentials fails
            raise ApiError(401, "Unauthorized", str(error)) from error
        raise ApiError.answered(response.status, text, response.headers)


class Stream:
    """An answer that comes line by line. A context manager; `close` from another thread ends the iteration.

    Args:
        response: The answer, its body not yet read.
    """

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response

    def __iter__(self) -> Iterator[str]:
        """Yields whole lines without their ends, and what stands after the last one.

        Raises:
            ApiError: the connection broke.
        """
        rest = b""
        try:
            for chunk in self._response.stream(_CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line.decode(errors="replace")
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:  # the last two where `close` came in between
            raise ApiError.no_answer(error) from error
        if rest:
            yield rest.decode(errors="replace")

    def close(self) -> None:
        """Breaks the connection."""
        # closing alone leaves a reader in another thread waiting; the errors are those of a connection that has ended
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            self._response.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        with contextlib.suppress(Exception):
            self._response.close()


def _selectors(labels: str, fields: str) -> list[tuple[str, str]]:
    return [(name, value) for name, value in (("labelSelector", labels), ("fieldSelector", fields)) if value]


def _of_all_namespaces(resource: Resource) -> str:
    root = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
    return f"{root}/{resource.plural}"


def labelled(labels: Mapping[str, str]) -> str:
    """The selector for all of these labels."""
    return ",".join(f"{name}={value}" for name, value in labels.items())
