"""The command that opens ports, for the firewall that is there."""

from __future__ import annotations

import pytest

from provision.preflight.firewall import mending, opening

TWO = {"node2": "10.0.0.2", "node3": "10.0.0.3"}


@pytest.mark.parametrize(
    ("tool", "line"),
    [
        (
            "firewalld",
            "on node1, as root: firewall-cmd --permanent --zone=trusted --add-source=10.0.0.2 "
            "--add-source=10.0.0.3 && firewall-cmd --reload",
        ),
        (
            "ufw",
            "on node1, as root: ufw allow proto tcp from 10.0.0.2 to any port 32768:60999 && "
            "ufw allow proto tcp from 10.0.0.3 to any port 32768:60999",
        ),
        (
            "nft",
            "on node1, as root: nft insert rule inet filter input "
            "'ip saddr { 10.0.0.2,10.0.0.3 } tcp dport 32768-60999 accept'",
        ),
        (
            "iptables",
            "on node1, as root: iptables -I INPUT -p tcp -s 10.0.0.2,10.0.0.3 "
            "--dport 32768:60999 -j ACCEPT",
        ),
    ],
)
def test_the_tool_that_is_there_is_used(make_facts, tool, line):
    facts = make_facts("node1", **{"firewall.tool": tool})
    assert opening("node1", facts, TWO, "32768-60999") == line


def test_nft_rules_go_into_the_chain_that_filters(make_facts):
    policies = {"inet t out": "accept", "inet mine input": "drop"}
    facts = make_facts("node1", firewall={"policies": policies}, **{"firewall.tool": "nft"})
    assert "nft insert rule inet mine input 'ip6 saddr" in opening(
        "node1", facts, {"node2": "fd00::2"}, "29500"
    )


def test_a_firewall_that_could_not_be_read_is_described(make_facts):
    text = opening("node1", make_facts("node1"), TWO, "29500")
    assert text.startswith("open TCP 29500 for 10.0.0.2,10.0.0.3 on node1 and on the way to it")


def test_a_host_that_filters_nothing_is_not_told_to_open_anything(make_facts):
    rules = {"policies": {"inet t in": "accept"}, "rules": ["tcp dport 32768-60999 drop"]}
    facts = {
        "node1": make_facts("node1", firewall={"absent": True}),
        "node2": make_facts("node2", firewall=rules),
        "node3": make_facts("node3", firewall={"absent": True}),
    }
    text = mending("node1", {"node2": "10.0.0.2"}, "29500", facts)
    assert text.startswith("node1 filters nothing: look at the rules of node2 for what drops")
    text = mending("node1", {"node3": "10.0.0.3"}, "29500", facts)
    assert text.startswith("no host here filters that: open TCP 29500 between node3 and node1")
    unknown = {**facts, "node1": make_facts("node1", firewall={"unknown": "only root may"})}
    assert mending("node1", TWO, "29500", unknown) == opening(
        "node1", unknown["node1"], TWO, "29500"
    )
