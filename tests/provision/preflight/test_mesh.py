"""The mesh, between real agents on this machine's loopback; rounds, as values."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import closing, suppress

import pytest

from provision.errors import HostError
from provision.preflight import mesh
from provision.preflight.mesh import MeshWanted, gather_mesh, plan_again, plan_rounds
from provision.script import script_argv
from provision.talk import Talk


def sent(*args):
    """What runs mesh.py on a host, as it is sent there."""
    return script_argv("mesh", args, sys.executable)


ADDRESSES = {"node1": "127.0.0.11", "node2": "127.0.0.12", "node3": "127.0.0.13"}


class Pipes:
    """A process where Talk expects an SSH channel."""

    def __init__(self, argv) -> None:
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.timeout = None

    def sendall(self, data) -> None:
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def settimeout(self, seconds) -> None:
        self.timeout = seconds

    def recv(self, count):
        if not select.select([self.process.stdout], [], [], self.timeout)[0]:
            raise TimeoutError
        return os.read(self.process.stdout.fileno(), count)

    def recv_stderr_ready(self):
        return bool(select.select([self.process.stderr], [], [], 0)[0]) and self._peek()

    def _peek(self):
        self.errors = os.read(self.process.stderr.fileno(), 65536)
        return bool(self.errors)

    def recv_stderr(self, count):
        return self.errors

    def close(self) -> None:
        with suppress(BrokenPipeError):  # it has ended, and an order is still to be written
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()


class Local:
    """A fleet whose hosts are processes of this machine."""

    def __init__(self, broken=()) -> None:
        self.broken = broken
        self.started = {}

    def fan_out(self, call, hosts):
        answers = {}
        for label in hosts:
            self.label = label
            try:
                answers[label] = call(self)
            except HostError as error:
                answers[label] = error
        return answers

    def talk(self, script, args):
        broken = ["sh", "-c", "echo no >&2"]
        self.started[self.label] = Pipes(broken if self.label in self.broken else sent(*args))
        return Talk(label=self.label, channel=self.started[self.label])


@pytest.fixture
def port():
    """A free one below those that the kernel hands out to whoever asks for any."""
    for number in range(20000 + os.getpid() % 10000, 32000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", number))
            return number
    raise AssertionError("no free port")


@pytest.fixture
def wanted(port):
    return MeshWanted(addresses=ADDRESSES, master_addr="127.0.0.11", master_port=port)


def test_every_host_reaches_every_other(wanted, monkeypatch):
    monkeypatch.setattr(mesh, "RETRIES", 0)
    fleet, said = Local(), []
    found = gather_mesh(fleet, wanted, said.append)
    assert found.errors == {}
    assert said[0] == "network: 3 hosts dial one another"
    for host in ADDRESSES:
        low, high = found.hellos[host]["range"]
        assert len(found.hellos[host]["ports"]) == mesh.PORTS
        assert all(low <= port <= high for port in found.hellos[host]["ports"])
        dials = found.dials[host]
        assert dials["master"]["addresses"] == ["127.0.0.11"]
        assert isinstance(dials["master"]["reached"], float)
        assert set(dials["peers"]) == set(ADDRESSES) - {host}
        assert set(dials["heard"]) == set(ADDRESSES) - {host}
        for peer in dials["peers"].values():
            assert all(isinstance(seconds, float) for seconds in peer["ports"].values())
            assert peer["packets"]["up"] == peer["packets"]["down"] == peer["packets"]["of"]
            assert 0 < peer["exchange"]["count"] <= 100  # as many as 3 s have room for
    assert len(found.rates) == 6
    assert all(rate > 0 for rate in found.rates.values())
    assert all(pipes.process.returncode == 0 for pipes in fleet.started.values())


def test_an_occupied_master_port_names_its_holder_and_ends_there(wanted, port):
    with socket.create_server(("127.0.0.1", port)):
        found = gather_mesh(Local(), wanted, print)
    assert found.hellos["node1"]["master_error"].startswith(f"in use by pid {os.getpid()} (")
    assert found.dials == {}


def test_a_taken_heartbeat_port_names_its_holder_and_the_others_hear_one_another(
    wanted, port, monkeypatch
):
    monkeypatch.setattr(mesh, "RETRIES", 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.12", port))
        found = gather_mesh(Local(), wanted, lambda _: None)
    assert found.hellos["node2"]["udp_error"].startswith(f"{port} in use by pid {os.getpid()} (")
    heard = {host: dial["heard"] for host, dial in found.dials.items()}
    assert heard == {"node1": ["node3"], "node2": None, "node3": ["node1"]}


def test_heartbeat_ports_of_hosts_that_share_an_address_and_of_one_alone():
    def ports(**addresses):
        wanted = MeshWanted(addresses=addresses, master_addr="x", master_port=29500)
        return list(wanted.heartbeats.values())

    assert ports(a="10.0.0.1", b="10.0.0.1", c="10.0.0.2") == [29500, 29501, 29500]
    assert ports(a="10.0.0.1") == [0]


def test_a_host_that_gives_no_answer_is_an_error_and_the_others_go_on(wanted, monkeypatch):
    monkeypatch.setattr(mesh, "RETRIES", 0)
    found = gather_mesh(Local(broken=("node2",)), wanted, lambda _: None)
    assert set(found.errors) == {"node2"}
    assert "found no, expected an answer" in str(found.errors["node2"])
    assert set(found.dials) == {"node1", "node3"}


def test_a_host_that_goes_away_while_links_are_measured_is_an_error_and_no_slow_link(
    wanted, monkeypatch
):
    monkeypatch.setattr(mesh, "RETRIES", 1)
    fleet = Local()

    def say(line):
        if line.startswith("network: bandwidth"):
            fleet.started["node2"].process.kill()
            fleet.started["node2"].process.wait()

    found = gather_mesh(fleet, wanted, say)
    assert set(found.errors) == {"node2"}
    assert set(found.dials) == {"node1", "node3"}
    assert set(found.rates) == {("node1", "node3"), ("node3", "node1")}


def test_who_does_not_know_the_token_gets_no_answer(port):
    agent = Pipes(sent(str(port), "1", "127.0.0.1", "0"))
    with closing(agent):
        talk = Talk(label="node1", channel=agent)
        talk.receive(120)
        peers = [{"host": "node1", "address": "127.0.0.1", "ports": []}]
        order = {"do": "dial", "token": "ab" * 32, "me": 0, "master": ["localhost", port]}
        talk.send({**order, "peers": peers})
        assert isinstance(talk.receive(120)["master"]["reached"], float)
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(b"ZFM1" + bytes(49))
            assert stranger.recv(100) == b""


def test_something_else_on_the_port_is_not_taken_for_ours(port):
    """A server that answers, but does not know the token, as behind a wrong address."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        other_port = other.getsockname()[1]
        agent = Pipes(sent("0", "1", "127.0.0.1", "0"))
        with closing(agent):
            talk = Talk(label="node1", channel=agent)
            talk.receive(120)
            order = {"do": "dial", "token": "ab" * 32, "me": 0, "peers": []}
            talk.send({**order, "master": ["127.0.0.1", other_port]})
            for _ in range(2):  # it tries twice
                peer, _ = other.accept()
                with peer:
                    peer.recv(100)
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(32))
            assert talk.receive(120)["master"]["reached"] == "something else answered"


