"""What is read from a pod's status: shapes as kubelets, schedulers and controllers write them."""

from __future__ import annotations

from typing import Any

import pytest

from tuner.kube.pod import Ended, PodState

Entry = dict[str, Any]


def pod(phase: str = "Running", spec: Entry | None = None, metadata: Entry | None = None, **status: Any) -> Entry:
    return {
        "metadata": {"name": "p", "uid": "u"} | (metadata or {}),
        "spec": {"nodeName": "n", "containers": [{"name": "c"}]} | (spec or {}),
        "status": {"phase": phase, "podIP": "10.0.0.7"} | status,
    }


def container(state: Entry, *, name: str = "c", ready: bool = False, restarts: int = 0, last: Entry | None = None) -> Entry:
    return {"name": name, "ready": ready, "restartCount": restarts, "state": state, "lastState": last or {}, "image": "i", "imageID": ""}


def waiting(reason: str, message: str = "") -> Entry:
    return {"waiting": {"reason": reason} | ({"message": message} if message else {})}


def terminated(code: int, reason: str, message: str = "") -> Entry:
    return {"terminated": {"exitCode": code, "reason": reason, "containerID": "x"} | ({"message": message} if message else {})}


RUNNING: Entry = {"running": {"startedAt": "2026-03-01T10:00:00Z"}}


def scheduled(status: str, reason: str = "", message: str = "") -> Entry:
    return {"conditions": [{"type": "PodScheduled", "status": status, "reason": reason, "message": message}]}


def look(entry: Entry) -> PodState:
    return PodState.of(entry, "c")


