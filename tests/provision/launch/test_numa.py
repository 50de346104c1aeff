"""How ranks are bound to CPUs: by facts, or as asked, or refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provision.errors import ConfigError
from provision.launch.nodes import plan_nodes
from provision.launch.numa import Binding, choose_binding, count_cpus
from provision.launch.spec import RunHost, RunSpec

TWO = [{"node": 0, "cpus": "0-31"}, {"node": 1, "cpus": "32-63"}]


@pytest.fixture
def host(make_facts):
    def make(nodes=TWO, numactl="/usr/bin/numactl", torch="2.13.0+cu130", cores=64):
        values = {"numa": nodes, "numactl": numactl, "environment": {"torch": torch}}
        return make_facts("node1", **values, cpu_cores=cores)

    return make


def test_near_its_gpu_where_the_host_has_several_numa_nodes(host):
    found = choose_binding("auto", host(), "cuda", "torchrun")
    assert (found.mode, str(found)) == ("node", "node (2 NUMA nodes)")


@pytest.mark.parametrize(
    ("facts", "accelerator", "launcher", "why"),
    [
        ({"nodes": TWO[:1]}, "cuda", "torchrun", "one NUMA node"),
        ({"nodes": [TWO[0], {"node": 1, "cpus": ""}]}, "cuda", "torchrun", "one NUMA node"),
        ({"nodes": {"unknown": "denied"}}, "cuda", "torchrun", "NUMA nodes unknown: denied"),
        ({}, "cpu", "torchrun", "binding is to a GPU's CPUs, and there is none"),
        ({}, "cuda", "deepspeed", "--launcher deepspeed has no such option"),
        ({"torch": "2.8.0"}, "cuda", "torchrun", "from torch 2.9 on, and there is 2.8.0"),
        ({"torch": None}, "cuda", "torchrun", "from torch 2.9 on, and there is none known"),
        ({"numactl": {"absent": True}}, "cuda", "torchrun", "no numactl there"),
    ],
)
def test_else_not_and_why(host, facts, accelerator, launcher, why):
    found = choose_binding("auto", host(**facts), accelerator, launcher)
    assert found.mode is None
    assert why in found.why
    if "NUMA node" not in why:
        with pytest.raises(ConfigError, match="node1: --numa-binding socket"):
            choose_binding("socket", host(**facts), accelerator, launcher)


def test_not_where_only_some_of_the_cpus_are_ours(host):
    found = choose_binding("auto", host(cores=32), "cuda", "torchrun")
    assert (found.mode, found.why) == (None, "32 of 64 CPUs are ours to use")


def test_cpus_as_the_kernel_lists_them():
    assert [count_cpus(text) for text in ("0-7,16-17", "3", "")] == [10, 1, 0]


def test_as_asked(host):
    assert choose_binding("exclusive", host(TWO[:1]), "cuda", "torchrun").mode == "exclusive"
    assert choose_binding("none", host(), "cuda", "torchrun") == Binding(mode=None, why="as asked")
    with pytest.raises(ConfigError, match="--numa-binding: found near, expected auto, none, node"):
        choose_binding("near", host(), "cuda", "torchrun")


def test_torchrun_is_told():
    bound = Binding(mode="node", why="2 NUMA nodes")
    one = RunHost(name="a", slots=1, home="/h", nproc_per_node=1, numa=bound)
    two = replace(one, name="b", numa=Binding(mode=None, why="one NUMA node"))
    spec = RunSpec(
        run="r", hosts=(one, two), master_addr="a", master_port=1, python="~/p",
        accelerator="cuda", objective="sft", zero_config="zero2.json", model="m", data="~/d",
    )  # fmt: skip
    first, second = plan_nodes(spec)
    at = first.argv.index("--numa-binding")
    assert first.argv[at + 1] == "node"
    assert at < first.argv.index("-m", 3)
    assert "--numa-binding" not in second.argv
