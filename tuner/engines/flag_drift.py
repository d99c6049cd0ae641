"""Flags that were spelled differently in older versions. Configurations use the newest spelling; the image in use may be older."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from tuner.errors import ConfigError
from tuner.launch import Value


@dataclass(frozen=True, slots=True)
class Drift:
    """A flag that came, went, or got a new name.

    Attributes:
        name: The parameter, as it is called now, or was when it went.
        since: First version that knows it so.
        before: The parameter that did the same before; empty where none did.
        source: Where this was read.
        switch: Second parameter that had to be on for `before` to mean this; empty where none had to.
        value: Where `before` was a switch: the value that it stood for. The only other one known before is `usual`, by leaving it out.
        usual: See `value`.
        until: First version that does not know it any more; None where the newest does.
    """

    name: str
    since: Version
    before: str
    source: str
    switch: str = ""
    value: str = ""
    usual: str = ""
    until: Version | None = None

    def lacking(self, version: Version) -> str:
        """Why `version` has nothing like it, as the end of a sentence; empty where it has."""
        if self.until is not None and version >= self.until:
            return f"it is gone since {self.until}"
        return f"it came with {self.since}" if version < self.since and not self.before else ""


def _came(name: str, since: str, source: str) -> Drift:
    return Drift(name, Version(since), "", source)


def _went(name: str, until: str, source: str) -> Drift:
    return Drift(name, Version("0"), "", source, until=Version(until))


_GRAPHS = "server_args.py of the wheels: new names in 0.5.14, not in 0.5.13.post1; old ones there up to 0.5.19, gone in 0.5.20"
_SGLANG_WHEELS = "server_args.py and arg_groups/ of 22 wheels from 0.4.6.post5 to 0.5.23"
_VLLM_WHEELS = "engine/arg_utils.py of 22 wheels from 0.9.0.1 to 0.33.0"

SGLANG = (
    Drift("cuda_graph_max_bs_decode", Version("0.5.14"), "cuda_graph_max_bs", _GRAPHS),
    Drift("cuda_graph_bs_decode", Version("0.5.14"), "cuda_graph_bs", _GRAPHS),
    Drift(
        "attn_dp_size",
        Version("0.5.22"),
        "dp_size",
        "server_args.py of the wheels: in 0.5.22, not in 0.5.21; arg_groups/parallel_hook.py of 0.5.23 resolves the old spelling so",
        switch="enable_dp_attention",
    ),
    Drift("cuda_graph_backend_decode", Version("0.5.14"), "disable_cuda_graph", _GRAPHS, value="disabled", usual="full"),
    _came("cuda_graph_backend_prefill", "0.5.14", _GRAPHS),
    _came("cuda_graph_max_bs_prefill", "0.5.14", _GRAPHS),
    _came("prefill_max_requests", "0.5.7", _SGLANG_WHEELS),
    _came("min_free_slots_delay", "0.5.15", _SGLANG_WHEELS),
    _came("prefill_decode_interval", "0.5.19", _SGLANG_WHEELS),
    _went("enable_piecewise_cuda_graph", "0.5.14", _SGLANG_WHEELS),
    _went("disable_piecewise_cuda_graph", "0.5.20", _SGLANG_WHEELS),
    _went("torchao_config", "0.5.18", _SGLANG_WHEELS),
    _went("stream_output", "0.5.20", _SGLANG_WHEELS),
)

# Releases between 0.9.0.1 and 0.10.2, 0.11.0 and 0.11.2, 0.17.1 and 0.18.1, 0.25.1 and 0.27.1 were not read: there a flag is let through.
VLLM = (
    _came("async_scheduling", "0.9.1", _VLLM_WHEELS),
    _came("kv_cache_memory_bytes", "0.9.1", _VLLM_WHEELS),
    _came("stream_interval", "0.11.1", _VLLM_WHEELS),
    _came("max_cudagraph_capture_size", "0.11.1", _VLLM_WHEELS),
    _came("cudagraph_capture_sizes", "0.11.1", _VLLM_WHEELS),
    _came("optimization_level", "0.12.0", _VLLM_WHEELS),
    _came("attention_backend", "0.13.0", _VLLM_WHEELS),
    _came("performance_mode", "0.17.0", _VLLM_WHEELS),
    _came("moe_backend", "0.17.0", _VLLM_WHEELS),
    _came("prefill_schedule_interval", "0.24.0", _VLLM_WHEELS),
    _went("num_scheduler_steps", "0.10.2", _VLLM_WHEELS),
    _went("preemption_mode", "0.11.0", _VLLM_WHEELS),
    _went("scheduler_delay_factor", "0.11.0", _VLLM_WHEELS),
    _went("max_seq_len_to_capture", "0.11.0", _VLLM_WHEELS),
    _went("disable_log_requests", "0.17.0", _VLLM_WHEELS),
    _went("swap_space", "0.18.1", _VLLM_WHEELS),
    _went("max_num_partial_prefills", "0.27.1", _VLLM_WHEELS),
    _went("max_long_partial_prefills", "0.27.1", _VLLM_WHEELS),
)

_TAG_VERSION = re.compile(r"v?(\d+\.\d+(?:\.\d+)*(?:\.?(?:post|rc|dev)\d+)?)(?:[-_].*)?")


def renamed(name: str, drifts: Sequence[Drift]) -> str:
    """Today's name of a parameter that was only renamed, or else `name`."""
    return next((drift.name for drift in drifts if drift.before == name and not drift.switch and not drift.value), name)


