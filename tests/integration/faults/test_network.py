"""What a network can do to a run while every host answers its controller."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.cluster.cluster import Node
    from tests.integration.faults.conftest import Hosts, Mended, Said

PORT = "29650"
#: All hosts without the controller: SSH goes on working.
PEERS = "10.77.0.0/28"


def firewall(node: Node, rule: str) -> None:
    """Drop what this rule matches of what comes in, as a firewall does: what is answered passes."""
    chain = "type filter hook input priority 0; policy accept;"
    node.run(["nft", "add", "table", "inet", "filter"])
    node.run(["nft", "add", "chain", "inet", "filter", "input", "{", chain, "}"])
    for each in ("ct state established accept", f"{rule} drop"):
        node.run(["nft", "add", "rule", "inet", "filter", "input", *each.split()])


def lose(node: Node, which: str) -> None:
    """Lose these packets from the other hosts without a word."""
    node.run(["nft", "add", "table", "ip", "wire"])
    chain = "type filter hook prerouting priority -300; policy accept;"
    node.run(["nft", "add", "chain", "ip", "wire", "lost", "{", chain, "}"])
    rule = ["ip", "saddr", PEERS, *which.split(), "drop"]
    node.run(["nft", "add", "rule", "ip", "wire", "lost", *rule])


def rename(node: Node, address: str) -> None:
    """Let node1's name mean another address on a host."""
    file = node.path("/etc/hosts")
    text = file.read_text()
    assert "10.77.0.1 node1\n" in text
    file.write_text(text.replace("10.77.0.1 node1\n", f"{address} node1\n"))


CLOSED = (
    ("node3", "master port"), ("node3", "heartbeat port"), ("node2", "ports"), ("node4", "packets"),
)  # fmt: skip


@pytest.fixture(scope="module")
def closed(mended: Mended) -> Said:
    """What is said of three hosts, each behind something else that lets not everything through."""
    with mended() as hosts:
        firewall(hosts["node1"], f"ip saddr 10.77.0.3 tcp dport {PORT}")
        firewall(hosts["node2"], f"ip saddr {PEERS} tcp dport 32768-60999")
        lose(hosts["node3"], f"udp dport {PORT}")
        lose(hosts["node4"], "meta length > 1400")
        return hosts.preflight("--master-port", PORT)


def test_the_master_port_closed_to_one_host(closed: Said) -> None:
    line = closed.line("node3", "master port", *CLOSED)
    assert f"found no answer in 3.5 s, expected 10.77.0.1:{PORT} reached: on node1" in line
    assert f"'ip saddr {{ 10.77.0.3 }} tcp dport {PORT} accept'" in line


def test_the_heartbeat_s_port_closed_to_all(closed: Said) -> None:
    line = closed.line("node3", "heartbeat port", *CLOSED)
    assert f"found UDP {PORT} from node1, node2, node4 blocked, expected datagrams" in line
    assert f"udp dport {PORT} accept" in line


def test_the_ephemeral_range_closed_one_way(closed: Said) -> None:
    line = closed.line("node2", "ports", *CLOSED)
    assert "found TCP 32768-60999 from node1, node3, node4 blocked" in line
    assert "'ip saddr { 10.77.0.1,10.77.0.3,10.77.0.4 } tcp dport 32768-60999 accept'" in line


def test_an_mtu_black_hole(closed: Said) -> None:
    line = closed.line("node4", "packets", *CLOSED)
    assert "found small packets pass, 1500-byte ones from node1, node2, node3 vanish" in line
    assert "ip link set dev eth0 mtu 1400" in line


NAMED = (("node3", "master address"), ("node4", "master address"))


@pytest.fixture(scope="module")
def named(mended: Mended) -> Said:
    """What is said where node1's name means other addresses on two hosts.

    On node1 itself it means 127.0.1.1, as Debian's installer writes it: that harms no run.
    """
    with mended() as hosts:
        rename(hosts["node1"], "127.0.1.1")
        rename(hosts["node3"], "10.77.0.2")
        rename(hosts["node4"], "127.0.1.1")
        return hosts.preflight("--master-port", PORT, "--master-addr", "node1")


def test_a_name_that_means_another_host_on_one(named: Said) -> None:
    line = named.line("node3", "master address", *NAMED)
    assert "found node1 is 10.77.0.2 here, expected 10.77.0.1" in line
    assert "correct /etc/hosts there, or give --master-addr 10.77.0.1" in line


def test_a_name_that_means_loopback_on_one(named: Said) -> None:
    line = named.line("node4", "master address", *NAMED)
    assert "found node1 is 127.0.1.1 here" in line


def test_an_occupied_master_port(hosts: Hosts) -> None:
    program = f"import socket, time; s = socket.create_server(('', {PORT})); time.sleep(600)"
    hosts["node1"].run(["sh", "-c", f'python3 -c "{program}" >/dev/null 2>&1 &'])
    line = hosts.preflight("--master-port", PORT).line("node1", "master port")
    assert f"found {PORT} in use by pid" in line
    assert "(python3)" in line
    assert "--master-port" in line


def test_packet_loss(hosts: Hosts) -> None:
    lose(hosts["node4"], "numgen random mod 100 < 20")
    said = hosts.preflight("--master-port", PORT)
    # Some packet in thousands is lost each time that it is sent, until it counts as stuck; of a
    # pair alone, that is told of the other host.
    told = ((f["host"], f["subject"]) for f in said.failing)
    may = [each for each in told if each[1] in ("packets", "ports")]
    line = said.line("node4", "packet loss", ("node4", "bandwidth"), *may)
    assert "of packets with node1, node2, node3 sent again" in line


def test_a_slow_link(hosts: Hosts) -> None:
    limit = "tc qdisc add dev eth0 root tbf rate 20mbit burst 32kb latency 400ms"
    hosts["node2"].run(limit.split())
    line = hosts.preflight("--master-port", PORT).line("node2", "bandwidth")
    assert "Mbit/s with node1, node3, node4" in line
    assert "ethtool" in line
