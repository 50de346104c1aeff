from __future__ import annotations

import random
from typing import Any

import pytest

from provision.onhost import heartbeat
from provision.onhost.circle import BEAT, DOUBT, LOST_AFTER, TURN, Circle
from provision.onhost.heartbeat import Heartbeat, HeartbeatError, Wire
from provision.onhost.peer import MOST_TOLD, make_cause, parse_message


class Network:
    """Supervisors of one run, and a network between them that loses what it is told to lose."""

    def __init__(self, n: int, *, known: bool = True, loss: float = 0.0, **limits: float) -> None:
        nodes = [
            {
                "node_rank": i,
                "host": f"node{i + 1}",
                "address": f"10.0.0.{i + 1}" if known or i == 0 else None,
                "port": 29500 if known or i == 0 else None,
            }
            for i in range(n)
        ]
        self.now = 100.0
        self.circles = {i: Circle({"nodes": nodes}, i, limits, self.now) for i in range(n)}
        self.addresses = {(f"10.0.0.{i + 1}", 29500): i for i in range(n)}
        self.cut: set[tuple[int, int]] = set()
        self.off: set[int] = set()
        self.loss, self.chance, self.sent = loss, random.Random(1), 0

    def source(self, i: int) -> tuple[str, int]:
        return (f"10.0.0.{i + 1}", 29500)

    def deliver(self, sender: int, address: tuple[str, int], message: dict[str, Any]) -> None:
        self.sent += 1
        target = self.addresses.get(address)
        gone = target is None or target in self.off or (sender, target) in self.cut
        if gone or self.chance.random() < self.loss:
            return
        for where, answer in self.circles[target].hear(message, self.source(sender), self.now):
            self.deliver(target, where, answer)

    def run(self, seconds: float) -> None:
        """Let time pass, a turn at a time."""
        for _ in range(round(seconds / TURN)):
            self.now += TURN
            for i, circle in self.circles.items():
                if i not in self.off:
                    for address, message in list(circle.due(self.now)):
                        self.deliver(i, address, message)
            for i, circle in self.circles.items():
                if i not in self.off:
                    circle.judge(self.now)

    def causes(self) -> dict[int, tuple[str, str]]:
        """(kind, host) that each live supervisor knows."""
        found = {i: c.cause for i, c in self.circles.items() if i not in self.off}
        return {i: (cause["kind"], cause["host"]) for i, cause in found.items() if cause}


def isolate(network: Network, i: int, *, into: bool = True, out: bool = True) -> None:
    for other in network.circles:
        network.cut |= ({(other, i)} if into else set()) | ({(i, other)} if out else set())


def test_all_is_well_and_each_says_so_once_a_second() -> None:
    network = Network(4)
    network.run(60)
    assert network.causes() == {}
    before = network.sent
    network.run(10)
    assert network.sent - before == 4 * 3 * 10 / BEAT


@pytest.mark.parametrize("off", [0, 2])
def test_a_host_without_power_is_named_by_all_others(off: int) -> None:
    network = Network(4)
    network.run(10)
    network.off.add(off)
    network.run(LOST_AFTER - BEAT - TURN)
    assert network.causes() == {}
    network.run(BEAT + 2 * TURN)
    expected = {i: ("lost", f"node{off + 1}") for i in range(4) if i != off}
    assert network.causes() == expected


@pytest.mark.parametrize(("into", "out"), [(True, True), (True, False), (False, True)])
def test_a_cut_link_is_found_by_both_ends_and_in_one_direction(into: bool, out: bool) -> None:
    network = Network(4)
    network.run(10)
    isolate(network, 2, into=into, out=out)
    network.run(LOST_AFTER + 3 * TURN)
    causes = network.causes()
    assert set(causes) == {0, 1, 2, 3}
    assert {host for _, host in causes.values()} == {"node3"}
    assert causes[2][0] == ("isolated" if into else "lost")


def test_a_link_cut_between_two_hosts_only_is_found() -> None:
    network = Network(4)
    network.run(10)
    network.cut |= {(1, 2)}
    network.run(LOST_AFTER + 3 * TURN)
    assert set(network.causes().values()) == {("lost", "node2")}


