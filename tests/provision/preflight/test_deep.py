"""The deep test: what hosts are told, and how what they measured is judged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provision.errors import ConfigError, HostError, UnreachableError
from provision.findings import Level
from provision.preflight.deep import Deep, evaluate_deep, make_deep, make_orders

NODES = ("node1", "node2", "node3", "node4")
ALLREDUCE = {"bytes": 64 << 20, "seconds": 0.1}


def answers(**rates):
    """What four hosts measure: 1 GB/s, or as given to and from a host."""
    return {
        host: {
            "allreduce": ALLREDUCE,
            "rates": {
                str(to): min(rates.get(host, 1e9), rates.get(other, 1e9))
                for to, other in enumerate(NODES)
                if other != host
            },
        }
        for host in NODES
    }


def test_every_rank_has_its_place(wanted):
    wanted = replace(
        wanted, slots={"node1": 4, "node2": 2, "node3": 8}, interfaces={"node2": "eth7"}
    )
    orders = make_orders(wanted)
    assert [o["first_rank"] for o in orders.values()] == [0, 4, 6]
    assert {o["world_size"] for o in orders.values()} == {14}
    assert {tuple(o["leaders"]) for o in orders.values()} == {(0, 4, 6)}
    assert orders["node1"]["environ"] == {}
    chosen = replace(wanted, accelerator="cuda", devices={"node3": (1, 4)})
    seen = {h: o["environ"].get("CUDA_VISIBLE_DEVICES") for h, o in make_orders(chosen).items()}
    assert seen == {"node1": None, "node2": None, "node3": "1,4"}
    named = {"GLOO_SOCKET_IFNAME": "eth7", "NCCL_SOCKET_IFNAME": "=eth7"}
    assert orders["node2"]["environ"] == named
    assert orders["node1"]["backend"] == "gloo"
    assert make_orders(replace(wanted, accelerator="cuda"))["node1"]["backend"] == "nccl"


def test_an_accelerator_without_a_known_backend_is_refused(wanted):
    with pytest.raises(ConfigError, match="accelerator hpu"):
        make_orders(replace(wanted, accelerator="hpu"))


def test_hosts_alike_are_ok_and_ranked(wanted):
    report = evaluate_deep(wanted, make_deep(answers()))
    assert {f.level for f in report.findings} == {Level.OK}
    # 2 x 3/4 of 64 MiB in 0.1 s.
    assert report.findings[0].found == "64 MiB at 8.1 Gbit/s (bus bandwidth)"
    assert [f.subject for f in report.findings].count("pairs") == 4


def test_a_slow_host_comes_first_and_fails(wanted):
    found = evaluate_deep(wanted, make_deep(answers(node3=5e7))).findings
    pairs = [f for f in found if f.subject == "pairs"]
    assert pairs[0].host == "node3"
    assert pairs[0].level is Level.ERROR
    assert pairs[0].found.startswith("400 Mbit/s, 1 of 4 from the slowest")
    assert {f.level for f in pairs[1:]} == {Level.OK}


def test_a_host_that_failed_leaves_the_others_unknown(wanted):
    deep = Deep(errors={"node2": "no answer"})
    levels = {f.host: f.level for f in evaluate_deep(wanted, deep).findings}
    assert levels["node2"] is Level.ERROR
    assert levels["node1"] is Level.UNKNOWN


def test_an_error_of_one_rank_is_its_hosts(wanted):
    some = {**answers(), "node4": {"error": "RuntimeError: Connection closed by peer"}}
    (finding,) = evaluate_deep(wanted, make_deep(some)).failing
    assert "node4: all-reduce: found RuntimeError: Connection closed" in str(finding)


@pytest.mark.parametrize(("kind", "code"), [(HostError, 1), (UnreachableError, 3)])
def test_a_host_that_is_gone_is_the_one_that_is_accused(wanted, kind, code):
    gone = kind("node4: ssh", found="none", expected="one", remedy="look there")
    waited = {host: {"error": "DistStoreError: Timed out"} for host in NODES}
    some = {**waited, "node4": {"error": "no answer from it any more (none)", "gone": gone}}
    report = evaluate_deep(wanted, make_deep(some))
    levels = {f.host: f.level for f in report.findings}
    assert levels == {**dict.fromkeys(NODES, Level.UNKNOWN), "node4": Level.ERROR}
    assert report.exit_code == code


def test_one_host_alone_has_no_pairs(wanted):
    alone = replace(wanted, slots={"node1": 2})
    report = evaluate_deep(alone, make_deep({"node1": {"allreduce": ALLREDUCE, "rates": {}}}))
    assert [f.subject for f in report.findings] == ["all-reduce"]
