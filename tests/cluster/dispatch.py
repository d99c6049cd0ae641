"""From a request to its answer: who asks, for which resource, and what is done with it; for the double of an API server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from tests.cluster import deletion, pods
from tests.cluster.bodies import read_object, read_options
from tests.cluster.core_kinds import Kind
from tests.cluster.discovery import describe
from tests.cluster.messages import Answer, NodeHooks, PortForward, Stream
from tests.cluster.operations import Operations, Options, Page
from tests.cluster.selectors import field_matcher, label_matcher
from tests.cluster.statuses import error, forbidden, page_not_found
from tests.cluster.store import Thing
from tests.cluster.watching import watch

Permissions: TypeAlias = Callable[[str, str, str, str], bool]
USER = "tuner"
ADMIN = "system:admin"
ANONYMOUS = "system:anonymous"
_PUBLIC = ("version", "healthz", "livez", "readyz")
_REVIEWS = ("authorization.k8s.io", "v1", "selfsubjectaccessreviews")


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it came in. `queries` has all values of each name, `query` the last ones."""

    method: str
    path: str
    queries: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes

    @property
    def query(self) -> dict[str, str]:
        return {name: values[-1] for name, values in self.queries.items()}


@dataclass(frozen=True, slots=True)
class Target:
    """What an address names; an empty name means all, an empty namespace all of them or none."""

    group: str
    version: str
    plural: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def resource(self) -> str:
        return f"{self.plural}/{self.subresource}" if self.subresource else self.plural


def target(parts: list[str]) -> Target | None:
    """The resource that the parts of a path name; None for paths such as /version."""
    if parts[:2] == ["api", "v1"]:
        group, version, rest = "", "v1", parts[2:]
    elif parts[:1] == ["apis"] and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    if not rest:
        return None
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    plural, name, subresource = (*rest, "", "")[:3]
    return Target(group, version, plural, namespace, name, subresource)