def combined(given: Mapping[str, Value], drifts: Sequence[Drift]) -> dict[str, Value]:
    """`given` with each pair of parameters that meant together what one says today replaced by that one."""
    named = dict(given)
    for drift in drifts:
        if drift.switch and named.pop(drift.switch, False) is True and named.get(drift.name, 1) == 1 and drift.before in named:
            named[drift.name] = named.pop(drift.before)
    return named


def of_version(version: Version, given: Mapping[str, Value], drifts: Sequence[Drift]) -> dict[str, Value]:
    """`given`, which has the names of today, with those of `version`."""
    named = dict(given)
    for drift in drifts:
        if drift.before and version < drift.since and drift.name in named:
            value = named.pop(drift.name)
            if drift.value:
                named |= {drift.before: True} if value == drift.value else {}
            elif not drift.switch:
                named[drift.before] = value
            elif value != 1:
                named |= {drift.before: value, drift.switch: True}
    return named


def of_today(version: Version, given: Mapping[str, Value], drifts: Sequence[Drift]) -> dict[str, Value]:
    """`given`, which `version` was launched with, by the names of today, so that a trial's value for one of these takes its place.

    The way back from `of_version`, but for parameters that were only renamed: see `renamed`.
    """
    named = dict(given)
    for drift in drifts:
        if drift.switch and drift.before in named and named.get(drift.switch) is True:
            del named[drift.switch]
            named[drift.name] = named.pop(drift.before)
        elif drift.value and version < drift.since and named.get(drift.before) is True:
            del named[drift.before]
            named[drift.name] = drift.value
    return named


def version_of(setting: str | None, image: str | None, official: str) -> Version | None:
    """The version of an engine that the user named, or else that the tag of its official image names; None where neither does.

    Args:
        setting: `engine.version`.
        image: `engine.image`.
        official: Last part of the name of the engine's official image: the tags of others count something else.

    Raises:
        ConfigError: `setting` is no version.
    """
    if setting is not None:
        try:
            return Version(Version(setting).public)
        except InvalidVersion as error:
            raise ConfigError(f"engine.version={setting}: no version; write it like 0.5.23") from error
    repository, _, tag = (image or "").partition("@")[0].rpartition("/")[2].partition(":")
    found = _TAG_VERSION.fullmatch(tag)
    return Version(found[1]) if found and repository == official else None
