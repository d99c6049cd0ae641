"""Creating, changing and listing objects as a Kubernetes API server does it, for the double of it; deletion is in `deletion.py`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import yaml

from tests.cluster import apply, core_checks, core_defaults, metadata, patches
from tests.cluster.bodies import check_kind, read_patch, unsupported
from tests.cluster.core_kinds import Kind, built_in, defined_by
from tests.cluster.core_schema import decoded, missing, zeroed
from tests.cluster.schema import prune, validate, with_defaults
from tests.cluster.selectors import Matcher
from tests.cluster.statuses import ApiError, Cause, already_exists, conflict, error, invalid, not_found, status
from tests.cluster.store import KindKey, Store, Thing

DEFINITIONS = ("apiextensions.k8s.io", "customresourcedefinitions")
_FIRST_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
_MERGE, _JSON, _STRATEGIC, _APPLY = (
    "application/merge-patch+json",
    "application/json-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
)
_GO_MAP = "map[string]interface {}"


@dataclass(frozen=True, slots=True)
class Options:
    """How a write is meant.

    Attributes:
        dry_run: Answer as if, store nothing.
        strict: Refuse unknown fields instead of dropping them.
        manager: Who owns the written fields.
        force: Take over fields of others in a server-side apply.
        subresource: `status`, or empty.
        keeps_status: Keep the status of a new object, which a request cannot.
    """

    dry_run: bool = False
    strict: bool = False
    manager: str = "unknown"
    force: bool = False
    subresource: str = ""
    keeps_status: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list. `token` asks for the rest, of which there are `remaining`, None where that is not counted."""

    items: list[Thing]
    version: int
    token: str = ""
    remaining: int | None = None


