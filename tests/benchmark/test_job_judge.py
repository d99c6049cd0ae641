"""What a pod of a load generator shows, and whose fault that is: one row each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from tuner.benchmark.job_judge import CONFIG_S, EVENTS_S, IMAGE_S, REFUSED_S, Judge
from tuner.benchmark_settings import JobSettings
from tuner.errors import Systemic, Transient, TrialFailure
from tuner.kube.job_run import Warned
from tuner.kube.pod import PodState

SETTINGS = JobSettings(image="registry/tuner:1", start_timeout_s=900.0)
LEVEL_S = 300.0
BOUND = {"spec": {"nodeName": "n"}}


def judge(*events: Warned) -> Judge:
    def warnings() -> Sequence[Warned]:
        return events

    return Judge(SETTINGS, LEVEL_S, warnings)


def pod(state: dict[str, Any] | None = None, **status: Any) -> PodState:
    statuses = [] if state is None else [{"name": "load-generator", "state": state}]
    return PodState.of({"metadata": {"name": "p"}, **BOUND, "status": {"phase": "Pending", "containerStatuses": statuses, **status}}, "")


def waiting(reason: str, message: str = "why") -> PodState:
    return pod({"waiting": {"reason": reason, "message": message}})


def ended(code: int, why: str, said: str = "", **status: Any) -> PodState:
    return pod({"terminated": {"exitCode": code, "reason": why, "message": said}}, **status)


def unschedulable(message: str) -> PodState:
    return pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}])


RUNNING = pod({"running": {}}, phase="Running")


def lasting(of: Judge, seen: PodState | None, seconds: float) -> TrialFailure | None:
    """The verdict on what is seen without a change for so long, looked at each second."""
    for now in range(int(seconds)):
        if (failure := of.look(seen, float(now))) is not None:
            return failure
    return of.look(seen, seconds)


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable"])
def test_an_image_that_cannot_be_pulled_for_long_stops_the_study(reason: str) -> None:
    assert lasting(judge(), waiting(reason), IMAGE_S - 1) is None
    failure = lasting(judge(), waiting(reason, "manifest unknown"), IMAGE_S)
    assert isinstance(failure, Systemic)
    assert failure.reason.startswith(f"benchmark.job.image: registry/tuner:1 cannot be pulled ({reason}: manifest unknown)")


def test_a_name_that_is_none_does_so_at_once() -> None:
    assert isinstance(judge().look(waiting("InvalidImageName"), 0.0), Systemic)


def test_pulls_that_fail_in_turn_are_one_complaint() -> None:
    of = judge()
    for now in range(int(IMAGE_S)):
        assert of.look(waiting("ErrImagePull" if now % 2 else "ImagePullBackOff"), float(now)) is None
    assert isinstance(of.look(waiting("ErrImagePull"), IMAGE_S), Systemic)


def test_a_pull_that_works_again_begins_anew() -> None:
    of = judge()
    assert of.look(waiting("ErrImagePull"), 0.0) is None
    assert of.look(waiting("ContainerCreating"), IMAGE_S - 1) is None
    assert of.look(waiting("ErrImagePull"), IMAGE_S + 1) is None


@pytest.mark.parametrize("reason", ["CreateContainerConfigError", "CreateContainerError", "RunContainerError"])
def test_a_container_that_cannot_be_made_stops_the_study(reason: str) -> None:
    assert lasting(judge(), waiting(reason), CONFIG_S - 1) is None
    assert isinstance(lasting(judge(), waiting(reason), CONFIG_S), Systemic)


def test_no_node_in_time_is_nobodys_fault() -> None:
    seen = unschedulable("0/1 nodes are available: 1 Insufficient cpu.")
    assert lasting(judge(), seen, SETTINGS.start_timeout_s - 1) is None
    failure = lasting(judge(), seen, SETTINGS.start_timeout_s)
    assert isinstance(failure, Transient)
    assert "1 Insufficient cpu" in failure.reason
    assert "benchmark.job.resources, node_selector" in failure.reason


def test_a_pod_that_may_not_be_made_stops_the_study() -> None:
    refused = Warned("FailedCreate", 'Error creating: pods "x" is forbidden: violates PodSecurity "restricted:latest": hostPath volumes')
    assert lasting(judge(refused), None, EVENTS_S + REFUSED_S - 1) is None
    failure = lasting(judge(refused), None, EVENTS_S + REFUSED_S + 1)
    assert isinstance(failure, Systemic)
    assert failure.reason.startswith("benchmark.job.tokenizer: ")


def test_a_quota_is_waited_for() -> None:
    full = Warned("FailedCreate", 'Error creating: pods "x" is forbidden: exceeded quota: q, requested: cpu=1, used: cpu=8, limited: cpu=8')
    assert lasting(judge(full), None, SETTINGS.start_timeout_s - 1) is None
    failure = lasting(judge(full), None, SETTINGS.start_timeout_s)
    assert isinstance(failure, Transient)
    assert "exceeded quota" in failure.reason


def test_a_node_without_the_models_folder_stops_the_study() -> None:
    missing = Warned(
        "FailedMount", 'MountVolume.SetUp failed for volume "model" : hostPath type check failed: /models/m is not a directory'
    )
    failure = lasting(judge(missing), waiting("ContainerCreating"), EVENTS_S)
    assert isinstance(failure, Systemic)
    assert failure.reason.startswith("benchmark.job.tokenizer: the node does not have the model's folder")


def test_what_delays_a_start_stands_in_the_message() -> None:
    slow = Warned("FailedMount", "timed out waiting for the condition")
    failure = lasting(judge(slow), waiting("ContainerCreating"), SETTINGS.start_timeout_s)
    assert isinstance(failure, Transient)
    assert "timed out waiting" in failure.reason


@pytest.mark.parametrize(
    "gone",
    [
        pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory."),
        pod({"running": {}}, conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]),
        pod(phase="Failed", reason="OutOfcpu"),
        None,
    ],
    ids=["evicted", "preempted", "not admitted", "removed"],
)
def test_what_others_did_is_tried_again(gone: PodState | None) -> None:
    of = judge()
    assert of.look(RUNNING, 0.0) is None
    assert isinstance(of.look(gone, 1.0), Transient)


def test_a_pod_that_somebody_deletes_is_tried_again() -> None:
    deleted = PodState.of(
        {"metadata": {"name": "p", "deletionTimestamp": "2026-11-25T22:00:00Z"}, **BOUND, "status": {"phase": "Running"}}, ""
    )
    assert isinstance(judge().look(deleted, 0.0), Transient)


def test_a_level_has_its_time_from_the_start_of_the_container() -> None:
    of = judge()
    assert of.look(waiting("ContainerCreating"), 0.0) is None
    assert of.look(RUNNING, 800.0) is None
    assert of.look(RUNNING, 800.0 + LEVEL_S - 1) is None
    assert isinstance(of.look(RUNNING, 800.0 + LEVEL_S), Transient)


@pytest.mark.parametrize(
    ("how", "tail", "kind", "says"),
    [
        (ended(137, "OOMKilled"), "", Systemic, r"^benchmark\.job\.resources: .*limits\.memory"),
        (
            ended(128, "StartError", 'exec: "python": executable file not found in $PATH'),
            "",
            Systemic,
            r"^benchmark\.job\.image: .*not found",
        ),
        (ended(1, "Error"), "/usr/bin/python: No module named tuner", Systemic, r"^benchmark\.job\.image: .*No module named tuner"),
        (ended(1, "Error"), "ModuleNotFoundError: No module named 'tuner.benchmark.job_worker'", Systemic, r"^benchmark\.job\.image: "),
        (ended(1, "Error"), "ValueError: boom", Transient, "exit code 1"),
        (ended(137, "Error"), "", Transient, "exit code 137"),
        (ended(0, "Completed"), "", Transient, "could not be read"),
        (ended(137, "Error", phase="Failed", reason="Evicted", message="low on memory"), "", Transient, "Evicted: low on memory"),
    ],
)
def test_how_a_pod_ended_tells_whose_fault_it_was(how: PodState, tail: str, kind: type[TrialFailure], says: str) -> None:
    failure = judge().ended(how, tail)
    assert type(failure) is kind
    assert re.search(says, failure.reason)
    assert failure.detail == tail
