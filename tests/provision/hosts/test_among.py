"""Odd ones out: against the majority, as hard as the subject deserves."""

from __future__ import annotations

import pytest

from provision.findings import Level
from provision.hosts.among import compare_among
from provision.hosts.traits import TRAITS

H100 = {
    "index": "0", "name": "NVIDIA H100 80GB HBM3", "compute_cap": "9.0", "memory_total": "81559",
    "memory_used": "0", "uuid": "GPU-1", "mig": "Disabled", "ecc": "Enabled",
    "pcie_gen_max": "5", "pcie_width_max": "16",
}  # fmt: skip
A100 = {**H100, "name": "NVIDIA A100-SXM4-80GB", "compute_cap": "8.0"}
#: What the recorded host says nothing of.
REST = {
    "gpu.unread": {"absent": True}, "gpu.nvlink": {"absent": True}, "infiniband": {"absent": True},
    "interfaces": [{"name": "eth0", "speed": 10000, "mtu": 1500}], "cpu.quota": {"absent": True},
    "memory.limit": {"absent": True},
}  # fmt: skip


ROUTE = {"address": "10.0.0.2", "source": "10.0.0.1", "interface": "eth0", "mtu": 1500}


@pytest.fixture
def fleet(make_facts):
    """``fleet(5, node3={"kernel": "6.1.1"}, gpu_driver=…)``: equal hosts but for those named."""

    def make(count, odd=None, **all_of_them):
        named = odd or {}
        return {
            host: make_facts(host, **{**REST, **all_of_them, **named.get(host, {})})
            for host in (f"node{n + 1}" for n in range(count))
        }

    return make


def odd(hosts, **keywords):
    """(host, subject, level) of what is not ok."""
    keywords.setdefault("slots", {})
    found = compare_among(hosts, **keywords)
    return [(f.host, f.subject, str(f.level)) for f in found if f.level is not Level.OK]


def test_equal_hosts_are_equal_in_every_trait_there_is(fleet):
    findings = compare_among(fleet(3), slots={})
    assert {f.level for f in findings} == {Level.OK}
    subjects = {f.subject for f in findings}
    assert {"kernel", "memory", "gpu.count", "network.speed"} <= subjects
    assert not subjects & {"gpu.driver", "infiniband", "environment.torch"}  # nobody has one


def test_one_host_has_nobody_to_differ_from(fleet):
    assert compare_among(fleet(1), slots={}) == []


def test_the_odd_one_out_is_named_against_the_majority(fleet):
    hosts = fleet(3, {"node3": {"gpu_driver": "570.2"}}, gpu_driver="580.1", gpus=[H100])
    (finding,) = (f for f in compare_among(hosts, slots={}) if f.level is not Level.OK)
    assert (finding.host, finding.level) == ("node3", Level.WARN)
    assert "found 570.2, expected 580.1, as 2 of 3 hosts" in str(finding)
    assert finding.remedy


@pytest.mark.parametrize(
    ("count", "odd_ones", "named"),
    [
        (2, {"node2": "5.15.0"}, ["node1", "node2"]),  # 1:1
        (4, {"node3": "5.15.0", "node4": "5.15.0"}, ["node1", "node2", "node3", "node4"]),
        (4, {"node3": "5.15.0", "node4": "6.8.0"}, ["node1", "node2", "node3", "node4"]),
        (5, {"node4": "5.15.0", "node5": "6.8.0"}, ["node4", "node5"]),
    ],
)
def test_without_a_majority_all_are_named(fleet, count, odd_ones, named):
    hosts = fleet(count, {host: {"kernel": value} for host, value in odd_ones.items()})
    assert odd(hosts) == [(host, "kernel", "warn") for host in named]


NOT_DEPLOYED = {"environment": {"absent": True}, "environment.now": {"absent": True}}
ENV = {
    "environment": {"lock": "e1", "python": "3.11.2", "wheel_sha256": "aa", "torch": "2.13.0+cpu"},
    "environment.now": {"torch": "2.13.0", "torch_cuda": "13.0", "nccl": "2.27", "deepspeed": "1"},
}  # fmt: skip


def deployed(**changes):
    return {"environment": {**ENV["environment"], **changes}}


