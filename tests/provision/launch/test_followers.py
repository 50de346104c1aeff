"""Who is silent: given up by the word of the others, or connected to anew, whoever else talks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from provision.launch import followers
from provision.launch.followers import Events, Followers, View, parse_event
from provision.launch.progress import QUIET, SILENCE, Watch, advance, begin_watch

#: The time of these tests.
NOW = 1000.0


class Cut:
    """A fleet whose hosts say nothing."""

    def __init__(self) -> None:
        self.dropped: list[str] = []

    def fan_out(self, _: Any, hosts: tuple[str, ...]) -> dict[str, None]:
        return dict.fromkeys(hosts)

    def disconnect(self, host: str) -> None:
        self.dropped.append(host)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> tuple[Followers, Events, Cut, Watch]:
    """Two hosts that were last heard of SILENCE seconds ago, and more."""
    clock = SimpleNamespace(monotonic=lambda: NOW, sleep=lambda _: None)
    monkeypatch.setattr(followers, "time", clock)
    fleet: Any = Cut()
    events = Events()
    follow = Followers(fleet, {"node1": "/r", "node2": "/r"}, events, View())
    watch = begin_watch(("node1", "node2"), NOW - SILENCE - 1)
    follow.begin(watch)
    follow.begun = dict.fromkeys(follow.begun, 0.0)
    return follow, events, fleet, watch


def elapse(follow: Followers, seconds: float) -> None:
    follow._looked -= seconds


def test_who_is_silent_is_connected_to_anew(
    made: tuple[Followers, Events, Cut, Watch],
) -> None:
    follow, _, fleet, watch = made
    assert follow.look(watch) == []
    assert fleet.dropped == []  # it was looked at just now
    elapse(follow, 1.0)
    follow.look(watch)
    assert fleet.dropped == ["node1", "node2"]


def test_silence_means_nothing_where_words_wait_or_this_process_was_stopped(
    made: tuple[Followers, Events, Cut, Watch],
) -> None:
    follow, events, fleet, watch = made
    elapse(follow, 60.0)
    follow.look(watch)
    assert fleet.dropped == []
    elapse(follow, 1.0)
    events.put(("node1", {"alive": 1.0}))
    follow.look(watch)
    assert fleet.dropped == []


def test_a_host_that_the_others_miss_is_given_up_once_it_is_silent_here_too(
    made: tuple[Followers, Events, Cut, Watch],
) -> None:
    follow, events, fleet, _ = made
    cause = {"kind": "lost", "host": "node2", "reason": "lost: node1 heard nothing of it"}
    end = {"exit": {"state": "failed", "first_failure": cause}}
    watch = begin_watch(("node1", "node2"), NOW - QUIET + 1)
    watch = advance(watch, "node1", end, NOW).watch
    elapse(follow, 1.0)
    follow.look(watch)
    assert fleet.dropped == []
    silent = begin_watch(("node1", "node2"), NOW - QUIET - 1)
    watch = advance(silent, "node1", end, NOW).watch
    elapse(follow, 1.0)
    assert follow.look(watch) == []
    host, event = events.get_nowait()
    assert (host, event["link"]) == ("node2", True)
    assert event["lost"] == "no answer for 8 s here, and none at node1"
    assert fleet.dropped == ["node2"]


def test_events_stand_among_what_a_login_shell_prints() -> None:
    assert parse_event('{"alive": 1.0}') == {"alive": 1.0}
    assert parse_event("Welcome") is None
    assert parse_event("{not JSON") is None