def test_a_fifth_of_all_packets_may_be_lost_for_ten_minutes() -> None:
    network = Network(4, loss=0.2)
    network.run(600)
    assert network.causes() == {}


def test_the_first_failure_is_known_everywhere_at_once_despite_loss() -> None:
    network = Network(8, loss=0.2)
    network.run(10)
    network.circles[5].declare(make_cause("failed", "node6", 5, "ValueError: boom", rank=11))
    network.circles[5].state = "failed"
    network.run(1.6)
    assert set(network.causes().values()) == {("failed", "node6")}
    assert len(network.causes()) == 8
    assert [i for i, circle in network.circles.items() if circle.own] == [5]


def test_a_consequence_gives_way_to_its_cause() -> None:
    network = Network(3)
    network.run(3)
    symptom = make_cause("failed", "node1", 0, "Connection closed by peer", symptom=True)
    network.circles[0].declare(symptom)
    network.run(1)
    assert set(network.causes().values()) == {("failed", "node1")}
    network.circles[2].declare(make_cause("failed", "node3", 2, "killed by signal 9"))
    network.run(1)
    assert set(network.causes().values()) == {("failed", "node3")}


def test_after_a_consequence_the_host_that_fell_silent_is_still_found() -> None:
    network = Network(3)
    network.run(3)
    network.off.add(1)
    symptom = make_cause("failed", "node1", 0, "Connection closed by peer", symptom=True)
    network.circles[0].declare(symptom)
    network.run(LOST_AFTER + 3 * TURN)
    assert set(network.causes().values()) == {("lost", "node2")}


def test_who_has_finished_is_not_missed() -> None:
    network = Network(3)
    network.run(3)
    network.circles[1].state = "finished"
    assert network.circles[1].unaware(network.now)
    network.run(0.4)
    assert not network.circles[1].unaware(network.now)
    network.off.add(1)
    network.run(30)
    assert network.causes() == {}


def test_a_node_that_never_starts_is_awaited_aloud_and_then_named() -> None:
    network = Network(3, start_within=60.0)
    network.off.add(2)
    network.run(9)
    assert network.circles[0].news(network.now) == []
    network.run(1.2)
    (line,) = network.circles[0].news(network.now)
    assert line.startswith("waiting for node3 (node_rank 2) at 10.0.0.3 UDP port 29500")
    assert network.circles[0].news(network.now) == []
    network.run(50)
    assert set(network.causes().values()) == {("absent", "node3")}
    cause = network.circles[0].cause
    assert cause
    assert "never heard of within 60 s" in cause["reason"]


def test_a_late_node_is_waited_for() -> None:
    network = Network(3)
    network.off.add(2)
    network.run(40)
    network.off.clear()
    network.run(30)
    assert network.causes() == {}


def test_addresses_are_learnt_from_node_0() -> None:
    network = Network(4, known=False)
    network.run(3)
    assert all(peer.heard for circle in network.circles.values() for peer in circle.peers.values())
    network.off.add(3)
    network.run(LOST_AFTER + 3 * TURN)
    assert network.causes() == dict.fromkeys(range(3), ("lost", "node4"))


def test_a_node_rank_given_twice_is_refused_by_name_on_both() -> None:
    network = Network(3, known=False)
    nodes: list[dict[str, Any]] = [
        {"node_rank": 0, "host": "node1", "address": "10.0.0.1", "port": 29500},
        {"node_rank": 1, "host": "double", "address": None, "port": None},
        {"node_rank": 2, "host": None, "address": None, "port": None},
    ]
    network.circles[9] = Circle({"nodes": nodes}, 1, {}, network.now)
    network.addresses["10.0.0.10", 29500] = 9
    network.run(1)
    assert {kind for kind, _ in network.causes().values()} == {"twice"}
    assert set(network.causes()) == {0, 1, 2, 9}
    cause = network.circles[0].cause
    assert cause
    assert "node_rank 1 is taken twice: by node2 (10.0.0.2) and by double (10.0.0.10)" in str(cause)


