"""Lets this process, in which tuner is about to run, die by SIGKILL at a stage of a deployment in a cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any, NoReturn

from tuner.backends.ome.deployment import OmeDeployment
from tuner.engines.openai_server import OpenAIServer
from tuner.kube.cluster import Cluster
from tuner.kube.resources import INFERENCE_SERVICE


def die(*_: Any, **__: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it lives")


def done_and_dead(real: Callable[..., Any]) -> Callable[..., Any]:
    def act(self: Cluster, resource: Any, *arguments: Any, **more: Any) -> Any:
        answer = real(self, resource, *arguments, **more)
        if resource is INFERENCE_SERVICE and not more.get("dry_run"):
            die()
        return answer

    return act


def arrange(stage: str) -> None:
    """Takes `creating`, `waiting`, `loading` or `deleting`; in the first and the last the request is carried out
    and nobody reads the answer."""
    match stage:
        case "creating":
            Cluster.create = done_and_dead(Cluster.create)  # type: ignore[method-assign]
        case "waiting":
            OmeDeployment._check_api = die  # type: ignore[method-assign]
        case "loading":
            OpenAIServer.ready = die  # type: ignore[method-assign]
        case "deleting":
            Cluster.delete = done_and_dead(Cluster.delete)  # type: ignore[method-assign]
        case _:
            raise ValueError(stage)
