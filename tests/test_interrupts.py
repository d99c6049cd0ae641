from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from tuner.interrupts import interrupts_deferred


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
def interrupt(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    def raise_it(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(request.param, raise_it)
    yield request.param
    assert signal.signal(request.param, before) is raise_it


def test_comes_at_the_end_of_the_block(interrupt: signal.Signals) -> None:
    steps = []

    def work() -> None:
        with interrupts_deferred():
            os.kill(os.getpid(), interrupt)
            steps.append("done")
        steps.append("never")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == ["done"]


def test_a_second_one_breaks_in(interrupt: signal.Signals) -> None:
    steps = []

    def work() -> None:
        with interrupts_deferred():
            os.kill(os.getpid(), interrupt)
            steps.append("first")
            os.kill(os.getpid(), interrupt)
            steps.append("second")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == ["first"]


def test_without_one_nothing_happens(interrupt: signal.Signals) -> None:
    with interrupts_deferred():
        pass


def test_an_error_in_the_block_passes() -> None:
    with pytest.raises(ValueError, match="ours"), interrupts_deferred():
        raise ValueError("ours")


def test_other_threads_are_not_concerned() -> None:
    steps = []

    def work() -> None:
        with interrupts_deferred():
            steps.append("done")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert steps == ["done"]