COMMON = {"nnodes": 3, "zero": "zero2.json"}


def by_hand(*ranks: int, **limits: float) -> Network:
    """Nodes that persons start, by their own names, all told of node 0's address. The n-th has
    address 10.0.0.n; two may have one rank.
    """
    network = Network(0)
    for i, rank in enumerate(ranks):
        nodes: list[dict[str, Any]] = [{"node_rank": n} for n in range(3)]
        nodes[rank]["host"] = f"host{i + 1}"
        peers = {"meet": ["10.0.0.1", 29500], "common": COMMON, "nodes": nodes}
        network.circles[i] = Circle(peers, rank, limits, network.now)
        network.addresses[network.source(i)] = i
    return network


def test_by_hand_nodes_find_one_another_and_then_all_is_as_ever() -> None:
    network = by_hand(0, 2, 1)
    network.run(3)
    for circle in network.circles.values():
        assert {peer.host for peer in circle.peers.values()} < {"host1", "host2", "host3"}
    network.run(30)
    assert network.causes() == {}
    network.off.add(1)
    network.run(LOST_AFTER + 3 * TURN)
    assert network.causes() == dict.fromkeys((0, 2), ("lost", "host2"))


@pytest.mark.parametrize("ranks", [(0, 1, 1), (0, 0, 1)])
def test_by_hand_a_rank_given_twice_is_told_to_both(ranks: tuple[int, ...]) -> None:
    network = by_hand(*ranks)
    network.run(2)
    assert {kind for kind, _ in network.causes().values()} == {"twice"}
    assert set(network.causes()) == {0, 1, 2}
    both = [c for c, rank in zip(network.circles.values(), ranks, strict=True) if rank == ranks[1]]
    assert all(f"node_rank {ranks[1]} is taken twice" in str(circle.cause) for circle in both)


def test_by_hand_who_is_missing_is_named_by_its_node_rank() -> None:
    network = by_hand(0, 1, start_within=60.0)
    network.run(10.2)
    (line,) = network.circles[1].news(network.now)
    assert line == "waiting for node_rank 2: not heard of for 10 s, at most 60 s"
    network.run(50)
    assert set(network.causes().values()) == {("absent", "node_rank 2")}


def test_by_hand_without_node_0_it_alone_is_awaited() -> None:
    network = by_hand(0, 1, 2, start_within=60.0)
    network.off.add(0)
    network.run(10.2)
    (line,) = network.circles[2].news(network.now)
    assert line.startswith("waiting for node_rank 0 at 10.0.0.1 UDP port 29500: ")
    network.run(50)
    assert set(network.causes().values()) == {("absent", "node_rank 0")}


def test_by_hand_other_arguments_are_named() -> None:
    network = by_hand(0, 1, 2)
    network.circles[1].common = {**COMMON, "nnodes": 4}
    network.run(2)
    assert set(network.causes().values()) == {("differs", "host2")}
    assert set(network.causes()) == {0, 1, 2}
    cause = network.circles[1].cause
    assert cause
    assert "node_rank 1 was started with nnodes 4 (here 3)" in cause["reason"]


def test_by_hand_who_is_left_of_an_earlier_attempt_counts_for_nothing() -> None:
    network = by_hand(0, 1, 2)
    network.run(3)
    old = network.circles[1]
    old.state = "failed"
    old.declare(make_cause("failed", "host2", 1, "ValueError: boom"))
    again = by_hand(0, 1, 2)
    again.run(1)
    for _ in range(20):
        for address, message in old.due(again.now):
            again.deliver(1, address, message)
        again.run(0.2)
    assert again.causes() == {}


def test_a_host_lost_while_the_run_is_being_stopped_is_found_and_changes_no_cause() -> None:
    network = Network(3)
    network.run(3)
    network.circles[0].declare(make_cause("asked", "node1", 0, "a stop was asked for"))
    network.run(1)
    network.off.add(2)
    network.run(LOST_AFTER - 1)
    assert network.circles[1].lost(network.now) == []
    network.run(1 + BEAT + TURN)
    assert network.circles[1].lost(network.now) == ["node3"]
    assert {kind for kind, _ in network.causes().values()} == {"asked"}


