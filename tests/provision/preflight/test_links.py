"""The mesh, judged: faults as agents answered them, told of the right host."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provision.errors import HostError
from provision.findings import Level
from provision.preflight.blame import Blame, blame
from provision.preflight.links import judge_mesh
from provision.preflight.mesh import Mesh

NODES = ("node1", "node2", "node3", "node4")
SILENT = "no answer in 3.5 s"


@pytest.fixture
def judged(wanted, nodes):
    def judge(mesh, facts=None, **changes):
        findings = judge_mesh(replace(wanted.mesh, **changes), mesh, facts or nodes())
        every = [f for host in NODES for f in findings[host]]
        return [f"{f.level}: {f}" for f in every if f.level is not Level.OK]

    return judge


def close(mesh, pairs, why=SILENT):
    for a, b in pairs:
        answer = mesh.dials[a]["peers"][b]
        mesh.dials[a]["peers"][b] = {"ports": dict.fromkeys(answer["ports"], why)}
    rates = {pair: rate for pair, rate in mesh.rates.items() if pair not in pairs}
    return replace(mesh, rates=rates)


def test_a_healthy_network_is_ok_in_every_subject(wanted, mesh, nodes):
    findings = judge_mesh(wanted.mesh, mesh, nodes())
    for host in NODES:
        assert {f.level for f in findings[host]} == {Level.OK}
        assert {f.subject for f in findings[host]} == {
            "master port", "ports", "packets", "packet loss", "bandwidth",
        }  # fmt: skip


def test_a_port_closed_one_way_names_both_hosts_and_the_command(judged, mesh, nodes):
    firewall = {"policies": {"inet filter input": "drop"}, "rules": []}
    facts = nodes("node1", firewall=firewall, **{"firewall.tool": "nft"})
    (line,) = judged(close(mesh, [("node3", "node1")]), facts)
    assert line == (
        "error: node3: ports: found TCP 32768-60999 to node1 blocked "
        "(5 of 5 sampled ports: no answer in 3.5 s), expected every port of it to answer: gloo "
        "and NCCL listen there: on node1, as root: nft insert rule inet filter input "
        "'ip saddr { 10.0.0.3 } tcp dport 32768-60999 accept'"
    )


def test_an_ephemeral_range_closed_to_all_is_told_once_of_its_host(judged, mesh):
    mesh = close(mesh, [(other, "node1") for other in NODES[1:]])
    (line,) = judged(mesh)
    assert "node1: ports: found TCP 32768-60999 from node2, node3, node4 blocked" in line
    assert "open TCP 32768-60999 for 10.0.0.2,10.0.0.3,10.0.0.4 on node1" in line


def test_a_host_that_lets_nothing_out_is_told_as_such(judged, mesh):
    (line,) = judged(close(mesh, [("node2", other) for other in ("node1", "node3", "node4")]))
    assert "node2: ports: found TCP 32768-60999 to node1, node3, node4 blocked" in line
    assert "does node2 filter what it sends?" in line


def test_some_ports_of_the_range_are_enough(judged, mesh):
    mesh.dials["node2"]["peers"]["node4"]["ports"]["33000"] = SILENT
    (line,) = judged(mesh)
    assert "1 of 5 sampled ports" in line


def test_a_closed_master_port_is_a_finding_of_the_host_that_cannot_reach_it(judged, mesh, nodes):
    mesh.dials["node2"]["master"]["reached"] = SILENT
    (line,) = judged(mesh, nodes("node1", **{"firewall.tool": "ufw"}))
    assert line == (
        "error: node2: master port: found no answer in 3.5 s, expected 10.0.0.1:29500 reached: "
        "on node1, as root: ufw allow proto tcp from 10.0.0.2 to any port 29500"
    )


def test_a_master_port_that_is_refused_may_be_another_machines(judged, mesh):
    mesh.dials["node2"]["master"]["reached"] = "Connection refused"
    (line,) = judged(mesh)
    assert "10.0.0.1 is not node1, or a firewall rejects: " in line


def test_an_occupied_master_port_is_the_one_finding(judged, mesh):
    mesh.hellos["node1"]["master_error"] = "in use by pid 7 (python3)"
    assert judged(Mesh(hellos=mesh.hellos)) == [
        "error: node1: master port: found 29500 in use by pid 7 (python3), expected 29500 free: "
        "stop it, or choose another with --master-port"
    ]


def name(mesh, host, addresses, reached=0.001):
    mesh.dials[host]["master"] = {"addresses": addresses, "reached": reached}


def test_a_master_that_is_loopback_on_another_host(judged, mesh):
    name(mesh, "node2", ["127.0.1.1"], "Connection refused")
    (line,) = judged(mesh, master_addr="node1")
    assert "node2: master address: found node1 is 127.0.1.1 here: this host itself" in line
    assert "correct /etc/hosts there, or give --master-addr 10.0.0.1" in line


def test_a_master_that_is_loopback_on_itself_is_as_it_should_be(judged, mesh):
    name(mesh, "node1", ["127.0.1.1"])
    assert judged(mesh, master_addr="node1") == []


def test_a_name_that_means_another_address_on_one_host(judged, mesh):
    name(mesh, "node3", ["10.9.9.9"], SILENT)
    (line,) = judged(mesh, master_addr="node1")
    assert "error: node3: master address: found node1 is 10.9.9.9 here" in line
    assert "expected 10.0.0.1, as on other hosts" in line
    name(mesh, "node3", ["10.9.9.9"])
    (line,) = judged(mesh, master_addr="node1")
    assert line.startswith("warn: node3: master address")


def test_a_name_that_does_not_resolve(judged, mesh):
    mesh.dials["node4"]["master"] = {"error": "Name or service not known", "reached": "x"}
    (line,) = judged(mesh, master_addr="node1")
    assert "node4: master address: found node1 does not resolve here" in line


def test_a_black_hole_for_full_packets_is_told_of_the_host_they_share(judged, mesh):
    for other in NODES[1:]:
        hole = {"of": 65536, "mtu": 1500, "passes": 1400}
        mesh.dials[other]["peers"]["node1"]["packets"] = {**hole, "up": 0, "down": 65536}
        mesh.dials["node1"]["peers"][other]["packets"] = {**hole, "up": 65536, "down": 0}
    (line,) = judged(mesh)
    assert (
        "node1: packets: found small packets pass, 1500-byte ones from node2, node3, node4 "
        "vanish: an MTU black hole" in line
    )
    assert "ip link set dev eth0 mtu 1400 on every host" in line
    assert "fragmentation needed" in line


def lose(mesh, host, again):
    for other in NODES:
        if other != host:
            for a, b in ((host, other), (other, host)):
                mesh.dials[a]["peers"][b]["exchange"]["tcp"] = [[again, 104], [0, 102]]


def test_packet_loss_is_told_with_its_share(judged, mesh):
    lose(mesh, "node2", 20)
    (line,) = judged(mesh)
    assert "error: node2: packet loss: found 10% of packets with node1, node3, node4" in line


def test_a_packet_or_two_are_no_loss(judged, mesh):
    lose(mesh, "node2", 1)
    assert judged(mesh) == []


def test_a_slow_link_is_held_against_the_usual_one(judged, mesh):
    slow = {pair: 1.2e6 for pair in mesh.rates if pair[0] == "node3"}
    (line,) = judged(replace(mesh, rates={**mesh.rates, **slow}))
    assert "error: node3: bandwidth: found 10 Mbit/s to node1, node2, node4" in line
    assert "expected about 8.8 Gbit/s" in line
    fair = {pair: 4e8 for pair in mesh.rates if pair[0] == "node3"}
    assert judged(replace(mesh, rates={**mesh.rates, **fair})) == []


def test_a_busy_cpu_is_not_taken_for_a_slow_link(judged, mesh):
    """What a loaded machine was seen to measure: 44 Gbit/s one way, 3.5 the other."""
    fast = dict.fromkeys(mesh.rates, 5.55e9)
    busy = {pair: 4.4e8 for pair in mesh.rates if pair[0] == "node3"}
    assert judged(replace(mesh, rates={**fast, **busy})) == []
    slow = {pair: 1.2e8 for pair in mesh.rates if pair[0] == "node3"}
    (line,) = judged(replace(mesh, rates={**fast, **slow}))
    assert line.startswith("error: node3: bandwidth: found 960 Mbit/s")


def test_two_hosts_that_are_both_slow_are_held_to_their_nic(judged, mesh, nodes):
    nic = {"name": "eth0", "kind": "physical", "speed": 10000}
    facts = nodes(interfaces=[nic])
    slow = replace(mesh, rates=dict.fromkeys(mesh.rates, 1.1e8))
    assert all("bandwidth: found 880 Mbit/s, expected about 10.0" in x for x in judged(slow, facts))
    assert len(judged(slow, facts)) == 4
    assert judged(slow, nodes(interfaces=[{**nic, "kind": "veth"}])) == []


def test_a_connection_on_which_nothing_comes_after_is_an_error(judged, mesh):
    mesh.dials["node2"]["peers"]["node4"]["exchange"] = {"error": "timed out"}
    (line,) = judged(mesh)
    assert "node2: packets: found node4: connected, but then timed out" in line


def test_a_host_that_gave_no_answer_accuses_no_other(judged, mesh):
    error = HostError("node2: answer", found="none in 30 s", expected="one", remedy="busy?")
    closed = close(mesh, [(other, "node2") for other in NODES if other != "node2"])
    dials = {host: dial for host, dial in closed.dials.items() if host != "node2"}
    (line,) = judged(replace(closed, dials=dials, errors={"node2": error}))
    assert line == "unknown: node2: network: found none in 30 s, expected one: busy?"


def test_blame_goes_to_the_host_that_bad_pairs_share():
    assert blame([], NODES) == ()
    assert blame([("node2", "node1")], NODES) == (Blame(host="node2", way="to", peers=("node1",)),)
    into = [(other, "node4") for other in NODES[:3]]
    assert blame(into, NODES) == (Blame(host="node4", way="from", peers=NODES[:3]),)
    both = [*into, ("node4", "node1"), ("node2", "node3")]
    assert blame(both, NODES) == (
        Blame(host="node4", way="with", peers=NODES[:3]),
        Blame(host="node2", way="to", peers=("node3",)),
    )
