"""Plays a pod's network and environment: an address of its own on loopback, the names of cluster DNS, its container's variables."""

from __future__ import annotations

import base64
import itertools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.cluster.connection import Connection, Object

_VARIABLE = re.compile(r"\$(\$|\(([-._a-zA-Z][-._a-zA-Z0-9]*)\))")
_SERVICE = re.compile(r"(?<![\w.-])([a-z]([-a-z0-9]*[a-z0-9])?)\.([a-z0-9]([-a-z0-9]*[a-z0-9])?)\.svc(\.cluster\.local)?(?![\w.-])")
_ANYWHERE = re.compile(r"(?<![\d.])0\.0\.0\.0(?![\d.])")
_numbers = itertools.count(2)


class Unconfigured(Exception):
    """A container's environment names something that does not exist; the text is the kubelet's."""


def new_address() -> str:
    """A loopback address that no other pod of this process has, nor, most likely, one of another process."""
    number = next(_numbers)
    process = os.getpid()
    return f"127.{64 + process % 128}.{(process // 128 + number // 250) % 256}.{2 + number % 250}"


def expand(word: str, known: Mapping[str, str]) -> str:
    """`$(NAME)` becomes the variable's value, an unknown one stays, `$$` is an escaped dollar: as Kubernetes does it."""

    def fill(match: re.Match[str]) -> str:
        return "$" if match[1] == "$" else known.get(match[2], match[0])

    return _VARIABLE.sub(fill, word)


def localized(word: str, address: str, resolve: Callable[[str, str], str | None]) -> str:
    """The word as it must read on this host: all addresses become the pod's own, a Service's name the address of its pod.

    A Service that has no pod yet stays as it is, and no name server knows it, which is what a container would meet too.
    """
    named = _SERVICE.sub(lambda match: resolve(match[1], match[3]) or match[0], word)
    return _ANYWHERE.sub(address, named)


def service_address(connection: Connection, service: str, namespace: str) -> str | None:
    """The address of a pod behind a Service, a ready one if there is one; plays kube-proxy and cluster DNS."""
    found = connection.find("services", namespace, service)
    if found is None or not found["spec"].get("selector"):
        return None
    selector = ",".join(f"{key}={value}" for key, value in found["spec"]["selector"].items())
    pods = [pod for pod in connection.objects("pods", namespace, label_selector=selector) if pod.get("status", {}).get("podIP")]
    pods.sort(key=lambda pod: not any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", [])))
    return pods[0]["status"]["podIP"] if pods else None


def variables(connection: Connection, pod: Object, container: Object, address: str) -> dict[str, str]:
    """The environment of a container by its manifest, in its order, later values using earlier ones.

    Raises:
        Unconfigured: a Secret or ConfigMap, or a key of it, is missing.
    """
    namespace = pod["metadata"]["namespace"]
    known: dict[str, str] = {}
    for source in container.get("envFrom", []):
        for field, plural in (("secretRef", "secrets"), ("configMapRef", "configmaps")):
            if field in source:
                values = _values(connection, plural, namespace, source[field])
                known |= {source.get("prefix", "") + key: value for key, value in (values or {}).items()}
    for entry in container.get("env", []):
        value = _value(connection, pod, entry, address)
        if value is not None:
            known[entry["name"]] = expand(value, known) if "value" in entry else value
    return known


def _value(connection: Connection, pod: Object, entry: Object, address: str) -> str | None:
    source: Mapping[str, Any] = entry.get("valueFrom") or {}
    for field, plural in (("secretKeyRef", "secrets"), ("configMapKeyRef", "configmaps")):
        if field in source:
            return _referenced(connection, plural, pod["metadata"]["namespace"], source[field])
    if "fieldRef" in source:
        return _field(pod, source["fieldRef"]["fieldPath"], address)
    return str(entry.get("value", ""))


def _referenced(connection: Connection, plural: str, namespace: str, reference: Object) -> str | None:
    values = _values(connection, plural, namespace, reference)
    if values is not None and reference["key"] in values:
        return values[reference["key"]]
    if reference.get("optional"):
        return None
    kind = {"secrets": "Secret", "configmaps": "ConfigMap"}[plural]
    raise Unconfigured(f"couldn't find key {reference['key']} in {kind} {namespace}/{reference['name']}")


def _values(connection: Connection, plural: str, namespace: str, reference: Object) -> dict[str, str] | None:
    found = connection.find(plural, namespace, reference["name"])
    if found is None:
        if reference.get("optional"):
            return None
        raise Unconfigured(f'{plural.removesuffix("s")} "{reference["name"]}" not found')
    data = found.get("data", {})
    if plural == "configmaps":
        return dict(data)
    return {key: base64.b64decode(value).decode() for key, value in data.items()} | found.get("stringData", {})


def _field(pod: Object, path: str, address: str) -> str:
    if path == "status.podIP":
        return address
    labelled = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
    if labelled:
        return str(pod["metadata"].get(labelled[1], {}).get(labelled[2], ""))
    value: Any = pod
    for part in path.split("."):
        value = value.get(part, "") if isinstance(value, dict) else ""
    return str(value)


def command_of(container: Object, known: Mapping[str, str]) -> list[str]:
    """The command line: `command`, then `args`. An image's own entrypoint is not played: a manifest without a command runs its args."""
    return [expand(word, known) for word in (*container.get("command", ()), *container.get("args", ()))]


def image_environment(pod: Object, folder: Path) -> dict[str, str]:
    """What a container has beside its manifest: a PATH on which `python3` and its programs are those of the tests, and a place to write."""
    search = [str(Path(sys.executable).parent), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    return {
        "PATH": ":".join(search),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "HOSTNAME": pod["metadata"]["name"],
        "PYTHONUNBUFFERED": "1",
        "LANG": "C.UTF-8",
    }


def moved(stated: Mapping[str, str], pod: Object, container: Object, folder: Path) -> dict[str, str]:
    """The variables, where one that names an empty volume's place names `folder`: nothing can be mounted on this host."""
    empty = {volume["name"] for volume in pod["spec"].get("volumes", []) if "emptyDir" in volume}
    places = {mount["mountPath"] for mount in container.get("volumeMounts", []) if mount["name"] in empty}
    return {key: str(folder) if value in places else value for key, value in stated.items()}


def localize_all(words: Sequence[str], known: Mapping[str, str], address: str, connection: Connection) -> tuple[list[str], dict[str, str]]:
    """A command line and its environment, readable on this host."""

    def resolve(service: str, namespace: str) -> str | None:
        return service_address(connection, service, namespace)

    return [localized(word, address, resolve) for word in words], {key: localized(value, address, resolve) for key, value in known.items()}
