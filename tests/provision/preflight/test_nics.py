"""Which interface a host's part of a run uses."""

from __future__ import annotations

import pytest

from provision.findings import Level
from provision.preflight.nics import choose_ways, judge_way

ADDRESSES = {"node1": "10.0.0.1", "node2": "10.0.0.2", "node3": "10.0.0.3"}


def route(interface, source, address="10.0.0.9"):
    return {"interface": interface, "source": source, "address": address}


@pytest.fixture
def chosen(make_facts):
    def choose(boots="abc", **odd):
        facts = {}
        for boot, (host, own) in zip(boots, ADDRESSES.items(), strict=False):
            routes = {a: route("eth0", own, a) for a in ADDRESSES.values()} | odd.get(host, {})
            facts[host] = make_facts(host, routes=routes, boot_id=boot)
        return choose_ways(facts, ADDRESSES)

    return choose


def test_the_interface_towards_the_others(chosen):
    ways = chosen()
    assert [(w.interface, w.address, w.problems) for w in ways.values()] == [
        ("eth0", address, ()) for address in ADDRESSES.values()
    ]
    assert judge_way("node1", ways["node1"])[0].level is Level.OK


def test_two_interfaces_are_a_warning_and_the_usual_one_is_taken(chosen):
    way = chosen(node1={"10.0.0.3": route("ib0", "10.1.0.1")})["node1"]
    assert way.interface in ("eth0", "ib0")
    (finding,) = way.problems
    assert finding.level is Level.WARN
    assert "eth0 (1 hosts), ib0 (1 hosts)" in finding.found


@pytest.mark.parametrize("name", ["docker0", "br-0123456789ab", "veth12ab", "virbr0"])
def test_a_bridge_of_containers_is_refused(chosen, name):
    routes = {a: route(name, "172.17.0.1") for a in ADDRESSES.values()}
    way = chosen(node2=routes)["node2"]
    assert way.interface is None
    assert all(f.level is Level.ERROR and name in f.found for f in way.problems)


def test_a_peer_that_is_loopback_here_is_an_error(chosen):
    loop = {"10.0.0.2": route("lo", "127.0.0.1", "127.0.1.1")}
    way = chosen(node1=loop)["node1"]
    assert way.interface == "eth0"
    assert [str(f) for f in way.problems] == [
        "node1: interface: found 10.0.0.2 is 127.0.1.1 here: this host itself, "
        "expected a way to node2 (10.0.0.2): remove that line from /etc/hosts of node1"
    ]


def test_hosts_that_ssh_reaches_through_tunnels_need_addresses_of_their_own(make_facts):
    routes = {"127.0.0.1": route("lo", "127.0.0.1", "127.0.0.1")}
    facts = {h: make_facts(h, routes=routes, boot_id=h) for h in ("a:2201", "b:2202")}
    ways = choose_ways(facts, dict.fromkeys(facts, "127.0.0.1"))
    (finding,) = ways["a:2201"].problems
    assert finding.level is Level.ERROR
    assert finding.remedy.startswith("reach the hosts at addresses of their own")


def test_names_of_one_network_reach_each_other_over_loopback(chosen):
    loop = {a: route("lo", "127.0.0.1", "127.0.0.1") for a in ADDRESSES.values()}
    ways = chosen("aaa", node1=loop, node2=loop, node3=loop)
    assert {(w.interface, w.problems) for w in ways.values()} == {("lo", ())}


def test_no_route_and_no_way_to_know_are_findings(chosen):
    way = chosen(node1={a: {"error": "Network is unreachable"} for a in ADDRESSES.values()})
    assert {f.found for f in way["node1"].problems} == {"Network is unreachable"}
    unknown = {
        a: {**route(None, "10.0.0.1"), "interface_unknown": "no ip"} for a in ADDRESSES.values()
    }
    assert {f.level for f in chosen(node1=unknown)["node1"].problems} == {Level.UNKNOWN}


def test_one_address_on_two_machines(chosen):
    same = {a: route("eth0", "192.168.122.2") for a in ADDRESSES.values()}
    ways = chosen(node1=same, node3=same)
    assert ways["node1"].address is ways["node3"].address is None
    assert "as on node3" in ways["node1"].problems[0].found
    assert ways["node2"].problems == ()


def test_one_host_alone_needs_no_peer(make_facts):
    routes = {"10.0.0.1": route("eth0", "10.0.0.1")}
    ways = choose_ways({"node1": make_facts("node1", routes=routes)}, {"node1": "10.0.0.1"})
    assert ways["node1"].interface == "eth0"
