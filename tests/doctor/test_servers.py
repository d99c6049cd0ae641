from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tuner.backends.pid_file import PidFile, default_folder
from tuner.doctor.servers import Server, containers, leftovers, other_runs, processes
from tuner.owner import Owner

OF_THE_DEAD = Owner.current().to_str().replace(f":{os.getpid()}:", ":999999999:")


def write(study: str, owner: str, **content: object) -> PidFile:
    pid_file = PidFile(default_folder() / f"{study}.json", study, 7, owner, **content)
    default_folder().mkdir(parents=True, exist_ok=True)
    pid_file._write()
    return pid_file


def test_processes() -> None:
    assert list(processes()) == []
    write("mine", Owner.current().to_str())
    dead = write("dead", OF_THE_DEAD)
    server = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=os.environ | dead.environment())
    try:
        assert list(processes()) == [Server("process", "dead", "7", False), Server("process", "mine", "7", True)]
    finally:
        server.communicate(b"\n")
    assert list(processes()) == [Server("process", "mine", "7", True)], "nothing runs of the other"


def test_containers() -> None:
    labels = {"tuner.study": "some", "tuner.trial": "3"}
    listed = [{"Labels": labels | {"tuner.owner": owner}} for owner in (OF_THE_DEAD, Owner.current().to_str(), "of a later version")]
    assert [server.owned for server in containers(listed)] == [False, True, True]
    assert next(containers(listed)) == Server("container", "some", "3", False)


def test_findings(tmp_path: Path) -> None:
    left, running = Server("container", "a", "1", False), Server("process", "b", "2", True)
    assert leftovers([running]).verdict == other_runs([left]).verdict == "ok"
    finding = leftovers([left, running])
    assert (finding.verdict, finding.seen) == ("warning", "left by killed runs: container of study a, trial 1")
    assert "tuner clean" in finding.fix
    finding = other_runs([left, running])
    assert (finding.verdict, finding.seen) == ("warning", "another tuner runs here: process of study b, trial 2")