class TestPlacing:
    def test_just_made(self) -> None:
        state = look({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Pending"}})
        assert (state.name, state.uid, state.node, state.address, state.phase) == ("p", "", "", "", "Pending")
        assert (state.gated, state.unschedulable, state.disturbed, state.deleting, state.waiting) == (False, "", "", False, "")
        assert (state.running, state.ready, state.started, state.restarts, state.ended, state.init_failed) == (
            False,
            False,
            False,
            0,
            None,
            "",
        )

    def test_without_any_status(self) -> None:
        assert look({"metadata": {"name": "p"}}).phase == "Pending"

    def test_unschedulable(self) -> None:
        message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available:\n 3 No preemption victims."
        state = look(pod("Pending", {"nodeName": None}, **scheduled("False", "Unschedulable", message)))
        assert state.unschedulable.startswith("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
        assert "\n" not in state.unschedulable
        assert not state.gated

    def test_held_back_by_a_queue(self) -> None:
        held = scheduled("False", "SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates")
        state = look(pod("Pending", {"nodeName": None}, **held))
        assert (state.gated, state.unschedulable) == (True, "")

    def test_placed(self) -> None:
        state = look(pod("Pending", **scheduled("True")))
        assert (state.node, state.gated, state.unschedulable) == ("n", False, "")

    def test_being_deleted(self) -> None:
        assert look(pod(metadata={"deletionTimestamp": "2026-03-01T10:00:00Z"})).deleting


class TestWaiting:
    @pytest.mark.parametrize(
        ("reason", "message"),
        [
            ("ContainerCreating", ""),
            ("ErrImagePull", 'rpc error: code = NotFound desc = failed to pull and unpack image "docker.io/no/such:1"'),
            ("ImagePullBackOff", 'Back-off pulling image "docker.io/no/such:1"'),
            ("InvalidImageName", 'Failed to apply default image tag "A B": invalid reference format'),
            ("CreateContainerConfigError", 'secret "hf-token" not found'),
            ("CreateContainerError", "context deadline exceeded"),
            ("CrashLoopBackOff", "back-off 20s restarting failed container=c pod=p"),
        ],
    )
    def test_reasons(self, reason: str, message: str) -> None:
        state = look(pod("Pending", containerStatuses=[container(waiting(reason, message))]))
        assert (state.waiting, state.waiting_message, state.running, state.started) == (reason, message, False, False)

    def test_init_container_before_it_comes_first(self) -> None:
        init = [container({**terminated(0, "Completed")}, name="a"), container(waiting("ErrImagePull", "no such image"), name="b")]
        own = [container(waiting("PodInitializing"))]
        state = look(pod("Pending", initContainerStatuses=init, containerStatuses=own))
        assert (state.waiting, state.waiting_message, state.init_failed) == ("ErrImagePull", "no such image", "")

    def test_others_beside_it_do_not_matter(self) -> None:
        own, other = (
            container(RUNNING, ready=True),
            container(waiting("CrashLoopBackOff"), name="a", restarts=3, last=terminated(1, "Error")),
        )
        state = look(pod(containerStatuses=[other, own]))
        assert (state.waiting, state.running, state.ready, state.restarts, state.ended) == ("", True, True, 0, None)

    def test_first_one_where_none_is_named(self) -> None:
        assert PodState.of(pod(containerStatuses=[container(RUNNING, name="x")]), "").running

    def test_container_that_is_not_there(self) -> None:
        assert not PodState.of(pod(containerStatuses=[container(RUNNING)]), "other").running


class TestRunning:
    def test_not_yet_ready(self) -> None:
        state = look(pod(containerStatuses=[container(RUNNING)]))
        assert (state.running, state.ready, state.started, state.waiting, state.ended) == (True, False, True, "", None)

    def test_ready(self) -> None:
        assert look(pod(containerStatuses=[container(RUNNING, ready=True)])).ready

    def test_again(self) -> None:
        state = look(pod(containerStatuses=[container(RUNNING, restarts=2, last=terminated(139, "Error"))]))
        assert (state.running, state.restarts, state.ended) == (True, 2, Ended(139, "Error", ""))


class TestEnded:
    def test_by_itself(self) -> None:
        state = look(pod("Failed", containerStatuses=[container(terminated(2, "Error", "error: unknown flag\n"))]))
        assert state.ended == Ended(2, "Error", "error: unknown flag\n")
        assert (state.started, state.running, state.disturbed) == (True, False, "")
        assert state.ended is not None
        assert (state.ended.oom_killed, state.ended.never_started) == (False, False)

    def test_without_main_memory(self) -> None:
        ended = look(pod("Failed", containerStatuses=[container(terminated(137, "OOMKilled"))])).ended
        assert ended is not None
        assert (ended.code, ended.oom_killed) == (137, True)

    @pytest.mark.parametrize(("code", "reason"), [(128, "StartError"), (128, "ContainerCannotRun")])
    def test_before_it_began(self, code: int, reason: str) -> None:
        message = 'failed to create containerd task: exec: "python4": executable file not found in $PATH'
        ended = look(pod("Failed", containerStatuses=[container(terminated(code, reason, message))])).ended
        assert ended is not None
        assert (ended.never_started, ended.message) == (True, message)

    def test_in_a_loop(self) -> None:
        entry = container(waiting("CrashLoopBackOff"), restarts=1, last=terminated(1, "Error", "CUDA out of memory"))
        state = look(pod(containerStatuses=[entry]))
        assert (state.waiting, state.ended, state.started) == ("CrashLoopBackOff", Ended(1, "Error", "CUDA out of memory"), True)

    def test_newest_end_counts(self) -> None:
        entry = container(terminated(0, "Completed"), restarts=1, last=terminated(1, "Error"))
        assert look(pod("Succeeded", containerStatuses=[entry])).ended == Ended(0, "Completed", "")

    def test_node_that_lost_sight_of_it(self) -> None:
        message = "The container could not be located when the pod was terminated"
        entry = container(terminated(137, "ContainerStatusUnknown", message))
        assert look(pod("Failed", containerStatuses=[entry])).ended == Ended(None, "ContainerStatusUnknown", message)


class TestInitContainers:
    def test_that_fails(self) -> None:
        init = [container(terminated(1, "Error", "no such model"), name="fetch")]
        assert look(pod("Pending", initContainerStatuses=init)).init_failed == "fetch ended with exit code 1: no such model"

    def test_that_failed_and_is_tried_again(self) -> None:
        init = [container(waiting("CrashLoopBackOff"), name="fetch", restarts=1, last=terminated(3, "Error"))]
        state = look(pod("Pending", initContainerStatuses=init))
        assert (state.init_failed, state.waiting) == ("fetch ended with exit code 3: Error", "CrashLoopBackOff")

    def test_that_failed_and_then_came_to_its_end(self) -> None:
        init = [container(terminated(0, "Completed"), name="fetch", restarts=1, last=terminated(3, "Error"))]
        assert look(pod(initContainerStatuses=init, containerStatuses=[container(RUNNING)])).init_failed == ""


class TestDisturbed:
    @pytest.mark.parametrize(
        ("reason", "message"),
        [
            ("Evicted", "The node was low on resource: ephemeral-storage."),
            ("Preempting", "Preempted in order to admit critical pod"),
            ("Terminated", "Pod was terminated in response to imminent node shutdown."),
            ("NodeAffinity", "Predicate NodeAffinity failed"),
            ("UnexpectedAdmissionError", "Allocate failed due to requested number of devices unavailable for nvidia.com/gpu"),
            ("OutOfnvidia.com/gpu", "Node didn't have enough resource: nvidia.com/gpu, requested: 1, used: 1, capacity: 1"),
            ("OutOfcpu", "Node didn't have enough resource: cpu"),
            ("TopologyAffinityError", "Resources cannot be allocated with Topology locality"),
        ],
    )
    def test_by_the_kubelet(self, reason: str, message: str) -> None:
        assert look(pod("Failed", reason=reason, message=message)).disturbed == f"{reason}: {message}"

    @pytest.mark.parametrize(
        "reason", ["PreemptionByScheduler", "DeletionByTaintManager", "EvictionByEvictionAPI", "DeletionByPodGC", "TerminationByKubelet"]
    )
    def test_by_others(self, reason: str) -> None:
        disruption = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "Eviction API:\n evicting"}
        state = look(pod(conditions=[disruption], containerStatuses=[container(RUNNING, ready=True)]))
        assert state.disturbed == f"{reason}: Eviction API: evicting"

    def test_not_any_more(self) -> None:
        assert look(pod(conditions=[{"type": "DisruptionTarget", "status": "False", "reason": "x"}])).disturbed == ""

    @pytest.mark.parametrize("reason", ["", "DeadlineExceeded", "Error"])
    def test_failures_of_its_own(self, reason: str) -> None:
        assert look(pod("Failed", reason=reason, message="m")).disturbed == ""

    def test_reason_of_a_pod_that_has_not_failed(self) -> None:
        assert look(pod("Running", reason="NodeLost")).disturbed == ""
