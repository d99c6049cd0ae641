from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conformance.backend import PATIENCE_S, STUB, BackendSuite, answers, eventually, fetch
from tuner.backends import local
from tuner.backends.base import Place
from tuner.backends.local import Local, oom_kills
from tuner.errors import Infeasible, NotReadyError, Systemic, Transient
from tuner.gpus import GpuSlots
from tuner.launch import LaunchSpec

pytestmark = pytest.mark.slow

OWNER = """
import sys, time
from pathlib import Path
from tests.backends.test_local import Place, answers, backend_in, stub_spec
folder = Path(sys.argv[1])
trial = folder / "foreign"
trial.mkdir()
deployment = backend_in(folder).deploy(stub_spec(folder, sys.argv[2]), Place("some-study", 9, trial))
deployment.wait_ready(answers, 60)
print(deployment.endpoint.url, flush=True)
time.sleep(3600)
"""


def backend_in(folder: Path) -> Local:
    return Local(runtime_dir=folder / "run", stop_grace_s=0.3)


def stub_spec(folder: Path, mode: str, gpus: int = 0, **env: str) -> LaunchSpec:
    script = folder / "stub.py"  # its path in the command lines tells the processes of one test
    if not script.exists():
        shutil.copy(STUB, script)
    return LaunchSpec((sys.executable, str(script), mode, "{host}", "{port}"), "stub", env=env, gpus=gpus)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Servers, their offspring and supervisors of a test, zombies left out: those cannot be told by their command line."""
    script = str(folder / "stub.py")
    found = []
    for process in psutil.process_iter():
        try:
            if script in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def supervisors_of(folder: Path) -> list[psutil.Process]:
    return [process for process in processes_of(folder) if local.supervisor.__file__ in process.cmdline()]


@pytest.fixture(autouse=True)
def _nothing_left(tmp_path: Path) -> Iterator[None]:
    yield
    left = processes_of(tmp_path)
    for process in left:
        process.kill()
    assert left == []


class TestConformance(BackendSuite):
    removed_with_owner = True

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Local:
        return backend_in(tmp_path)

    def spec(self, tmp_path: Path, mode: str, **env: str) -> LaunchSpec:
        return stub_spec(tmp_path, mode, **env)

    def leftovers(self, tmp_path: Path) -> list[str]:
        return [str(process) for process in processes_of(tmp_path)]

    def foreign_owner(self, tmp_path: Path, mode: str) -> subprocess.Popen[str]:
        return start_owner(tmp_path, mode)


def start_owner(folder: Path, mode: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.Popen([sys.executable, "-c", OWNER, str(folder), mode], stdout=subprocess.PIPE, text=True, env=environment)


@pytest.fixture
def backend(tmp_path: Path) -> Local:
    return backend_in(tmp_path)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    folder = tmp_path / "trial"
    folder.mkdir()
    return Place("some-study", 7, folder)


@pytest.mark.parametrize("mode", ["serve", "stubborn", "forking"])
def test_killed_owner_takes_everything_along_before_any_reap(tmp_path: Path, mode: str) -> None:
    owner = start_owner(tmp_path, mode)
    assert owner.stdout is not None
    assert owner.stdout.readline().startswith("http://")
    assert len(processes_of(tmp_path)) >= (3 if mode == "forking" else 2)
    owner.kill()
    owner.wait()
    eventually(lambda: processes_of(tmp_path) == [], "the end of all processes")


def test_reap_finds_what_a_killed_owner_and_supervisor_left(tmp_path: Path, backend: Local) -> None:
    owner = start_owner(tmp_path, "forking")
    assert owner.stdout is not None
    owner.stdout.readline()
    assert backend.reap() == []
    (supervisor,) = supervisors_of(tmp_path)
    supervisor.suspend()  # so that it cannot act on its owner's death
    owner.kill()
    owner.wait()
    supervisor.kill()
    eventually(lambda: len(processes_of(tmp_path)) == 1, "the server's end with its supervisor")

    (line,) = backend.reap()
    assert "some-study" in line
    assert "trial 9" in line
    assert processes_of(tmp_path) == []
    assert list((tmp_path / "run").iterdir()) == []


def test_killed_supervisor_counts_as_exit_and_close_removes_the_rest(tmp_path: Path, backend: Local, place: Place) -> None:
    with backend.deploy(stub_spec(tmp_path, "forking"), place) as deployment:
        deployment.wait_ready(answers, PATIENCE_S)
        (supervisor,) = supervisors_of(tmp_path)
        supervisor.kill()
        eventually(lambda: deployment.exit_status() is not None, "exit status")
        status = deployment.exit_status()
        assert status is not None
        assert status.code == 137
        assert not status.oom_killed
        assert processes_of(tmp_path) != []
    assert processes_of(tmp_path) == []


def test_deploying_thread_may_end(tmp_path: Path, backend: Local, place: Place) -> None:
    """The parent-death signal fires when the thread that forked ends; the server must not care."""
    deployments = []
    thread = threading.Thread(target=lambda: deployments.append(backend.deploy(stub_spec(tmp_path, "serve"), place)))
    thread.start()
    thread.join()
    with deployments[0] as deployment:
        deployment.wait_ready(answers, PATIENCE_S)
        (supervisor,) = supervisors_of(tmp_path)
        # twice asleep with nothing pending: it has taken the signal and gone on waiting
        eventually(lambda: pending_signals(supervisor.pid) == 0 and supervisor.status() == psutil.STATUS_SLEEPING, "a quiet supervisor")
        assert answers(deployment.endpoint)
        assert deployment.exit_status() is None


def pending_signals(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd:", "ShdPnd:")))


def test_signal_of_a_thread_death_does_not_stop_the_server(tmp_path: Path, backend: Local, place: Place) -> None:
    with backend.deploy(stub_spec(tmp_path, "serve"), place) as deployment:
        deployment.wait_ready(answers, PATIENCE_S)
        (supervisor,) = supervisors_of(tmp_path)
        supervisor.send_signal(signal.SIGUSR1)
        eventually(lambda: pending_signals(supervisor.pid) == 0, "taken signal")
        assert answers(deployment.endpoint)


def test_server_has_its_own_session_and_plain_signals(tmp_path: Path, backend: Local, place: Place) -> None:
    with backend.deploy(stub_spec(tmp_path, "serve"), place) as deployment:
        deployment.wait_ready(answers, PATIENCE_S)
        (server,) = [process for process in processes_of(tmp_path) if process not in supervisors_of(tmp_path)]
        assert os.getsid(server.pid) == os.getpgid(server.pid) == server.pid
        status = Path(f"/proc/{server.pid}/status").read_text().splitlines()
        assert [line.split()[1] for line in status if line.startswith("SigBlk:")] == ["0" * 16]


def test_orderly_stop_comes_first(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    program = "import signal,sys,time; signal.signal(signal.SIGTERM, lambda *a: sys.exit('bye')); print('up'); time.sleep(600)"
    patient = Local(runtime_dir=tmp_path / "run", stop_grace_s=PATIENCE_S)
    deployment = patient.deploy(LaunchSpec((sys.executable, "-c", program), "stub"), place)
    eventually(lambda: "up" in deployment.log_tail(), "output, although it is not flushed")
    deployment.close()
    assert "bye" in deployment.log_tail()
    status = deployment.exit_status()
    assert status is not None
    assert status.code == 1


def test_stop_codes_are_the_shells(tmp_path: Path, backend: Local, place: Place) -> None:
    for mode, code in (("serve", 143), ("stubborn", 137)):
        deployment = backend.deploy(stub_spec(tmp_path, mode), place)
        deployment.wait_ready(answers, PATIENCE_S)
        deployment.close()
        status = deployment.exit_status()
        assert status is not None
        assert (status.code, status.oom_killed) == (code, False)


def test_sigkill_is_out_of_memory_only_when_the_kernel_says_so(
    tmp_path: Path, backend: Local, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = [5]
    monkeypatch.setattr(local, "oom_kills", lambda: kills[0])
    for more, expected in ((0, False), (1, True)):
        with backend.deploy(stub_spec(tmp_path, "serve"), place) as deployment:
            deployment.wait_ready(answers, PATIENCE_S)
            kills[0] += more
            (server,) = [process for process in processes_of(tmp_path) if process not in supervisors_of(tmp_path)]
            server.kill()
            eventually(lambda deployment=deployment: deployment.exit_status() is not None, "exit status")
            status = deployment.exit_status()
            assert status is not None
            assert (status.code, status.oom_killed) == (137, expected)


def test_oom_kills_reads_the_kernels_counter(tmp_path: Path) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("oom_kill_other 9\noom_kill 3\npgfault 77\n")
    assert oom_kills(vmstat) == 3
    assert oom_kills(tmp_path / "missing") == 0
    assert oom_kills() >= 0


def test_pid_file_lives_as_long_as_the_server_and_holds_no_secret(tmp_path: Path, backend: Local, place: Place) -> None:
    with backend.deploy(stub_spec(tmp_path, "serve", HF_TOKEN="hf_secret"), place) as deployment:
        deployment.wait_ready(answers, PATIENCE_S)
        (path,) = (tmp_path / "run").iterdir()
        content = json.loads(path.read_text())
        assert (content["study"], content["trial"]) == ("some-study", 7)
        assert psutil.Process(content["pid"]).cmdline()[1] == str(tmp_path / "stub.py")
        for process in processes_of(tmp_path):
            assert "hf_secret" not in " ".join(process.cmdline())
        for file in (path, deployment.log_path):
            assert "hf_secret" not in file.read_text()
    assert list((tmp_path / "run").iterdir()) == []
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700


def test_port_is_held_until_close(tmp_path: Path, backend: Local, place: Place) -> None:
    deployment = backend.deploy(stub_spec(tmp_path, "deaf"), place)
    address = ("127.0.0.1", int(deployment.endpoint.url.rpartition(":")[2]))
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(address)
    deployment.close()
    with socket.socket() as other:
        other.bind(address)


def test_failed_start_leaves_no_pid_file(tmp_path: Path, backend: Local, place: Place) -> None:
    with pytest.raises(Systemic) as caught:
        backend.deploy(LaunchSpec(("no-such-server",), "stub"), place)
    assert caught.value.reason == (
        "engine.executable: cannot start 'no-such-server' (No such file or directory): "
        "set engine.executable to the server's program, or activate the environment that has it"
    )
    assert list((tmp_path / "run").iterdir()) == []


def test_program_without_permission_stops_the_study(tmp_path: Path, backend: Local, place: Place) -> None:
    program = tmp_path / "server"
    program.write_text("#!/bin/sh\n")
    with pytest.raises(Systemic, match="Permission denied"):
        backend.deploy(LaunchSpec((str(program),), "stub"), place)


def test_executable_is_looked_up_on_the_path_of_the_spec(tmp_path: Path, backend: Local, place: Place) -> None:
    program = tmp_path / "my-server"
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o700)
    path = f"{tmp_path}:{os.environ['PATH']}"
    with backend.deploy(LaunchSpec(("my-server",), "stub", env={"PATH": path}), place) as deployment:
        eventually(lambda: deployment.exit_status() is not None, "exit status")
        assert deployment.log_tail() == "found"


def test_exhausted_descriptors_are_worth_another_try(tmp_path: Path, backend: Local, place: Place) -> None:
    stub_spec(tmp_path, "serve")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    held = [os.dup(0)]  # fills the gaps that other tests left, so that two numbers are free
    while held[-1] <= highest:
        held.append(os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 2, hard))
    os.close(held.pop())
    try:
        with pytest.raises(Transient):
            backend.deploy(stub_spec(tmp_path, "serve"), place)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in held:
            os.close(number)
    assert list((tmp_path / "run").iterdir()) == []


def test_missing_trial_folder_stops_the_study(tmp_path: Path, backend: Local) -> None:
    with pytest.raises(Systemic, match="cannot write"):
        backend.deploy(stub_spec(tmp_path, "serve"), Place("some-study", 7, tmp_path / "missing"))


def test_check_refuses_a_directory_that_others_may_write(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(NotReadyError, match="writable for you alone"):
        Local(runtime_dir=folder).check()


def test_check_refuses_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotReadyError, match="XDG_STATE_HOME"):
        Local(runtime_dir=tmp_path / "file" / "run").check()


def test_check_refuses_other_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(NotReadyError, match="needs Linux"):
        backend_in(tmp_path).check()


def test_many_at_once_from_threads(tmp_path: Path, backend: Local) -> None:
    replies: list[str | None] = []

    def use(trial: int) -> None:
        folder = tmp_path / str(trial)
        folder.mkdir()
        with backend.deploy(stub_spec(tmp_path, "serve", STUB_ANSWER=str(trial)), Place("some-study", trial, folder)) as deployment:
            deployment.wait_ready(answers, PATIENCE_S)
            replies.append(fetch(deployment.endpoint))

    stub_spec(tmp_path, "serve")
    threads = [threading.Thread(target=use, args=(trial,)) for trial in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, replies)) == [str(trial) for trial in range(6)]


def test_check_warns_of_another_tuner_whose_load_would_disturb(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend = backend_in(tmp_path)
    backend.check()
    assert caplog.messages == []
    owner = start_owner(tmp_path, "serve")
    assert owner.stdout is not None
    owner.stdout.readline()
    backend.check()
    owner.kill()
    owner.wait()
    assert caplog.messages == ["another tuner measures study some-study on this host: each disturbs the numbers of the other"]
    eventually(lambda: not processes_of(tmp_path), "nothing is left of the other tuner")


class TestGpus:
    PRINT = "import os; print([os.environ.get(name) for name in ('CUDA_VISIBLE_DEVICES', 'CUDA_DEVICE_ORDER')])"

    def spec(self, gpus: int) -> LaunchSpec:
        return LaunchSpec((sys.executable, "-c", self.PRINT), "stub", gpus=gpus, env={"CUDA_VISIBLE_DEVICES": "7"})

    def seen(self, folder: Path, place: Place, slots: GpuSlots | None, gpus: int) -> str:
        with Local(slots, folder / "run").deploy(self.spec(gpus), place) as deployment:
            eventually(lambda: deployment.exit_status() is not None, "exit status")
            return deployment.log_tail()

    def test_a_server_sees_as_many_as_it_needs_and_no_other(self, tmp_path: Path, place: Place) -> None:
        slots = GpuSlots(["3", "1", "MIG-a"])
        assert self.seen(tmp_path, place, slots, 2) == "['3,1', 'PCI_BUS_ID']"
        assert self.seen(tmp_path, place, slots, 0) == "['', 'PCI_BUS_ID']"

    def test_a_study_without_gpus_hides_them(self, tmp_path: Path, place: Place) -> None:
        assert self.seen(tmp_path, place, GpuSlots([]), 1) == "['', 'PCI_BUS_ID']"

    def test_unknown_ones_are_left_to_the_environment(self, tmp_path: Path, place: Place) -> None:
        assert self.seen(tmp_path, place, None, 1) == "['7', None]"

    def test_they_are_held_until_the_server_is_gone(self, tmp_path: Path, place: Place) -> None:
        slots = GpuSlots(["0", "1"])
        backend = Local(slots, tmp_path / "run", stop_grace_s=0.3)
        first = backend.deploy(stub_spec(tmp_path, "serve", gpus=1), place)
        with backend.deploy(stub_spec(tmp_path, "serve", gpus=1), place):
            with pytest.raises(Transient):
                backend.deploy(stub_spec(tmp_path, "serve", gpus=1), place)
            first.close()
            assert slots.take(1) == ("0",)
            first.close()  # again: what somebody else holds by now stays theirs
            with pytest.raises(Transient):
                slots.take(1)

    def test_a_failed_start_gives_them_back(self, tmp_path: Path, place: Place) -> None:
        slots = GpuSlots(["0"])
        with pytest.raises(Systemic):
            Local(slots, tmp_path / "run").deploy(LaunchSpec(("no-such-server",), "stub", gpus=1), place)
        (tmp_path / "file").write_text("")
        with pytest.raises(Systemic):
            Local(slots, tmp_path / "file" / "run").deploy(LaunchSpec(("no-such-server",), "stub", gpus=1), place)
        with pytest.raises(Infeasible):
            Local(slots, tmp_path / "run").deploy(LaunchSpec(("no-such-server",), "stub", gpus=2), place)
        assert slots.take(1) == ("0",)
        assert list((tmp_path / "run").iterdir()) == []
