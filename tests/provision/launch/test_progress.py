from __future__ import annotations

import json
from typing import Any

import pytest

from provision.launch.progress import (
    SILENCE,
    Turn,
    Watch,
    advance,
    begin_watch,
    clock,
    short,
    stop_all,
)


@pytest.fixture
def watch() -> Watch:
    return begin_watch(("node1", "node2", "node3"), now=0.0)


def ended(state: str, reason: str | None = None) -> dict[str, Any]:
    return {"exit": {"state": state, "first_failure": reason and {"reason": reason}}}


def step(number: int, at: float, tokens: int | None, loss: float | None = 2.3123) -> dict[str, Any]:
    values = {"step": number, "total_steps": 50, "loss": loss, "tokens": tokens, "at": at}
    return {"metric": {"event": "step", **values}, "offset": number}


BEGIN = {
    "metric": {
        "event": "begin",
        "at": 1000.0,
        "first_step": 0,
        "total_steps": 50,
        "zero_stage": 2,
        "offload": "optimizer",
        "optimizer": "DeepSpeedCPUAdam",
        "trainable_parameters": 1234,
        "parameters": 116000,
        "world_size": 4,
        "effective_batch": 32,
    },
    "offset": 1,
}


def lines(watch: Watch, *events: dict[str, Any]) -> list[str]:
    """What is shown of rank 0's host."""
    shown: list[str] = []
    for event in events:
        turn = advance(watch, "node1", event, 1.0)
        watch = turn.watch
        shown += turn.lines
    return shown


def test_progress(watch: Watch) -> None:
    shown = lines(
        watch, BEGIN, step(1, 1010.0, 5000), step(2, 1010.5, 6000), step(12, 1015.5, 15000)
    )
    assert shown == [
        (
            "training 1,234 of 116,000 parameters on 4 ranks, ZeRO-2, optimizer offloaded, "
            "DeepSpeedCPUAdam: 50 steps of 32 rows"
        ),
        "step 1/50  loss 2.312  500 tok/s  8:10 left",
        # From the end of the first step on, which also compiled and warmed up.
        "step 2/50  loss 2.312  2.0k tok/s  0:24 left",
        "step 12/50  loss 2.312  1.8k tok/s  0:19 left",
    ]


def test_the_slowest_rank_and_the_fullest_gpu_are_named_once_hosts_told(watch: Watch) -> None:
    def alive(rank: int, seconds: float, size: int) -> dict[str, Any]:
        pace = {"rank": rank, "step": 1, "forward_seconds": seconds, "host_bytes": 1}
        return {"alive": 1.0, "pace": [{**pace, "device_bytes": size}]}

    turn = advance(watch, "node1", alive(0, 0.1, 10**9), 1.0)
    turn = advance(turn.watch, "node2", alive(1, 0.4, 41 * 10**9), 1.0)
    assert advance(turn.watch, "node1", step(3, 1000.0, None), 2.0).lines == (
        "step 3/50  loss 2.312  GPU 41.0 GB  slowest rank 1 (node2), forward 4.0x the others'",
    )


def test_progress_without_what_is_not_known(watch: Watch) -> None:
    assert lines(watch, step(3, 1000.0, None, loss=None)) == ["step 3/50  loss not a finite number"]
    assert lines(watch, step(3, 1000.0, None), step(4, 1001.0, None))[1] == (
        "step 4/50  loss 2.312  0:46 left"
    )
    assert lines(watch, {"metric": {"event": "of a later version"}}) == []


@pytest.mark.parametrize(
    "metric", [7, "x", None, {"event": "step"}, {"event": "begin"}, {**step(1, 1.0, 1)["metric"],
    "loss": "low"}, {**step(1, 1.0, 1)["metric"], "at": "noon"}],
)  # fmt: skip
def test_what_a_script_writes_of_its_own_is_shown_and_ends_no_watch(
    watch: Watch, metric: Any
) -> None:
    known = advance(watch, "node1", step(1, 1000.0, 1), 1.0).watch
    turn = advance(known, "node1", {"metric": metric, "offset": 9}, 1.0)
    assert turn.lines == (f"[node1] metrics.jsonl: {json.dumps(metric)}",)
    assert turn.watch.hosts["node1"].offsets == {"metric": 9}