def test_after_a_pause_of_its_own_a_supervisor_accuses_nobody() -> None:
    network = Network(2)
    network.run(5)
    network.now += 60  # stopped, or the machine slept
    for circle in network.circles.values():
        circle.judge(network.now)
    assert network.causes() == {}
    network.run(10)
    assert network.causes() == {}


def test_what_was_said_before_is_not_heard_again() -> None:
    network = Network(2)
    network.run(1)
    (old,) = [m for _, m in network.circles[1].due(network.now + 5)]
    network.circles[0].hear(old, network.source(1), network.now)
    network.run(DOUBT)
    heard = network.circles[0].peers[1].heard
    assert heard is not None
    assert network.circles[0].hear(old, network.source(1), heard + 99) == []
    assert network.circles[0].peers[1].heard == heard


def hello(rank: int) -> dict[str, Any]:
    """What a supervisor says at least."""
    return {"n": rank, "s": f"session {rank}", "q": 1, "st": "up"}


@pytest.mark.parametrize(
    "odd",
    [
        [], {"n": "1"}, {"q": None}, {"st": 1}, {"h": 3}, {"c": {"reason": "boom"}}, {"c": 1},
        {"t": {"x": ["10.0.0.1", 1]}}, {"t": {"1": ["10.0.0.1", 0]}}, {"t": 1}, {"a": "x"},
    ],
)  # fmt: skip
def test_what_is_no_message_is_ignored_whoever_knows_the_secret(odd: Any) -> None:
    a, b = Wire("s", "run", "127.0.0.1", 0), Wire("s", "run", "127.0.0.1", 0)
    a.send(b.socket.getsockname(), {**hello(0), **odd} if odd else odd)
    a.send(b.socket.getsockname(), hello(3))
    heard = b.receive(1.0)
    for wire in (a, b):
        wire.socket.close()
    assert heard
    assert heard[0] == hello(3)


def test_nested_beyond_measure_is_no_message_either() -> None:
    assert parse_message(b"[" * 60000) is None


def test_a_flood_of_strangers_datagrams_ends_no_turn_late(monkeypatch: pytest.MonkeyPatch) -> None:
    class Flooded:
        def recvfrom(self, _: int) -> tuple[bytes, tuple[str, int]]:
            return b"ZF1" + b"\0" * 200, ("10.9.9.9", 9)

    wire = Wire("s", "run", "127.0.0.1", 0)
    wire.socket.close()
    monkeypatch.setattr(wire, "socket", Flooded())
    monkeypatch.setattr(heartbeat.select, "select", lambda *given: given)
    now = iter(range(100))
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: float(next(now)))
    assert wire.receive(5.0) is None
    assert next(now) < 10


def test_a_cause_of_any_length_is_told() -> None:
    network = Network(2)
    network.run(3)
    a, b = Wire("s", "run", "127.0.0.1", 0), Wire("s", "run", "127.0.0.1", 0)
    cause = make_cause("failed", "node1", 0, "ValueError: " + "é" * 100_000)
    network.circles[0].declare(cause)
    ((_, message),) = network.circles[0].due(network.now + BEAT)
    a.send(b.socket.getsockname(), message)
    heard = b.receive(1.0)
    for wire in (a, b):
        wire.socket.close()
    assert heard
    assert heard[0]["c"]["reason"].startswith("ValueError: éé")
    assert len(heard[0]["c"]["reason"]) <= MOST_TOLD
    assert network.circles[0].cause == cause  # what is written down here is all of it