def holding(**changes):
    return {"environment.now": {**ENV["environment.now"], **changes}}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"kernel": "6.1.0-20-amd64"}, [("kernel", "note")]),
        ({"kernel": "6.8.0-40-generic"}, [("kernel", "warn")]),
        ({"os": "Ubuntu 24.04"}, [("os", "note")]),
        ({"machine": "aarch64"}, [("machine", "error")]),
        ({"cpu_cores": 1}, [("cpu.cores", "note")]),
        ({"memory": {"total": 25_000_000_000}}, []),
        ({"memory": {"total": 12_000_000_000}}, [("memory", "warn")]),
        ({"memory.limit": {"limit": 1 << 30}}, [("memory.limit", "warn")]),
        ({"toolkit": "12.4"}, [("toolkit", "note")]),
        ({"gpu_driver": "580.95.05"}, [("gpu.driver", "note")]),
        ({"gpu_driver": "575.51.03"}, [("gpu.driver", "warn")]),
        ({"gpus": [H100]}, [("gpu.count", "error")]),
        ({"gpus": {"absent": True}}, [("gpu.count", "error")]),
        ({"gpus": [H100] * 3}, [("gpu.count", "note")]),
        ({"gpus": [A100] * 2}, [("gpu.model", "warn")]),
        ({"gpus": [H100, {**H100, "mig": "Enabled"}]}, [("gpu.mig", "error")]),
        ({"gpus": [H100, {**H100, "pcie_width_max": "8"}]}, [("gpu.pcie", "warn")]),
        ({"gpus": {"unknown": "nvidia-smi: no answer in 20 s"}}, [("gpu.count", "unknown")]),
        ({"toolkit": {"unknown": "nvcc: exit 1"}}, [("toolkit", "note")]),
        ({"gpu.nvlink": {"0": ["26 GB/s", "<inactive>"]}}, [("gpu.nvlink", "warn")]),
        ({"infiniband": {"absent": True}}, [("infiniband", "warn")]),
        ({"interfaces": [{"name": "eth0", "speed": 1000}]}, [("network.speed", "warn")]),
        ({"routes": {"a": {**ROUTE, "mtu": 9000}}}, [("mtu", "warn")]),
        (NOT_DEPLOYED, [("environment.lock", "error")]),
        (deployed(wheel_sha256="b"), [("environment.wheel", "error")]),
        (deployed(python="3.11.9"), [("environment.python", "note")]),
        (holding(torch="2.12.0"), [("environment.torch", "error")]),
        (holding(nccl="2.26"), [("environment.nccl", "error")]),
    ],
    ids=str,
)  # fmt: skip
def test_each_difference_is_as_bad_as_it_is(fleet, change, expected):
    hosts = fleet(
        3,
        {"node2": change},
        gpu_driver="580.65.06",
        gpus=[H100] * 2,
        infiniband=[{"state": "ACTIVE", "rate": "400 Gb/sec (4X NDR)", "link": "InfiniBand"}],
        routes={"a": ROUTE, "b": {**ROUTE, "address": "10.0.0.1", "mtu": 65536}},
        **{"gpu.nvlink": {"0": ["26 GB/s", "26 GB/s"]}},
        **ENV,
    )
    assert odd(hosts) == [("node2", *each) for each in expected]


def test_gpus_are_nothing_to_a_run_on_cpus_and_environments_nothing_to_a_deploy(fleet):
    hosts = fleet(3, {"node2": {"gpus": [H100], **NOT_DEPLOYED}}, gpus=[H100] * 2, **ENV)
    assert odd(hosts, gpu=False, deployed=False) == [("node2", "gpu.count", "note")]


@pytest.mark.parametrize(("slots", "level"), [(1, "note"), (2, "error")])
def test_fewer_gpus_are_no_fault_where_the_hosts_file_asks_for_no_more(fleet, slots, level):
    hosts = fleet(3, {"node2": {"gpus": [H100]}}, gpus=[H100] * 2)
    assert odd(hosts, slots={"node2": slots}) == [("node2", "gpu.count", level)]


def test_one_to_one_it_is_the_host_with_fewer_gpus_that_fails(fleet):
    hosts = fleet(2, {"node2": {"gpus": [H100]}}, gpus=[H100] * 2)
    assert odd(hosts) == [("node1", "gpu.count", "note"), ("node2", "gpu.count", "error")]


def test_memory_of_several_sizes_is_grouped(fleet):
    gibibytes = {"node1": 64, "node2": 63.1, "node3": 62.9, "node4": 32}
    sizes = {host: {"memory": {"total": int(g * 2**30)}} for host, g in gibibytes.items()}
    assert odd(fleet(4, sizes)) == [("node4", "memory", "warn")]


def test_what_nobody_can_read_is_not_the_same_on_all_hosts(fleet):
    hosts = fleet(2, machine={"unknown": "no uname"})
    assert odd(hosts) == [("node1", "machine", "unknown"), ("node2", "machine", "unknown")]


def test_names_are_unique_and_every_reason_is_one_line():
    names = [trait.name for trait in TRAITS]
    assert len(set(names)) == len(names)
    assert all(trait.why and trait.undo and "\n" not in trait.why for trait in TRAITS)
