from __future__ import annotations

import docker
import pytest
import requests

from tuner.backends.docker_failures import DAEMON_TEXTS, MAX_QUOTE, daemon_text, explain
from tuner.errors import Infeasible, Systemic, Transient, TrialFailure

RUNC = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
HOOK = RUNC + "error during container init: error running hook #0: error running hook: exit status 1, stdout: , stderr: "
NEWER = f"failed to create task for container: {HOOK}Auto-detected mode as 'legacy'\n"


def answer(code: int, text: str) -> docker.errors.APIError:
    response = requests.Response()
    response.status_code = code
    return docker.errors.APIError("x", response=response, explanation=text)


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', Systemic, "nvidia-ctk runtime configure"),
        ("failed to discover GPU vendor from CDI: no known GPU vendor found", Systemic, "nvidia-ctk runtime configure"),
        (
            f"{NEWER}nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.9, please update your driver to a newer "
            "version, or use an earlier cuda container: unknown",
            Systemic,
            "engine.image=org/image:1 needs a newer NVIDIA driver: update it, or choose an image for an older CUDA",
        ),
        (f"{NEWER}nvidia-container-cli: initialization error: nvml error: driver/library version mismatch: unknown", Systemic, "reboot"),
        (f"{HOOK}nvidia-container-cli: initialization error: nvml error: driver not loaded: unknown", Systemic, "nvidia-smi"),
        (
            f"{HOOK}nvidia-container-cli: initialization error: load library failed: libnvidia-ml.so.1: cannot open shared object file: no "
            "such file or directory: unknown",
            Systemic,
            "not installed where Docker looks for it",
        ),
        (f"{NEWER}nvidia-container-cli: device error: GPU-x: unknown device: unknown", Systemic, "check backend.gpus"),
        (f"{HOOK}nvidia-container-cli: ldcache error: open failed", Systemic, "docker run --rm --gpus all org/image:1 nvidia-smi"),
        ("CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=0", Systemic, "nvidia-ctk cdi generate"),
        ("failed to register layer: write /usr/lib/libtorch.so: no space left on device", Systemic, "docker system df"),
        (
            'Get "https://registry-1.docker.io/v2/": dial tcp: lookup registry-1.docker.io on 10.0.0.2:53: no such host',
            Transient,
            "network",
        ),
        ('Get "https://registry-1.docker.io/v2/": net/http: TLS handshake timeout', Transient, "does not answer"),
        ('Get "https://r/v2/": x509: certificate signed by unknown authority', Systemic, "certificate"),
        (
            "pull access denied for org/image, repository does not exist or may require 'docker login': denied: requested access to the "
            "resource is denied",
            Systemic,
            "docker login",
        ),
        ("toomanyrequests: You have reached your pull rate limit. You may increase the limit by ...", Transient, "docker login"),
        ("no matching manifest for linux/arm64/v8 in the manifest list entries", Systemic, "processor"),
        (f"{RUNC}unable to apply caps: operation not permitted: unknown", Systemic, "backend.container"),
        ('exec: "docker-init": executable file not found in $PATH', Systemic, "install docker-init"),
        (f"{RUNC}error setting rlimits for ready process: error setting rlimit type 3: operation not permitted", Systemic, "ulimits.stack"),
    ],
)
def test_known_texts(text: str, kind: type[TrialFailure], words: str) -> None:
    failure = explain(answer(500, text), "org/image:1")
    assert type(failure) is kind
    assert words in failure.reason
    assert "\n" not in failure.reason
    assert RUNC not in failure.reason


def test_quotes_what_the_driver_lacks() -> None:
    text = f"{NEWER}nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.9, please update your driver: unknown"
    assert "cuda>=12.9" in explain(answer(500, text), "org/image:1").reason


def test_every_row_has_a_source_and_can_be_reached() -> None:
    for row in DAEMON_TEXTS:
        assert row.source
        failure = explain(answer(500, row.text), "org/image:1")
        assert type(failure) is row.failure, row
        assert "{" not in failure.reason


def test_mounts_tell_whose_key_it_is() -> None:
    text = 'invalid mount config for type "bind": bind source path does not exist: /data/x y'
    assert explain(answer(400, text), "i", {"/data/x y"}).reason.endswith("check backend.mounts")
    assert explain(answer(400, text), "i", {"/data"}).reason.endswith("check engine.model and backend.model_cache")


def test_too_many_gpus_are_infeasible_only_where_the_daemon_chose() -> None:
    text = f"{NEWER}nvidia-container-cli: device error: 3: unknown device: unknown"
    failure = explain(answer(500, text), "i", chosen_by_daemon=4)
    assert type(failure) is Infeasible
    assert failure.reason == "the Docker host has no 4 GPUs"
    assert type(explain(answer(500, text), "i", chosen_by_daemon=1)) is Systemic


def test_unknown_answers() -> None:
    assert type(explain(answer(400, "bad parameter"), "i")) is Systemic
    assert explain(answer(400, "bad parameter"), "i").reason == "the Docker daemon refuses: bad parameter: see the keys of backend"
    assert type(explain(answer(500, "sudden\nweakness"), "i")) is Transient
    assert explain(answer(500, "sudden\nweakness"), "i").reason == "the Docker daemon failed: sudden weakness"
    assert len(explain(answer(500, "x" * 5000), "i").reason) < MAX_QUOTE + 50
    assert type(explain(docker.errors.DockerException("Credentials store error"), "i")) is Systemic


@pytest.mark.parametrize("error", [requests.exceptions.ConnectionError("x"), requests.exceptions.ChunkedEncodingError("x")])
def test_a_daemon_that_went_away_is_nobodys_fault(error: Exception) -> None:
    assert type(explain(error, "i")) is Transient


def test_own_words_of_the_daemon() -> None:
    assert daemon_text(answer(500, RUNC + "error during container init: x")) == "x"
    assert daemon_text("x\n y") == "x y"
    assert "500" in daemon_text(answer(500, ""))