def test_an_agent_ends_with_its_controller():
    agent = Pipes(sent("0", "1", "127.0.0.1", "0"))
    Talk(label="node1", channel=agent).receive(120)
    agent.close()
    assert agent.process.returncode == 0


def test_a_talk_that_ended_says_so():
    agent = Pipes(sent("0", "1", "127.0.0.1", "0"))
    with closing(agent):
        talk = Talk(label="node1", channel=agent)
        talk.receive(120)
        agent.process.send_signal(signal.SIGKILL)
        agent.process.wait()
        with pytest.raises(HostError, match="expected an answer"):
            talk.receive(120)


@pytest.mark.parametrize("n", [2, 3, 4, 16, 17])
def test_rounds_hold_every_pair_once_and_every_host_once_a_side(n):
    hosts = [f"node{i}" for i in range(n)]
    rounds = plan_rounds(hosts, most=n)
    pairs = [pair for pairs in rounds for pair in pairs]
    assert len(pairs) == len(set(pairs)) == n * (n - 1)
    for each in rounds:
        assert sorted(a for a, _ in each) == sorted(b for _, b in each) == sorted(hosts)


def test_many_hosts_take_no_more_rounds_than_a_few():
    rounds = plan_rounds([f"node{i}" for i in range(256)])
    assert len(rounds) == mesh.ROUNDS
    assert all(len(set(pairs)) == 256 and all(a != b for a, b in pairs) for pairs in rounds)


def test_one_host_has_no_rounds():
    assert plan_rounds(["node1"]) == ()


def test_slow_pairs_are_measured_again_and_nobody_twice_at_once():
    rates = {("a", "b"): 100.0, ("b", "c"): 90.0, ("c", "a"): 95.0}
    slow = {("a", "c"): 10.0, ("b", "a"): 10.0}
    assert plan_again(rates | slow) == ((("a", "c"), ("b", "a")),)
    assert plan_again(rates | {("a", "c"): 1.0, ("a", "d"): 1.0}) == (
        (("a", "c"),),
        (("a", "d"),),
    )
    assert plan_again({}) == ()