class Api:
    """Answers requests.

    Attributes:
        node: Where logs and port-forwards go.
        permissions: What the user may do, by verb, group, resource with subresource, and namespace; None allows all.
    """

    def __init__(self, token: str, admin_token: str) -> None:
        self.operations = Operations()
        self.node: NodeHooks | None = None
        self.permissions: Permissions | None = None
        self._bearers = {f"Bearer {token}": USER, f"Bearer {admin_token}": ADMIN}

    def answer(self, call: Call) -> Answer | Stream | PortForward:
        """What is to be answered; raises `ApiError` for what is refused."""
        user = self._user(call)
        parts = [part for part in call.path.split("/") if part]
        named = target(parts)
        if named is None:
            if user == ANONYMOUS and parts[:1] not in [[name] for name in _PUBLIC]:
                text = f'forbidden: User "{user}" cannot get path "{call.path}"'
                raise error(403, text, details={})
            return Answer(200, describe(parts, self.operations.kinds.values()))
        kind = self.operations.kinds.get((named.group, named.version, named.plural))
        self._authorize(user, call, named)
        if (named.group, named.version, named.plural) == _REVIEWS:
            return self._review(call, user)
        if kind is None or (named.subresource and named.subresource not in kind.subresources):
            raise page_not_found()
        return self._routed(call, named, kind)

    def _user(self, call: Call) -> str:
        given = call.headers.get("authorization")
        if given is None:
            return ANONYMOUS
        if given not in self._bearers:
            raise error(401, "Unauthorized")
        return self._bearers[given]

    def _authorize(self, user: str, call: Call, named: Target) -> None:
        verb = _verb(call, named)
        if user == ADMIN:
            return
        # Every user that is known may ask what it may do.
        # A namespace counts as in itself: a Role in it may allow to read it.
        namespace = named.namespace or (named.name if named.plural == "namespaces" else "")
        if user == USER and (named.plural == _REVIEWS[2] or self._allowed(verb, named.group, named.resource, namespace)):
            return
        raise forbidden(user, verb, named.group, named.resource, namespace, named.name, not namespace)

    def _allowed(self, verb: str, group: str, resource: str, namespace: str) -> bool:
        return self.permissions is None or self.permissions(verb, group, resource, namespace)

    def _review(self, call: Call, user: str) -> Answer:
        """Whether the user may do something, as the permissions say."""
        if call.method != "POST":
            raise _not_allowed()
        kind = Kind("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False)
        review = read_object(call.body, call.headers.get("content-type", ""), kind)
        asked = review.get("spec", {}).get("resourceAttributes") or {}
        resource = "/".join(part for part in (asked.get("resource", ""), asked.get("subresource", "")) if part)
        allowed = user == ADMIN or self._allowed(asked.get("verb", ""), asked.get("group", ""), resource, asked.get("namespace", ""))
        told: dict[str, Any] = {"allowed": allowed} if allowed else {"allowed": False, "reason": "the double's permissions say no"}
        return Answer(201, review | {"status": told})

    def _routed(self, call: Call, named: Target, kind: Kind) -> Answer | Stream | PortForward:
        if named.subresource and named.subresource not in ("status", "finalize"):
            return self._part_of_pod(call, named, kind)
        everywhere = kind.namespaced and not named.namespace
        if not named.name and call.method == "GET":
            return self._list(call, named, kind)
        if everywhere or (named.subresource and call.method not in ("GET", "PUT", "PATCH")):
            raise _not_allowed()
        namespace = named.namespace or None
        match call.method:
            case "GET":
                return Answer(200, self.operations.get(kind, namespace, named.name))
            # A custom resource is created even by its own address.
            case "POST" if not named.name or kind.custom:
                body = read_object(call.body, call.headers.get("content-type", ""), kind)
                return Answer(201, self.operations.create(kind, namespace, body, _options(call, named)))
            case "PUT" if named.name:
                body = read_object(call.body, call.headers.get("content-type", ""), kind)
                thing, new = self.operations.replace(kind, namespace, named.name, body, _options(call, named))
                return Answer(201 if new else 200, thing)
            case "PATCH" if named.name:
                media = call.headers.get("content-type", "")
                thing, new = self.operations.patch(kind, namespace, named.name, call.body, media, _options(call, named))
                return Answer(201 if new else 200, thing)
            case "DELETE":
                return self._delete(call, named, kind)
        raise _not_allowed()

    def _list(self, call: Call, named: Target, kind: Kind) -> Answer | Stream:
        query = call.query
        labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
        by_label, by_field = label_matcher(labels), field_matcher(fields, kind.fields)
        namespace = named.namespace or None

        def matches(thing: Mapping[str, Any]) -> bool:
            return by_label(thing) and by_field(thing)

        if query.get("watch") in ("true", "1"):
            timeout_s, bookmarks = float(query.get("timeoutSeconds") or 0), query.get("allowWatchBookmarks") == "true"
            version = query.get("resourceVersion", "")
            events = watch(self.operations.store, kind, namespace, matches, version, timeout_s, bookmarks)
            return Stream(events, "application/json", is_watch=True)
        counted, limit = not labels and not fields, int(query.get("limit") or 0)
        page = self.operations.page(kind, namespace, matches, counted, limit, query.get("continue", ""))
        return Answer(200, _shown(kind, page))

    def _delete(self, call: Call, named: Target, kind: Kind) -> Answer:
        how = deletion.asked(call.query, read_options(call.body))
        namespace = named.namespace or None
        if named.name:
            return Answer(200, deletion.delete(self.operations, kind, namespace, named.name, how))
        matches = label_matcher(call.query.get("labelSelector", ""))
        by_field = field_matcher(call.query.get("fieldSelector", ""), kind.fields)
        with self.operations.store.lock:
            page = self.operations.page(kind, namespace, lambda thing: matches(thing) and by_field(thing), False, 0, "")
            for thing in page.items:
                deletion.delete(self.operations, kind, namespace, thing["metadata"]["name"], how)
        return Answer(200, _shown(kind, page))

    def _part_of_pod(self, call: Call, named: Target, kind: Kind) -> Answer | Stream | PortForward:
        pod = self.operations.get(kind, named.namespace, named.name)
        match call.method, named.subresource:
            case "GET", "log":
                return pods.read_log(pod, call.query, self.node)
            case (("GET" | "POST"), "portforward"):
                upgrade = call.headers.get("upgrade", "").lower() == "websocket"
                return pods.port_forward(pod, list(call.queries.get("ports", [])), upgrade, self.node)
            case "POST", ("binding" | "eviction"):
                work = pods.bind if named.subresource == "binding" else pods.evict
                return Answer(201, work(self.operations, kind, pod, read_options(call.body)))
        raise _not_allowed()


def _not_allowed() -> Exception:
    return error(405, "the server does not allow this method on the requested resource", details={})


def _verb(call: Call, named: Target) -> str:
    if call.method == "GET":
        if named.name:
            return "get"
        return "watch" if call.query.get("watch") in ("true", "1") else "list"
    if call.method == "DELETE":
        return "delete" if named.name else "deletecollection"
    return {"POST": "create", "PUT": "update", "PATCH": "patch"}.get(call.method, call.method.lower())


def _options(call: Call, named: Target) -> Options:
    query = call.query
    agent = call.headers.get("user-agent", "unknown").split("/")[0]
    applies = call.headers.get("content-type", "").startswith("application/apply-patch")
    return Options(
        dry_run=query.get("dryRun") == "All",
        strict=query.get("fieldValidation") == "Strict",
        # Only an apply must say who it is.
        manager=query.get("fieldManager") or ("" if applies else agent),
        force=query.get("force") == "true",
        subresource=named.subresource,
    )


def _shown(kind: Kind, page: Page) -> Thing:
    """A list. Objects of built-in kinds do not repeat in it what they are."""
    metadata: dict[str, Any] = {"resourceVersion": str(page.version)}
    if page.token or kind.custom:
        metadata["continue"] = page.token
    if page.remaining is not None:
        metadata["remainingItemCount"] = page.remaining
    typed = ("apiVersion", "kind")
    items = page.items if kind.custom else [{k: v for k, v in thing.items() if k not in typed} for thing in page.items]
    return {"apiVersion": kind.api_version, "kind": f"{kind.kind}List", "metadata": metadata, "items": items}