def test_who_starts_late_is_told_and_the_port_is_free_for_another_run_meanwhile() -> None:
    late, free = Wire("s", "run", "127.0.0.1", 0), Wire("s", "run", "127.0.0.1", 0)
    ports = free.socket.getsockname()[1], late.socket.getsockname()[1]
    free.socket.close()
    nodes = [
        {"node_rank": i, "host": f"node{i + 1}", "address": "127.0.0.1", "port": port}
        for i, port in enumerate(ports)
    ]
    peers = {"secret": "s", "address": "127.0.0.1", "port": ports[0], "nodes": nodes}
    failed = Heartbeat({"run": "run", "node_rank": 0, "peers": peers}, {})
    assert failed.wire
    failed.tell("failed", make_cause("failed", "node1", 0, "ValueError: boom"))
    while late.receive(0.0):
        pass
    heard = None
    for _ in range(100):  # once, but on a machine that stands still meanwhile
        failed.linger(0.25)
        heard = heard or late.receive(0.1)
        if heard:
            break
    another = Wire("other", "run", "127.0.0.1", ports[0])
    for wire in (late, failed.wire, another):
        wire.socket.close()
    assert heard
    assert (heard[0]["st"], heard[0]["c"]["reason"]) == ("failed", "ValueError: boom")
    assert heard[1][1] != ports[0]


def test_a_port_is_kept_for_those_that_know_it_or_are_nowhere_yet() -> None:
    network = Network(3)
    network.off.add(2)
    network.run(3)
    first = network.circles[0]
    first.state = "failed"
    assert [peer.host for peer in first.unaware(network.now)] == ["node2", "node3"]
    assert not first.placeless(network.now)
    network.run(1)
    assert [peer.host for peer in first.unaware(network.now)] == ["node3"]
    assert first.placeless(network.now)
    alone = by_hand(0)
    alone.circles[0].state = "failed"
    assert not alone.circles[0].placeless(alone.now)


def test_only_messages_of_this_run_and_secret_are_heard() -> None:
    a, b = Wire("s", "run", "127.0.0.1", 0), Wire("s", "run", "127.0.0.1", 0)
    strangers = [Wire("other", "run", "127.0.0.1", 0), Wire("s", "other", "127.0.0.1", 0)]
    target = b.socket.getsockname()
    for stranger in strangers:
        stranger.send(target, hello(1))
    a.socket.sendto(b"", target)
    a.socket.sendto(b"ZF1" + b"\0" * 40, target)
    a.send(target, hello(0))
    assert b.receive(1.0) == (hello(0), a.socket.getsockname())
    assert b.receive(0.0) is None
    for wire in (a, b, *strangers):
        wire.socket.close()


def test_by_hand_nodes_of_one_machine_have_a_port_each_and_say_so() -> None:
    taken = Wire("", "29500", "0.0.0.0", 0)
    port = taken.socket.getsockname()[1]
    nodes = [{"node_rank": 0}, {"node_rank": 1, "host": "here"}]
    peers = {"secret": "", "circle": "29500", "meet": ["127.0.0.1", port], "port": port}
    plan = {"run": "r", "node_rank": 1, "peers": {**peers, "common": COMMON, "nodes": nodes}}
    heartbeat = Heartbeat(plan, {})
    assert f"another process has {port}" in heartbeat.news()[0]
    heartbeat.turn(0.0)
    heard = taken.receive(1.0)
    assert heard
    assert (heard[0]["n"], heard[0]["a"]) == (1, COMMON)
    with pytest.raises(HeartbeatError, match=f"UDP port {port} of .* in use"):
        Heartbeat({**plan, "node_rank": 0}, {})
    unknown = {**peers, "meet": ["no..name", port], "common": COMMON, "nodes": nodes}
    with pytest.raises(HeartbeatError, match=r"MASTER_ADDR no\.\.name: "):
        Heartbeat({**plan, "peers": unknown}, {})
    taken.socket.close()
    assert heartbeat.wire
    heartbeat.wire.socket.close()


def test_a_taken_port_is_named() -> None:
    taken = Wire("s", "run", "127.0.0.1", 0)
    port = taken.socket.getsockname()[1]
    nodes = [{"node_rank": 0, "host": "node1", "address": "127.0.0.1", "port": port}]
    peers = {"secret": "s", "address": "127.0.0.1", "port": port, "nodes": nodes}
    with pytest.raises(HeartbeatError, match=rf"UDP port {port} of 127.0.0.1.* in use"):
        Heartbeat({"run": "run", "node_rank": 0, "peers": peers}, {})
    taken.socket.close()
