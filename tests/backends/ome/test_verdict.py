"""The decision table of docs/kubernetes.md, row by row: what is seen, for how long, and what follows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.backends.ome.shapes import CUDA, deployment, event, pod, running, service, terminated, unschedulable, waiting
from tests.backends.ome.shapes import UID as SERVICE
from tuner.backends.ome.verdict import (
    CONFIG_S,
    FORBIDDEN_S,
    IMAGE_S,
    INIT_S,
    NO_IMAGE_S,
    NOTHING_S,
    RESOLUTION_S,
    Crashed,
    Disturbed,
    Judge,
    Late,
    Over,
    Patience,
    Serving,
    Verdict,
    View,
    Waiting,
)
from tuner.errors import Systemic, Transient

PATIENCE = Patience(queue_s=3600, pull_s=1800, start_s=900, restarts=0)
NO_GPU = (
    "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. preemption: 0/1 nodes are available: 1 No preemption victims found for "
    "incoming pod."
)


def judge(patience: Patience = PATIENCE) -> Judge:
    return Judge(SERVICE, patience)


def after(seconds: float, view: View, patience: Patience = PATIENCE) -> Verdict:
    """What is said of a view that lasts so long, looked at each second as is done in earnest."""
    judging = judge(patience)
    verdict: Verdict = judging.look(view, 0.0)
    for second in range(1, int(seconds) + 1):
        verdict = judging.look(view, float(second))
    return verdict


def seen(*pods: dict, **more: object) -> View:
    return View(service(), deployment(), pods, **more)  # type: ignore[arg-type]


class TestReady:
    def test_when_ome_and_the_pod_say_so(self) -> None:
        verdict = after(1, View(service(ready=True), deployment(), [running(ready=True)]))
        assert isinstance(verdict, Serving)
        assert verdict.pod.address == "10.0.0.7"

    def test_not_by_its_url_nor_by_the_default_of_the_transition_status(self) -> None:
        early = service(modelStatus={"transitionStatus": "UpToDate"}, conditions=[])
        assert isinstance(after(1, View(early, deployment(), [running()])), Waiting)

    def test_not_while_the_pod_is_not(self) -> None:
        assert isinstance(after(1, View(service(ready=True), deployment(), [running(ready=False)])), Waiting)

    def test_not_while_a_router_is_not(self) -> None:
        conditions = [
            {"type": "Ready", "status": "True"},
            {"type": "EngineReady", "status": "True"},
            {"type": "RouterReady", "status": "False"},
        ]
        assert isinstance(after(1, View(service(conditions=conditions), deployment(), [running(ready=True)])), Waiting)

    def test_lost_again(self) -> None:
        judging = judge()
        judging.look(View(service(ready=True), deployment(), [running(ready=True)]), 0)
        verdict = judging.look(View(service(ready=True), deployment(), [running(ready=False)]), 1)
        assert verdict == Disturbed("The server is not ready any more: its readiness probe fails under load.")
        verdict = judging.look(View(service(ready=False), deployment(), [running(ready=True)]), 2)
        assert verdict == Disturbed("The server is not ready any more: OME does not call it so.")


class TestQueue:
    @pytest.mark.parametrize(
        ("waits", "why"),
        [
            (unschedulable(NO_GPU), NO_GPU),
            (unschedulable("Scheduling is blocked due to non-empty scheduling gates", "SchedulingGated"), "SchedulingGated"),
            (pod(node=""), "no node yet"),
        ],
    )
    def test_has_its_own_clock(self, waits: dict, why: str) -> None:
        verdict = after(PATIENCE.queue_s - 1, seen(waits))
        assert isinstance(verdict, Waiting)
        assert (verdict.phase, why in verdict.why) == ("queued", True)
        verdict = after(PATIENCE.queue_s, seen(waits))
        assert isinstance(verdict, Over)
        assert isinstance(verdict.failure, Transient)
        assert why in verdict.failure.reason
        assert "backend.queue_timeout_s" in verdict.failure.reason

    def test_is_not_counted_as_start(self) -> None:
        judging = judge(replace(PATIENCE, start_s=10))
        judging.look(seen(unschedulable(NO_GPU)), 0)
        judging.look(seen(unschedulable(NO_GPU)), 2000)
        judging.look(seen(running()), 2001)
        assert isinstance(judging.look(seen(running()), 2010), Waiting)
        assert judging.spent["queued"] == 2001
        assert judging.look(seen(running()), 2011) == Late()

    def test_an_exceeded_quota_waits_too(self) -> None:
        message = 'pods "x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: 4, limited: 4'
        view = View(service(), deployment("ReplicaFailure", "True", "FailedCreate", message))
        verdict = after(1000, view)
        assert isinstance(verdict, Waiting)
        assert (verdict.phase, verdict.why) == ("queued", message)


class TestFailures:
    def failure(self, verdict: Verdict, kind: type) -> str:
        assert isinstance(verdict, Over), verdict
        assert type(verdict.failure) is kind
        assert "\n" not in verdict.failure.reason
        return verdict.failure.reason

    @pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff"])
    def test_an_image_that_does_not_exist(self, reason: str) -> None:
        message = 'Back-off pulling image "lmsysorg/sglang:v9": manifest unknown'
        view = seen(waiting(reason, message))
        assert isinstance(after(NO_IMAGE_S - 1, view), Waiting)
        assert "check the tag of backend.image" in self.failure(after(NO_IMAGE_S, view), Systemic)

    def test_a_registry_that_does_not_answer(self) -> None:
        view = seen(waiting("ErrImagePull", "dial tcp 10.1.2.3:443: i/o timeout"))
        assert isinstance(after(IMAGE_S - 1, view), Waiting)
        assert "must reach the registry" in self.failure(after(IMAGE_S, view), Transient)

    def test_a_name_that_is_none(self) -> None:
        assert "InvalidImageName" in self.failure(
            after(NO_IMAGE_S, seen(waiting("InvalidImageName", "couldn't parse image name"))), Systemic
        )

    def test_an_image_that_came_after_all(self) -> None:
        judging = judge()
        judging.look(seen(waiting("ErrImagePull", "manifest unknown")), 0)
        judging.look(seen(waiting("ContainerCreating")), 5)
        assert isinstance(judging.look(seen(waiting("ErrImagePull", "manifest unknown")), 12), Waiting)

    @pytest.mark.parametrize("reason", ["CreateContainerConfigError", "CreateContainerError", "RunContainerError"])
    def test_a_container_that_cannot_be_made(self, reason: str) -> None:
        view = seen(waiting(reason, 'secret "hf" not found'))
        assert isinstance(after(CONFIG_S - 1, view), Waiting)
        said = self.failure(after(CONFIG_S, view), Systemic)
        assert 'secret "hf" not found' in said
        assert "backend.environment" in said

    @pytest.mark.parametrize(
        "broken",
        [
            waiting("RunContainerError", 'exec: "sglang": executable file not found in $PATH: unknown'),
            terminated(128, "StartError", 'runc: exec: "sglang": executable file not found in $PATH: unknown'),
            waiting(
                "CrashLoopBackOff",
                "",
                restarts=2,
                last={"exitCode": 128, "reason": "StartError", "message": 'exec: "sglang": no such file or directory'},
            ),
        ],
    )
    def test_a_program_that_is_not_in_the_image(self, broken: dict) -> None:
        said = self.failure(after(0, seen(broken)), Systemic)
        assert said.startswith("engine.executable: ")
        assert '"sglang"' in said

    def test_a_pod_that_the_cluster_refuses(self) -> None:
        message = 'pods "x" is forbidden: violates PodSecurity "restricted:latest": hostPath volumes'
        view = View(service(), deployment("ReplicaFailure", "True", "FailedCreate", message))
        assert isinstance(after(FORBIDDEN_S - 1, view), Waiting)
        assert "violates PodSecurity" in self.failure(after(FORBIDDEN_S, view), Systemic)

    @pytest.mark.parametrize(
        ("reason", "message", "kind", "remedy"),
        [
            ("RuntimeValidationError", "Runtime a does not support model b: format mismatch", Systemic, "backend.runtime"),
            ("ModelReconcileError", "model format name is required", Systemic, "backend.model"),
            ("RuntimeFetchError", "Failed to get runtime", Systemic, "backend.runtime"),
            ("RuntimeSelectionError", "Failed to find runtime for model b", Systemic, "backend.runtime"),
            ("MergeSpecsError", "template: bad character", Systemic, "backend.patch"),
            ("DeploymentModeError", "engine component is required", Systemic, "backend.patch"),
            ("AcceleratorClassError", "no such class", Systemic, "accelerator classes"),
            ("InternalError", "fails to reconcile predictor", Transient, "OME's controller"),
        ],
    )
    def test_what_leaves_the_status_empty(self, reason: str, message: str, kind: type, remedy: str) -> None:
        view = View({"metadata": {"uid": SERVICE}}, None, (), [event("Created", "", warning=False), event(reason, message)])
        assert isinstance(after(RESOLUTION_S - 1, view), Waiting)
        said = self.failure(after(RESOLUTION_S, view), kind)
        assert message in said
        assert remedy in said

    def test_events_of_another_of_the_same_name_do_not_count(self) -> None:
        view = View({"metadata": {"uid": SERVICE}}, None, (), [event("MergeSpecsError", "old", uid="another")])
        assert isinstance(after(RESOLUTION_S + 1, view), Waiting)

    def test_nobody_works_on_it(self) -> None:
        view = View({"metadata": {"uid": SERVICE}})
        assert isinstance(after(NOTHING_S - 1, view), Waiting)
        assert "does OME's controller run?" in self.failure(after(NOTHING_S, view), Transient)

    def test_volumes_or_images_that_take_too_long(self) -> None:
        view = seen(waiting("ContainerCreating"))
        assert isinstance(after(PATIENCE.pull_s - 1, view), Waiting)
        assert "backend.pull_timeout_s" in self.failure(after(PATIENCE.pull_s, view), Transient)

    def test_an_init_container(self) -> None:
        init = {"name": "model-init", "state": {"terminated": {"exitCode": 1, "message": "disk full"}}}
        view = seen(waiting("PodInitializing", init=[init]))
        assert isinstance(after(INIT_S - 1, view), Waiting)
        assert "model-init ended with exit code 1: disk full" in self.failure(after(INIT_S, view), Transient)


class TestCrash:
    def test_at_the_first_exit(self) -> None:
        verdict = after(0, seen(terminated(1, message=CUDA)))
        assert isinstance(verdict, Crashed)
        assert verdict.pod.ended is not None
        assert (verdict.pod.ended.code, verdict.pod.ended.message, verdict.pod.ended.oom_killed) == (1, CUDA, False)

    def test_in_a_crash_loop(self) -> None:
        last = {"exitCode": 137, "reason": "OOMKilled"}
        verdict = after(0, seen(waiting("CrashLoopBackOff", restarts=1, last=last)))
        assert isinstance(verdict, Crashed)
        assert verdict.pod.ended is not None
        assert verdict.pod.ended.oom_killed

    def test_that_was_started_again_already(self) -> None:
        assert isinstance(after(0, seen(running(restarts=1, last={"exitCode": 1, "reason": "Error"}))), Crashed)

    def test_after_an_exit_without_error(self) -> None:
        assert isinstance(after(0, seen(terminated(0, "Completed"))), Crashed)

    def test_is_forgiven_as_often_as_the_settings_say(self) -> None:
        patience = replace(PATIENCE, restarts=1)
        last = {"exitCode": 1, "reason": "Error"}
        assert isinstance(after(0, seen(terminated(1)), patience), Waiting)
        assert isinstance(after(0, seen(running(restarts=1, last=last)), patience), Waiting)
        assert isinstance(after(0, seen(running(restarts=2, last=last)), patience), Crashed)
        judging = judge(patience)
        ready = View(service(ready=True), deployment(), [running(ready=True, restarts=1, last=last)])
        assert isinstance(judging.look(ready, 0), Serving)
        assert isinstance(judging.look(ready, 1), Serving)
        assert isinstance(judging.look(seen(running(restarts=2, last=last)), 2), Crashed)

    def test_under_load(self) -> None:
        judging = judge(replace(PATIENCE, restarts=3))
        judging.look(View(service(ready=True), deployment(), [running(ready=True)]), 0)
        assert isinstance(judging.look(View(service(), deployment(), [terminated(137, "OOMKilled")]), 1), Crashed)


class TestLate:
    def test_after_the_start_up_time(self) -> None:
        assert isinstance(after(PATIENCE.start_s - 1, seen(running())), Waiting)
        assert after(PATIENCE.start_s, seen(running())) == Late()

    def test_by_the_deadline_of_its_deployment_only_where_no_longer_start_is_allowed(self) -> None:
        exceeded = deployment("Progressing", "False", "ProgressDeadlineExceeded")
        view = View(service(), exceeded, [running()])
        assert isinstance(after(1, view), Waiting)
        assert after(1, view, replace(PATIENCE, start_s=600)) == Late()
        judging = judge(replace(PATIENCE, start_s=600))
        judging.look(View(service(), exceeded, [unschedulable(NO_GPU)]), 0)
        assert isinstance(judging.look(view, 700), Waiting)


class TestDisturbed:
    @pytest.mark.parametrize(
        ("view", "part"),
        [
            (View(None), "deleted the server's InferenceService"),
            (View(service(uid="another")), "replaced the server's InferenceService"),
            (View(service(deleting=True)), "deletes the server's InferenceService"),
            (seen(running(deleting=True)), "deletes the server's pod"),
            (
                seen(
                    running(
                        conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "for b"}]
                    )
                ),
                "PreemptionByScheduler: for b",
            ),
            (seen(pod(node="n", phase="Failed", reason="Evicted", message="low on memory")), "Evicted: low on memory"),
        ],
    )
    def test_by_others(self, view: View, part: str) -> None:
        verdict = after(0, view)
        assert isinstance(verdict, Disturbed)
        assert part in verdict.what

    def test_a_pod_that_is_gone(self) -> None:
        judging = judge()
        judging.look(seen(running()), 0)
        assert judging.look(seen(), 1) == Disturbed("Somebody removed the server's pod.")
        preempted = event("Preempted", "by more-important", kind="Pod")
        verdict = judging.look(seen(events=[preempted]), 2)
        assert verdict == Disturbed("The cluster removed the server's pod (Preempted: by more-important).")

    def test_a_pod_that_another_took_the_place_of(self) -> None:
        judging = judge()
        judging.look(seen(running()), 0)
        assert isinstance(judging.look(seen(running(uid="pod-2")), 1), Disturbed)

    def test_a_pod_without_a_node_may_be_exchanged(self) -> None:
        judging = judge()
        judging.look(seen(unschedulable(NO_GPU)), 0)
        assert isinstance(judging.look(seen(running(uid="pod-2")), 1), Waiting)