class Operations:
    """The kinds and their objects.

    Attributes:
        kinds: By group, version and plural.
    """

    def __init__(self) -> None:
        self.store = Store()
        self.kinds = {(kind.group, kind.version, kind.plural): kind for kind in built_in()}
        self._pages: dict[str, list[Thing]] = {}
        for name in _FIRST_NAMESPACES:
            self.create(self.kinds["", "v1", "namespaces"], None, {"metadata": {"name": name}}, Options())

    def kind_of(self, thing: Thing) -> Kind:
        """The kind of a manifest; LookupError where it is not known."""
        for kind in self.kinds.values():
            if (kind.api_version, kind.kind) == (thing.get("apiVersion"), thing.get("kind")):
                return kind
        raise LookupError(f"no kind {thing.get('apiVersion')}/{thing.get('kind')}: install its CustomResourceDefinition first")

    def get(self, kind: Kind, namespace: str | None, name: str) -> Thing:
        thing = self.store.get(key(kind), namespace, name)
        if thing is None:
            raise not_found(kind.plural, kind.group, name)
        return thing

    def page(self, kind: Kind, namespace: str | None, matcher: Matcher, counted: bool, limit: int, token: str) -> Page:
        """A list, or a part of at most `limit` objects of it. The parts of one list show it as it was at the first."""
        with self.store.lock:
            version, _, number = token.partition("/")
            if token and (number not in self._pages or int(version) < self.store.oldest):
                told = "The provided continue parameter is too old to display a consistent list result. You must start a new list."
                raise error(410, told)
            items = self._pages[number] if token else [t for t in self.store.all(key(kind), namespace) if matcher(t)]
            shown = int(version) if token else self.store.version
            if not limit or len(items) <= limit:
                return Page(items, shown)
            number = str(len(self._pages) + 1)
            self._pages[number] = items[limit:]
            return Page(items[:limit], shown, f"{shown}/{number}", len(items) - limit if counted else None)

    def create(self, kind: Kind, namespace: str | None, body: Thing, options: Options) -> Thing:
        """Stores a new object. 400, 404, 409 and 422 as the server words them."""
        asked = body.get("metadata", {}).get("namespace")
        if asked and asked != (namespace or ""):
            raise error(400, "the namespace of the provided object does not match the namespace sent on the request")
        if body.get("metadata", {}).get("resourceVersion"):
            raise error(400, "resourceVersion should not be set on objects to be created")
        thing = self._typed(kind, {"apiVersion": kind.api_version, "kind": kind.kind} | body, options)
        with self.store.lock:
            self._check_namespace(kind, namespace, thing["metadata"].get("name", ""))
            thing["metadata"] = metadata.fresh(kind, thing["metadata"], namespace)
            given = thing.pop("status", None) if kind.has_status and kind.kind != "Node" else None
            if not kind.custom:
                core_defaults.fill(kind.kind, thing)
            if options.keeps_status and given:
                thing["status"] = given
            self._check_new(kind, thing)
            self._admit(kind, namespace, thing)
            old = self.store.get(key(kind), namespace, thing["metadata"]["name"])
            if old is not None:
                raise already_exists(kind.plural, kind.group, old["metadata"]["name"], "deletionTimestamp" in old["metadata"])
            self._own(kind, None, thing, options)
            return self._commit(kind, thing, options)

    def _typed(self, kind: Kind, body: Thing, options: Options) -> Thing:
        """A copy with clean metadata, types checked, unknown fields dropped or refused, and the schema's defaults."""
        # A definition is a megabyte; nothing below its top is written to.
        thing = dict(body) if kind.schema is None else copy.deepcopy(body)
        thing["metadata"], unknown = metadata.cleaned(kind, thing.get("metadata") or {})
        if kind.schema is None:
            return thing
        if kind.custom:
            unknown += prune(thing, kind.schema)
            thing = with_defaults(thing, kind.schema)
        else:
            thing = decoded(thing, kind.schema, kind.version, kind.kind)
            unknown += prune(thing, kind.schema)
        if unknown and options.strict:
            told = ", ".join(f'unknown field "{field}"' for field in unknown)
            raise error(400, f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: strict decoding error: {told}')
        return thing

    def _check_namespace(self, kind: Kind, namespace: str | None, name: str) -> None:
        if not kind.namespaced:
            return
        home = self.store.get(("", "namespaces"), None, namespace or "")
        if home is None:
            raise not_found("namespaces", "", namespace or "")
        if "deletionTimestamp" in home["metadata"]:
            told = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise _refused(kind, name, told)

    def _check_new(self, kind: Kind, thing: Thing) -> None:
        causes = metadata.check(kind, thing["metadata"]) + self._check(kind, thing)
        if not kind.custom:
            causes += core_checks.check(kind.kind, thing)
        if causes:
            raise invalid(kind.kind, kind.group, thing["metadata"].get("name", ""), list(dict.fromkeys(causes)))

    def _check(self, kind: Kind, thing: Thing) -> list[Cause]:
        if kind.schema is None:
            return []
        if kind.custom:
            return validate(thing, kind.schema)
        # What a status lacks is zero; a specification is incomplete.
        return missing({name: value for name, value in thing.items() if name != "status"}, kind.schema)

    def _admit(self, kind: Kind, namespace: str | None, thing: Thing) -> None:
        """The admission of ResourceQuotas, which counts pods and what they request of extended resources."""
        if kind.kind != "Pod":
            return
        pods = self.store.all(key(kind), namespace)
        for quota in self.store.all(("", "resourcequotas"), namespace):
            if reason := core_checks.quota_exceeded(pods, thing, quota):
                raise _refused(kind, thing["metadata"]["name"], reason)

    def _own(self, kind: Kind, old: Thing | None, new: Thing, options: Options) -> None:
        # A definition is a megabyte, and nobody shares one.
        if key(kind) != DEFINITIONS:
            apply.updated(old, new, options.manager, options.subresource)

    def _commit(self, kind: Kind, thing: Thing, options: Options) -> Thing:
        if not kind.custom and "status" in thing and kind.schema is not None:
            thing["status"] = zeroed(thing["status"], kind.schema["properties"]["status"])
        if options.dry_run:
            return thing
        stored = self.store.put(key(kind), thing)
        if key(kind) == DEFINITIONS:
            self.kinds |= {(made.group, made.version, made.plural): made for made in defined_by(stored)}
        return stored

    def replace(self, kind: Kind, namespace: str | None, name: str, body: Thing, options: Options) -> tuple[Thing, bool]:
        """Puts an object in the place of another. Returns it, and whether it is new."""
        asked = body["metadata"].get("name", "")
        if asked != name:
            raise error(400, f"the name of the object ({asked}) does not match the name on the URL ({name})")
        with self.store.lock:
            if kind.created_by_put and self.store.get(key(kind), namespace, name) is None:
                return self.create(kind, namespace, body, options), True
            old = self.get(kind, namespace, name)
            if not body["metadata"].get("resourceVersion") and (kind.custom or kind.kind == "Lease"):
                cause = Cause("FieldValueInvalid", "Invalid value: 0: must be specified for an update", "metadata.resourceVersion")
                raise invalid(kind.plural, kind.group, name, [cause])
            return self._change(kind, old, body, options), False

    def patch(self, kind: Kind, namespace: str | None, name: str, raw: bytes, content_type: str, options: Options) -> tuple[Thing, bool]:
        """Changes an object by any kind of patch. Returns it, and whether it is new, as after an apply it may be."""
        media = content_type.split(";")[0].strip()
        accepted = [_JSON, _MERGE, _APPLY] if kind.custom else [_JSON, _MERGE, _STRATEGIC, _APPLY]
        if media not in accepted:
            raise unsupported(", ".join(accepted))
        with self.store.lock:
            if media == _APPLY:
                return self._apply(kind, namespace, name, raw, options)
            old = self.get(kind, namespace, name)
            return self._change(kind, old, _patched(old, raw, media), options), False

    def _apply(self, kind: Kind, namespace: str | None, name: str, raw: bytes, options: Options) -> tuple[Thing, bool]:
        if options.manager == "":
            cause = Cause("FieldValueRequired", "Required value: is required for apply patch", "fieldManager")
            raise invalid("PatchOptions", "meta.k8s.io", "", [cause])
        body = yaml.safe_load(raw)
        check_kind(body, kind, raw.decode(errors="replace"))
        typed = self._typed(kind, {"metadata": {"name": name}} | body, replace(options, strict=True)) if not kind.custom else body
        live = self.store.get(key(kind), namespace, name)
        # Defaults belong to nobody: only what was sent is owned.
        result = apply.applied(live, typed, options.manager, options.force)
        owned = result["metadata"].get("managedFields")
        if live is None:
            result["metadata"].pop("managedFields", None)
            thing = self.create(kind, namespace, result, replace(options, dry_run=True))
        else:
            thing = self._changed(kind, live, result, options)
        thing["metadata"]["managedFields"] = owned
        if live is not None and thing == live:
            return live, False
        return self._commit(kind, thing, options), live is None

    def _change(self, kind: Kind, old: Thing, asked: Thing, options: Options) -> Thing:
        new = self._changed(kind, old, asked, options)
        if new == old:
            return old
        self._own(kind, old, new, options)
        if "deletionTimestamp" in new["metadata"] and not new["metadata"].get("finalizers") and _may_go(kind, new):
            if not options.dry_run:
                self.store.remove(key(kind), new)
            return new
        return self._commit(kind, new, options)

    def _changed(self, kind: Kind, old: Thing, asked: Thing, options: Options) -> Thing:
        """What `old` becomes; equal to it where nothing changes."""
        name = old["metadata"]["name"]
        self._check_change(kind, old, asked)
        typed = self._typed(kind, asked, options)
        if options.subresource == "status":
            new = old | ({"status": typed["status"]} if "status" in typed else {})
            if "status" not in typed:
                new.pop("status", None)
        else:
            new = typed
            new["metadata"] = metadata.kept(old["metadata"], typed["metadata"])
            if kind.has_status:
                new.pop("status", None)
                new |= {"status": old["status"]} if "status" in old else {}
        causes = metadata.check_finalizers(kind, old["metadata"], new["metadata"])
        causes += metadata.check(kind, new["metadata"]) + self._check(kind, new)
        if not kind.custom and options.subresource != "status":
            causes += core_checks.check_change(kind.kind, old, new)
        if causes:
            raise invalid(kind.kind, kind.group, name, causes)
        before = {field: value for field, value in old["metadata"].items() if field not in ("managedFields", "resourceVersion")}
        new["metadata"] = {field: value for field, value in new["metadata"].items() if field not in ("managedFields", "resourceVersion")}
        if _essence(new) != _essence(old) and kind.counts_generations:
            new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
        if new["metadata"] == before and _rest(new) == _rest(old):
            return old
        for field in ("managedFields", "resourceVersion"):
            if field in old["metadata"]:
                new["metadata"][field] = old["metadata"][field]
        return new

    def _check_change(self, kind: Kind, old: Thing, asked: Thing) -> None:
        name, wanted = old["metadata"]["name"], asked.get("metadata") or {}
        if wanted.get("name", name) != name:
            raise error(400, f"the name of the object ({wanted['name']}) does not match the name on the URL ({name})")
        if wanted.get("namespace", old["metadata"].get("namespace")) != old["metadata"].get("namespace"):
            raise error(400, "the namespace of the provided object does not match the namespace sent on the request")
        uid = wanted.get("uid") or old["metadata"]["uid"]
        if uid != old["metadata"]["uid"]:
            told = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {old['metadata']['uid']}"
            raise conflict(kind.plural, kind.group, name, told)
        version = wanted.get("resourceVersion") or old["metadata"]["resourceVersion"]
        if version != old["metadata"]["resourceVersion"]:
            raise conflict(kind.plural, kind.group, name)

    def edit(self, kind: Kind, thing: Thing, change: Callable[[Thing], None]) -> Thing:
        """Changes an object as the server itself does, without any check. Hold the lock meanwhile."""
        new = copy.deepcopy(thing)
        change(new)
        return self.store.put(key(kind), new)


def key(kind: Kind) -> KindKey:
    return kind.group, kind.plural


def _may_go(kind: Kind, thing: Thing) -> bool:
    """Whether a terminating object without finalizers is gone: a pod on a node waits for its kubelet, a namespace for its contents."""
    if kind.kind == "Namespace":
        return False
    return not thing["metadata"].get("deletionGracePeriodSeconds")


def _rest(thing: Thing) -> Thing:
    return {name: value for name, value in thing.items() if name != "metadata"}


def _essence(thing: Thing) -> Thing:
    return {name: value for name, value in thing.items() if name not in ("metadata", "status")}


def _patched(old: Thing, raw: bytes, media: str) -> Thing:
    if media == _JSON:
        return dict(patches.json_patch(old, read_patch(raw, list, "jsonpatch.Patch")))
    patch = read_patch(raw, dict, _GO_MAP)
    return dict(patches.strategic_merge(old, patch) if media == _STRATEGIC else patches.merge(old, patch))


def _refused(kind: Kind, name: str, why: str) -> ApiError:
    resource = f"{kind.plural}.{kind.group}" if kind.group else kind.plural
    return ApiError(403, status(403, f'{resource} "{name}" is forbidden: {why}', details={"name": name, "kind": kind.plural}))
