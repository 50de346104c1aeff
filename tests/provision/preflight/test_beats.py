"""The heartbeat's way, judged: who does not hear whom, and the command that mends it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provision.findings import Level
from provision.preflight.beats import judge_beats

NODES = ("node1", "node2", "node3", "node4")


@pytest.fixture
def judged(wanted, nodes):
    def judge(mesh, facts=None):
        return [
            f"{f.level}: {f}"
            for f in judge_beats(wanted.mesh, mesh, facts or nodes())
            if f.level is not Level.OK
        ]

    return judge


def deaf(mesh, host, *senders):
    """The mesh where a host does not hear these."""
    heard = [each for each in mesh.dials[host]["heard"] if each not in senders]
    return replace(mesh, dials={**mesh.dials, host: {**mesh.dials[host], "heard": heard}})


def test_where_all_hear_all_every_host_is_ok(wanted, mesh, nodes):
    found = judge_beats(wanted.mesh, mesh, nodes())
    assert [f.host for f in found if f.level is Level.OK] == list(NODES) == [f.host for f in found]


def test_a_pair_in_one_direction_names_both_and_the_command(judged, mesh, nodes):
    firewall = {"policies": {"inet filter input": "drop"}, "rules": []}
    facts = nodes("node1", firewall=firewall, **{"firewall.tool": "nft"})
    (line,) = judged(deaf(mesh, "node1", "node3"), facts)
    assert line == (
        "error: node3: heartbeat port: found UDP 29500 to node1 blocked, expected datagrams to "
        "arrive: the supervisors of a run watch one another there: on node1, as root: nft insert "
        "rule inet filter input 'ip saddr { 10.0.0.3 } udp dport 29500 accept'"
    )


def test_a_host_that_hears_nobody_is_told_once(judged, mesh):
    (line,) = judged(deaf(mesh, "node2", "node1", "node3", "node4"))
    assert "node2: heartbeat port: found UDP 29500 from node1, node3, node4 blocked" in line
    assert "open UDP 29500 for 10.0.0.1,10.0.0.3,10.0.0.4 on node2" in line


def test_a_host_that_nobody_hears(judged, mesh):
    for host in NODES[1:]:
        mesh = deaf(mesh, host, "node1")
    (line,) = judged(mesh)
    assert "node1: heartbeat port: found UDP 29500 to node2, node3, node4 blocked" in line
    assert "does node1 filter what it sends? else " in line


def test_a_taken_port_is_told_and_its_host_is_not_called_deaf(judged, mesh):
    taken = {**mesh.hellos["node2"], "udp_error": "29500 in use by pid 7 (x)", "udp": None}
    dials = {**mesh.dials, "node2": {**mesh.dials["node2"], "heard": None}}
    for host in ("node1", "node3", "node4"):
        heard = [each for each in mesh.dials[host]["heard"] if each != "node2"]
        dials[host] = {**mesh.dials[host], "heard": heard}
    mesh = replace(mesh, hellos={**mesh.hellos, "node2": taken}, dials=dials)
    (line,) = judged(mesh)
    assert (
        "node2: heartbeat port: found UDP 29500 in use by pid 7 (x), expected that UDP port free"
        in line
    )
