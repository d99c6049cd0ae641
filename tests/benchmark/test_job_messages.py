"""Lines of a load generator through a log: whole, numbered, checked, and told apart from all else."""

from __future__ import annotations

import io
import json
import random

import pytest

from tuner.benchmark.base import Load, ServerUnusable
from tuner.benchmark.job_messages import OUTCOME, Message, Speaker, Transcript, of_outcome, own, to_outcome
from tuner.benchmark.job_request import LevelRequest, WrongProtocol
from tuner.benchmark.measurement import Measurement, Timing
from tuner.errors import Systemic, Transient, TrialFailure

PIPE_BUF = 4096
TIMING = Timing(1.0, 0.9, 1.5, 1.75, 2.0)
MEASUREMENT = Measurement(4, 16, {"429": 1}, 3.5, 3.0, TIMING, None, TIMING, 100.5, 250.25, 5.0, None, False)
RAW = random.Random(7).randbytes(20_000)


def spoken() -> list[str]:
    """All lines of a level with a raw file that needs many."""
    out = io.BytesIO()
    speaker = Speaker(out)
    speaker.say("hello", version="0.0.5", tuner="1")
    speaker.say("progress", finished=3)
    speaker.send("level-4.json", RAW)
    speaker.send(OUTCOME, to_outcome(MEASUREMENT))
    speaker.end()
    return out.getvalue().decode("ascii").splitlines()


def heard(lines: list[str]) -> Transcript:
    transcript = Transcript()
    for line in lines:
        transcript.take(line)
    return transcript


def test_what_is_sent_arrives() -> None:
    transcript = heard(spoken())
    assert transcript.complete
    parcels = transcript.parcels()
    assert parcels["level-4.json"] == RAW
    assert of_outcome(parcels[OUTCOME]) == MEASUREMENT


def test_a_line_is_never_longer_than_a_pipe_takes_at_once() -> None:
    lines = spoken()
    assert len(lines) > 8
    assert max(len(line) + 1 for line in lines) <= PIPE_BUF


def test_each_message_is_told_once_however_often_it_comes() -> None:
    lines = spoken()
    transcript = Transcript()
    told = [transcript.take(line) for line in [*lines[:3], *lines[:5], *lines]]
    assert len([message for message in told if message is not None]) == len(lines)
    assert told[:2] == [Message("hello", {"version": "0.0.5", "tuner": "1"}), Message("progress", {"finished": 3})]
    assert transcript.complete


@pytest.mark.parametrize("lost", range(len(spoken())))
def test_a_line_that_is_cut_counts_as_missing_until_it_comes_whole(lost: int) -> None:
    lines = spoken()
    transcript = heard([*lines[:lost], lines[lost][:-5], *lines[lost + 1 :]])
    kind = json.loads(lines[lost].split(" ", 4)[4])["kind"]
    assert transcript.complete is (kind not in ("part", "end"))
    assert transcript.take(lines[lost]) is not None
    assert transcript.complete


def test_the_order_does_not_matter() -> None:
    lines = spoken()
    random.Random(3).shuffle(lines)
    assert heard(lines).parcels()["level-4.json"] == RAW


def test_other_output_before_and_after_on_the_same_line_does_no_harm() -> None:
    lines = [f"2026-11-25T22:00:00.123456789Z Warning: half a line{line}WARNING {{more}}" for line in spoken()]
    assert heard(lines).complete


def test_other_output_within_a_line_is_noticed() -> None:
    lines = spoken()
    middle = len(lines[3]) // 2
    mixed = lines[3][:middle] + "Traceback" + lines[3][middle:]
    transcript = heard([*lines[:3], mixed, *lines[4:]])
    assert not transcript.complete


@pytest.mark.parametrize(
    "line", ["", "tuner-load", "tuner-load 1 00000000 2 {}", "tuner-load x", "python: No module named tuner", "\ufffd\x00"]
)
def test_what_is_no_message_is_none(line: str) -> None:
    transcript = heard([line])
    assert not transcript.complete
    assert transcript.take(line) is None


def test_messages_are_told_apart_from_what_people_should_read() -> None:
    assert all(own(line) for line in spoken())
    assert not own("ValueError: tuner-loading failed")


def test_a_refusal_of_the_traffic_stays_one() -> None:
    with pytest.raises(ServerUnusable, match=r"^all of 8 requests failed$") as caught:
        of_outcome(to_outcome(ServerUnusable("all of 8 requests failed", rejected=True)))
    assert caught.value.rejected


@pytest.mark.parametrize("failure", [Transient("crashed", "a\nb"), Systemic("no such tokenizer", "ä\n")])
def test_failures_keep_their_class_reason_and_detail(failure: TrialFailure) -> None:
    with pytest.raises(type(failure)) as caught:
        of_outcome(to_outcome(failure))
    assert (caught.value.reason, caught.value.detail) == (failure.reason, failure.detail)


def test_a_request_is_read_back() -> None:
    request = LevelRequest(
        "http://a.b.svc:8080", "m", Load("D(10,5)", 4, 16, 30.0, 5.0), "/models/m", None, None, {"temperature": 0.5, "stop": "$(HOME)"}
    )
    assert LevelRequest.parse(request.to_str()) == request


@pytest.mark.parametrize("protocol", [0, 2, None])
def test_a_request_of_another_version_is_refused(protocol: int | None) -> None:
    request = LevelRequest("http://a", "m", Load("D(10,5)", 4, 16, 30.0, 5.0), "t", None, None, {})
    with pytest.raises(WrongProtocol):
        LevelRequest.parse(json.dumps(json.loads(request.to_str()) | {"protocol": protocol}))
