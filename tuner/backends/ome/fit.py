"""Whether a runtime serves a model, by the rules that OME itself goes by.

OME 0.1 and 1.2 admit a service whose runtime does not fit, and then say so in an event, for ever (pkg/runtimeselector/matcher.go of
v0.1.5). Only what both sides declare counts as certain here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from packaging.version import InvalidVersion, Version

from tuner.kube.resources import Object, inside

_SIZES = {"T": 1e12, "B": 1e9, "M": 1e6}


@dataclass(frozen=True, slots=True)
class Fit:
    """How well they fit.

    Attributes:
        against: Why OME certainly refuses the two together; empty where it may not.
        doubt: Why it may refuse them; empty where nothing speaks for that.
    """

    against: str = ""
    doubt: str = ""


def judge(model: Object, runtime: Object) -> Fit:
    """Compares the manifests of a model and of a runtime."""
    if against := _size(model, runtime):
        return Fit(against=against)
    formats = inside(runtime, "spec", "supportedModelFormats") or []
    if not formats:
        return Fit(doubt="it lists no supportedModelFormats")
    if not inside(model, "spec", "modelFormat", "name"):
        return Fit(doubt="the model's format is not known yet: OME's model agent fills it in after the download")
    fits = [_compared(model.get("spec", {}), supported) for supported in formats]
    if any(fit == Fit() for fit in fits):
        return Fit()
    possible = [fit for fit in fits if not fit.against]
    if possible:
        return Fit(doubt=possible[0].doubt)
    return Fit(against="; or ".join(dict.fromkeys(fit.against for fit in fits)))


def _compared(model: Any, supported: Any) -> Fit:
    """One entry of `supportedModelFormats`."""
    against, doubt = [], []
    for field, title in (("modelArchitecture", "architecture"), ("quantization", "quantization")):
        ours, theirs = model.get(field), supported.get(field)
        if ours and theirs and ours != theirs:
            against.append(f"{title} {theirs}, the model has {ours}")
        elif bool(ours) != bool(theirs):
            doubt.append(f"{title} {theirs or 'not declared'}, the model has {ours or 'none'}")
    for field, title in (("modelFormat", "format"), ("modelFramework", "framework")):
        ours, theirs = model.get(field) or {}, supported.get(field) or {}
        if ours.get("name") and theirs.get("name") and ours["name"] != theirs["name"]:
            against.append(f"{title} {theirs['name']}, the model has {ours['name']}")
        elif ours.get("name") != theirs.get("name"):
            doubt.append(f"{title} {theirs.get('name', 'not declared')}, the model has {ours.get('name', 'none')}")
        else:
            differs, certain = _versions(ours.get("version"), theirs.get("version"), theirs.get("operator") or "Equal")
            if differs:
                text = f"{title} {ours['name']} {theirs.get('version', 'of no version')}, the model has {ours.get('version', 'none')}"
                (against if certain else doubt).append(text)
    return Fit(", ".join(against), ", ".join(doubt))


def _versions(ours: str | None, theirs: str | None, operator: str) -> tuple[bool, bool]:
    """Whether a model's version is another than the runtime wants, and whether that is certain."""
    if ours == theirs:
        return False, True
    if ours is None or theirs is None:
        return True, False
    try:
        mine, wanted = Version(ours), Version(theirs)
    except InvalidVersion:
        return True, False
    if operator == "Equal":
        return mine != wanted, mine.release != wanted.release
    return mine < wanted, False


def _size(model: Object, runtime: Object) -> str:
    """Why the model is too small or too large for the runtime."""
    size = parameters(inside(model, "spec", "modelParameterSize"))
    least, most = (inside(runtime, "spec", "modelSizeRange", bound) for bound in ("min", "max"))
    if size is None:
        return ""
    shown = inside(model, "spec", "modelParameterSize")
    if (low := parameters(least)) is not None and size < low:
        return f"models of {least} parameters and more, the model has {shown}"
    if (high := parameters(most)) is not None and size > high:
        return f"models of {most} parameters and less, the model has {shown}"
    return ""


def parameters(text: str | None) -> float | None:
    """A number of parameters as OME writes it (`500M`, `1.24B`, `1T`); None where it is no such thing."""
    if not text:
        return None
    digits, factor = next(((text[:-1], factor) for suffix, factor in _SIZES.items() if text.endswith(suffix)), (text, 1.0))
    try:
        return float(digits) * factor
    except ValueError:
        return None
