"""Ranks' own pace: who is slow, and lines that say nothing."""

from __future__ import annotations

import pytest

from provision.launch.pace import parse_pace, slow_words, slowest


def line(rank, seconds, **more):
    return {"rank": rank, "step": 4, "forward_seconds": seconds, "host_bytes": 10, **more}


def paces(*seconds):
    return list(
        parse_pace("node1", [line(rank, each) for rank, each in enumerate(seconds)]).values()
    )


def test_lines_by_rank_the_last_of_each_and_what_lacks_anything_left_out():
    found = parse_pace("node2", [line(1, 0.1), line(1, 0.2, device_bytes=7), {"rank": 2}, {}, [1]])
    assert set(found) == {1}
    pace = found[1]
    assert (pace.host, pace.step, pace.forward_seconds, pace.device_bytes) == ("node2", 4, 0.2, 7)


@pytest.mark.parametrize(
    ("seconds", "times"),
    [((0.1, 0.1, 0.3), 3.0), ((0.4, 0.1), 4.0), ((0.1, 0.11), None), ((0.1,), None), ((), None)],
)
def test_the_slowest_rank_if_one_stands_out(seconds, times):
    found = slowest(paces(*seconds))
    assert (found and found[1]) == (times and pytest.approx(times))


def test_in_words():
    assert slow_words(paces(0.1, 0.3, 0.1)) == "slowest rank 1 (node1), forward 3.0x the others'"
    assert slow_words(paces(0.1, 0.1)) == slow_words(paces(0.0, 0.0)) == ""
