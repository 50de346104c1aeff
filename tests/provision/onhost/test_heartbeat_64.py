"""64 supervisors' heartbeats, with real datagrams on loopback addresses, and a clock of the test's.

With processes and the real clock: bench/heartbeat.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from provision.onhost import heartbeat
from provision.onhost.circle import BEAT, LOST_AFTER, TURN
from provision.onhost.heartbeat import Heartbeat

HOSTS, PORT = 64, 29686


class Clock:
    """Instead of the module ``time``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(heartbeat, "time", made)
    return made


@pytest.fixture
def beats(clock: Clock) -> Iterator[dict[int, Heartbeat]]:
    nodes = [
        {"node_rank": i, "host": f"host{i}", "address": f"127.8.0.{i + 1}", "port": PORT}
        for i in range(HOSTS)
    ]
    made: dict[int, Heartbeat] = {}
    for i, node in enumerate(nodes):
        peers = {"secret": "s", "address": node["address"], "port": PORT, "nodes": nodes}
        plan: dict[str, Any] = {"run": "r", "node_rank": i, "peers": peers}
        made[i] = Heartbeat(plan, {})
    all_made = list(made.values())
    yield made
    for each in all_made:
        assert each.wire
        each.wire.socket.close()


def turn(beats: dict[int, Heartbeat], clock: Clock) -> None:
    """Everybody speaks, and then hears."""
    clock.now += TURN
    for _ in range(2):
        for each in beats.values():
            each.turn(0.0)
    for each in beats.values():
        each.judge()


def test_of_64_hosts_one_that_falls_silent_is_known_to_all_within_ten_seconds(
    beats: dict[int, Heartbeat], clock: Clock
) -> None:
    begun = clock.now
    while not all(p.heard for each in beats.values() for p in each.circle.peers.values()):
        assert clock.now - begun < 5 * TURN, "not all have heard of all"
        turn(beats, clock)

    def said() -> tuple[int, int]:
        wires = [each.wire for each in beats.values() if each.wire]
        return sum(wire.sent for wire in wires), sum(wire.sent_bytes for wire in wires)

    before, seconds = said(), 2
    for _ in range(round(seconds / TURN)):
        turn(beats, clock)
    sent, size = (now - then for now, then in zip(said(), before, strict=True))
    a_second = sent / HOSTS / seconds
    assert a_second <= (HOSTS - 1) / BEAT  # linear: one to every other host each BEAT
    assert size / sent < 150
    assert not [each.cause for each in beats.values() if each.cause]

    del beats[20]
    killed = clock.now
    while not all(each.cause for each in beats.values()):
        assert clock.now - killed < 10, "not all know of it within ten seconds"
        turn(beats, clock)
    assert clock.now - killed <= LOST_AFTER + BEAT
    known = {(each.cause["kind"], each.cause["host"]) for each in beats.values() if each.cause}
    assert known == {("lost", "host20")}