def test_log_lines_say_their_host_and_where_to_go_on(watch: Watch) -> None:
    turn = advance(watch, "node2", {"log": "[rank 2] hello", "offset": 15}, 3.0)
    assert turn.lines == ("[node2] [rank 2] hello",)
    assert turn.watch.hosts["node2"].offsets == {"log": 15}
    turn = advance(turn.watch, "node2", step(1, 1.0, 1), 3.0)
    assert turn.watch.hosts["node2"].offsets == {"log": 15, "metric": 1}
    assert not turn.stop


def test_all_finished(watch: Watch) -> None:
    turn = Turn(watch=watch)
    for host in ("node2", "node1", "node3"):
        assert not turn.done
        turn = advance(turn.watch, host, ended("finished"), 1.0)
        assert not turn.stop
    assert turn.done
    assert set(turn.watch.exits) == {"node1", "node2", "node3"}


def test_one_failure_stops_the_others_once(watch: Watch) -> None:
    first = advance(watch, "node2", ended("failed", "ValueError: boom"), 1.0)
    assert first.stop == ("node1", "node3")
    assert first.lines == (
        "[node2] failed: ValueError: boom",
        "stopping node1, node3: node2 failed",
    )
    second = advance(first.watch, "node1", ended("failed", "Connection closed by peer"), 2.0)
    assert second.stop == ()
    assert not second.done
    assert advance(second.watch, "node3", ended("stopped"), 3.0).done


def test_a_lost_or_stopped_host_stops_the_others(watch: Watch) -> None:
    assert advance(watch, "node1", ended("stopped"), 1.0).stop == ("node2", "node3")
    # And what is left of its own, if its supervisor was killed.
    assert advance(watch, "node1", {"lost": "died"}, 1.0).stop == ("node2", "node3", "node1")


def test_a_host_that_only_this_controller_can_not_reach_stops_nobody(watch: Watch) -> None:
    turn = advance(watch, "node1", {"lost": "no connection any more", "link": True}, 1.0)
    assert (turn.stop, turn.watch.lost) == ((), {"node1": "no connection any more"})
    assert turn.lines == ("[node1] lost: no connection any more",)
    assert turn.watch.running == ("node2", "node3")


def test_hosts_that_ended_are_not_told(watch: Watch) -> None:
    turn = advance(watch, "node1", ended("finished"), 1.0)
    assert advance(turn.watch, "node2", {"lost": "no answer"}, 1.0).stop == ("node3", "node2")


def test_an_end_counts_once(watch: Watch) -> None:
    turn = advance(watch, "node1", ended("finished"), 1.0)
    again = advance(turn.watch, "node1", {"lost": "no answer"}, 2.0)
    assert again.watch.hosts["node1"].state == "finished"
    assert again.watch.lost == {}
    assert not again.stop


def test_a_request_to_stop_is_passed_on_once(watch: Watch) -> None:
    turn = stop_all(watch, "Ctrl-C")
    assert turn.stop == ("node1", "node2", "node3")
    assert turn.lines == ("stopping node1, node2, node3: Ctrl-C",)
    assert stop_all(turn.watch, "Ctrl-C") == Turn(watch=turn.watch)


def test_silence(watch: Watch) -> None:
    turn = advance(watch, "node1", {"alive": 5.0}, 10.0)
    assert turn.watch.silent(SILENCE + 1) == ("node2", "node3")
    ended_too = advance(turn.watch, "node2", ended("finished"), 10.0)
    assert "node2" not in ended_too.watch.silent(100.0)


@pytest.mark.parametrize(
    ("number", "text"),
    [(3.2, "3"), (312, "312"), (1900, "1.9k"), (42_400, "42k"), (1.25e6, "1.2M"), (0, "0")],
)
def test_short(number: float, text: str) -> None:
    assert short(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (21.4, "0:21"), (59.6, "1:00"), (3661, "1:01:01")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
