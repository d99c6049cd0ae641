"""The copy of a container's output, against the API server double and a container that writes on demand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.api_server import ApiServer
from tests.cluster.talking import pod
from tests.conformance.backend import eventually
from tests.kube.reaching import anything, connected
from tests.kube.writing import Writer
from tuner.kube import log as module
from tuner.kube.cluster import Cluster
from tuner.kube.log import LogFollower

FIRST = "2026-03-01T10:00:00"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_POLL_S", 0.02)
    monkeypatch.setattr(module, "_LONGEST_POLL_S", 0.05)


@pytest.fixture
def writer() -> Writer:
    return Writer()


@pytest.fixture
def server(writer: Writer) -> Iterator[ApiServer]:
    with ApiServer() as started:
        started.node = writer
        started.seed(pod("p", node="n"))
        yield started


@pytest.fixture
def cluster(server: ApiServer, tmp_path: Path) -> Cluster:
    return connected(server, tmp_path)


@pytest.fixture
def log(cluster: Cluster, tmp_path: Path) -> Iterator[LogFollower]:
    """One that follows the pod `p`."""
    follower = LogFollower(cluster, tmp_path / "log", "c")
    follower.follow(lambda: "p")
    yield follower
    follower.finish(0.0)
    eventually(lambda: not alive(follower), "the end of the thread")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def alive(follower: LogFollower) -> bool:
    return follower._thread is not None and follower._thread.is_alive()


def holds(path: Path, *lines: str) -> None:
    text = "".join(f"{line}\n" for line in lines)
    eventually(lambda: path.read_text() == text, f"{lines} in the log, now {path.read_text()!r}")


@pytest.mark.usefixtures("log")
class TestFollow:
    def test_as_it_is_written(self, writer: Writer, path: Path) -> None:
        writer.start()
        writer.write(f"{FIRST}.000000001Z", "one")
        holds(path, "one")
        writer.write(f"{FIRST}.000000002Z", "zwei größer  with spaces ")
        writer.write(f"{FIRST}.000000003Z", "")
        holds(path, "one", "zwei größer  with spaces ", "")
        assert writer.asked == [None] * len(writer.asked)

    def test_cut_streams(self, writer: Writer, path: Path) -> None:
        writer.start()
        for number in range(5):
            writer.write(f"{FIRST}.{number:09}Z", f"line {number}")
            holds(path, *(f"line {earlier}" for earlier in range(number + 1)))
            writer.cut()
        eventually(lambda: writer.asked[-1] == f"{FIRST}Z", "a stream from the last line on")
        writer.write(f"{FIRST}.5Z", "last")
        holds(path, *(f"line {number}" for number in range(5)), "last")

    def test_cut_in_the_middle_of_a_line(self, writer: Writer, path: Path) -> None:
        writer.start()
        writer.write(f"{FIRST}.1Z", "one")
        writer.write(f"{FIRST}.2Z", "tw", end="")
        holds(path, "one")
        writer.cut()
        writer._lines.pop()
        writer.write(f"{FIRST}.2Z", "two")
        holds(path, "one", "two")

    def test_lines_of_the_samemoment_of(self, writer: Writer, path: Path) -> None:
        writer.start()
        for text in ("a", "a", "b"):
            writer.write(f"{FIRST}.000000007Z", text)
        holds(path, "a", "a", "b")
        writer.cut()
        writer.write(f"{FIRST}.000000007Z", "c")
        writer.write(f"{FIRST}.000000008Z", "d")
        holds(path, "a", "a", "b", "c", "d")

    def test_fractions_of_any_length(self, writer: Writer, path: Path) -> None:
        writer.start()
        stamps = [f"{FIRST}Z", f"{FIRST}.1Z", f"{FIRST}.12Z", f"{FIRST}.123456789Z", f"{FIRST}.2Z"]
        for number, stamp in enumerate(stamps):
            writer.write(stamp, str(number))
        holds(path, "0", "1", "2", "3", "4")
        writer.cut()
        writer.write(f"{FIRST}.21Z", "5")
        holds(path, "0", "1", "2", "3", "4", "5")

    @pytest.mark.parametrize(("zone", "utc"), [("+05:30", "2026-03-01T04:30:00Z"), ("-08:00", "2026-03-01T18:00:00Z")])
    def test_time_zone_of_the_node(self, writer: Writer, path: Path, zone: str, utc: str) -> None:
        writer.start()
        writer.write(f"{FIRST}.1{zone}", "one")
        holds(path, "one")
        writer.cut()
        writer.write(f"{FIRST}.2{zone}", "two")
        holds(path, "one", "two")
        assert writer.asked[-1] == utc

    def test_clock_that_is_put_back(self, writer: Writer, path: Path) -> None:
        writer.start()
        writer.write("2026-10-25T02:59:59.9+02:00", "one")
        writer.write("2026-10-25T02:00:00.1+01:00", "two")
        writer.write("2026-10-25T01:59:00Z", "three")
        writer.write("2026-10-25T01:00:00Z", "earlier, by a correction")
        holds(path, "one", "two", "three", "earlier, by a correction")

    def test_words_of_the_kubelet(self, writer: Writer, path: Path) -> None:
        writer.start()
        writer.write("unable", "to retrieve container logs for containerd://abc")
        writer.write(f"{FIRST}.1Z", "one")
        writer.write("failed", "to create fsnotify watcher: too many open files")
        holds(path, "one")
        writer.cut()
        writer.write(f"{FIRST}.2Z", "two")
        holds(path, "one", "two")

    def test_container_that_is_started_again(self, writer: Writer, path: Path) -> None:
        writer.start()
        writer.write(f"{FIRST}.1Z", "one")
        holds(path, "one")
        writer.end()
        asked = len(writer.asked)
        eventually(lambda: len(writer.asked) > asked + 2, "some looks at a container that has ended")
        holds(path, "one")
        writer.start()
        writer.write(f"{FIRST}.9Z", "again")
        holds(path, "one", "again")

    def test_before_the_container_starts(self, writer: Writer, path: Path) -> None:
        eventually(lambda: len(writer.asked) > 2, "some refusals")
        writer.start()
        writer.write(f"{FIRST}.1Z", "one")
        holds(path, "one")

    @pytest.mark.parametrize("status", [401, 404, 500])
    def test_refusals(self, server: ApiServer, writer: Writer, path: Path, status: int) -> None:
        writer.start()
        server.faults.add(anything, status=status, times=3)
        writer.cut()
        eventually(lambda: not server.faults._faults, "the refusals")
        writer.write(f"{FIRST}.1Z", "one")
        holds(path, "one")

    def test_node_without_a_kubelet(self, server: ApiServer, writer: Writer, path: Path) -> None:
        writer.start()
        server.node = None
        writer.cut()
        eventually(lambda: len(server.requests) > 3, "some refusals")
        server.node = writer
        writer.write(f"{FIRST}.1Z", "one")
        holds(path, "one")

    def test_server_that_goes_and_comes_back(self, server: ApiServer, writer: Writer, path: Path) -> None:
        writer.start()
        writer.write(f"{FIRST}.1Z", "one")
        holds(path, "one")
        server.stop()
        writer.write(f"{FIRST}.2Z", "two")
        server.restart()
        holds(path, "one", "two")


def test_pod_that_does_not_exist_yet(server: ApiServer, cluster: Cluster, writer: Writer, path: Path) -> None:
    known: list[str] = []
    asked = threading.Event()

    def name() -> str | None:
        asked.set()
        return known[0] if known else None

    log = LogFollower(cluster, path, "c")
    log.follow(name)
    assert asked.wait(10)
    assert server.requests == []
    writer.start()
    writer.write(f"{FIRST}.1Z", "one")
    known.append("p")
    holds(path, "one")
    log.finish(0.0)


class TestFinish:
    def test_before_it_follows(self, cluster: Cluster, path: Path) -> None:
        log = LogFollower(cluster, path, "c")
        log.finish(1.0)
        assert log._file.closed
        assert path.read_text() == ""

    def test_takes_what_has_not_come_yet(self, server: ApiServer, log: LogFollower, writer: Writer, path: Path) -> None:
        server.faults.add(lambda method, path: path.endswith("/log"), status=500, times=None)
        eventually(lambda: len(server.requests) > 2, "some refusals")
        writer.start()
        writer.write(f"{FIRST}.1Z", "one")
        writer.end()
        server.faults.clear()
        log.finish(10.0)
        assert path.read_text() == "one\n"

    def test_waits_for_the_end_of_the_stream(self, log: LogFollower, writer: Writer, path: Path) -> None:
        writer.start()
        writer.write(f"{FIRST}.1Z", "one")
        holds(path, "one")
        later = threading.Timer(0.1, lambda: (writer.write(f"{FIRST}.2Z", "last words"), writer.end()))
        later.start()
        log.finish(10.0)
        assert path.read_text() == "one\nlast words\n"

    def test_container_that_goes_on(self, server: ApiServer, log: LogFollower, writer: Writer, path: Path) -> None:
        writer.start()
        writer.write(f"{FIRST}.1Z", "one")
        holds(path, "one")
        log.finish(0.1)
        assert log._file.closed
        eventually(lambda: not alive(log), "the end of the thread")
        asked = len(server.requests)
        writer.write(f"{FIRST}.2Z", "two")
        assert path.read_text() == "one\n"
        assert len(server.requests) == asked

    @pytest.mark.parametrize("state", ["no pod", "no container", "ended", "away"])
    def test_in_every_state(self, server: ApiServer, cluster: Cluster, writer: Writer, path: Path, state: str) -> None:
        log = LogFollower(cluster, path, "c")
        if state != "no container":
            writer.start()
        if state == "ended":
            writer.end()
        if state == "away":
            server.stop()
        log.follow(lambda: None if state == "no pod" else "p")
        log.finish(5.0)
        assert log._file.closed
        eventually(lambda: not alive(log), "the end of the thread")
        log.finish(0.0)

    def test_file_that_cannot_be_written(self, cluster: Cluster, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="none"):
            LogFollower(cluster, tmp_path / "none" / "log", "c")

    def test_earlier_log_is_overwritten(self, cluster: Cluster, path: Path) -> None:
        path.write_text("of another trial")
        LogFollower(cluster, path, "c").finish(0.0)
        assert path.read_text() == ""
