"""Targets: what one wheel has to be for these hosts, and every reason why none can be."""

from __future__ import annotations

import pytest
from packaging.version import Version

from provision.findings import Level
from provision.hosts.targets import (
    compare_hosts,
    fill_flags,
    make_targets,
)


def gpu(name, capability):
    return {"index": "0", "name": name, "compute_cap": capability}


H100 = gpu("NVIDIA H100 80GB HBM3", "9.0")


def failing(hosts, accelerator=None):
    return [(f.host, f.subject, f.level) for f in compare_hosts(hosts, accelerator).failing]


def test_one_wheel_for_all_is_every_gpu_the_lowest_cpu_and_the_oldest_glibc(rack):
    assert failing(rack) == []
    targets = make_targets(rack, None)
    assert (targets.accelerator, targets.archs) == ("cuda", ("8.0", "9.0"))
    assert targets.cpu == "x86-64-v3"
    assert (targets.oldest.host, targets.oldest.glibc) == ("node2", Version("2.31"))
    assert targets.pythons == ("cp312",)
    assert str(targets) == (
        "2 hosts: accelerator cuda, arch 8.0;9.0, CPU x86-64-v3, glibc 2.31 on node2"
    )


def test_archs_are_ordered_as_versions(make_facts):
    hosts = {"a": make_facts("a", gpus=[gpu("B200", "10.0")]), "b": make_facts("b", gpus=[H100])}
    assert make_targets(hosts, None).archs == ("9.0", "10.0")


def test_a_python_that_one_host_lacks_or_cannot_use_is_no_common_one(rack, make_facts):
    no_venv = {"path": "/usr/bin/python3.12", "version": "3.12.3", "venv": False}
    rack["node0"] = make_facts("node0", gpus=[H100], pythons=[no_venv])
    reverse = dict(sorted(rack.items(), reverse=True))
    assert make_targets(rack, None).pythons == make_targets(reverse, None).pythons == ()
    del rack["node0"], reverse["node0"]
    assert make_targets(reverse, None).pythons == ("cp312",)


def test_hosts_fill_in_what_was_not_given(rack):
    targets = make_targets(rack, None)
    none = {"accelerator": None, "arch": None, "cpu": "auto", "ops": "utils"}
    assert fill_flags(none, targets) == {
        "accelerator": "cuda", "arch": "8.0;9.0", "cpu": "x86-64-v3", "ops": "utils",
    }  # fmt: skip
    given = {"accelerator": "cuda", "arch": "8.0;9.0+PTX", "cpu": "x86-64-v2"}
    assert fill_flags(given, targets) == given
    assert fill_flags(none, None) == {**none, "cpu": None}


def test_a_cpu_wheel_for_hosts_with_gpus_has_no_archs(rack):
    targets = make_targets(rack, "cpu")
    assert fill_flags({"arch": None, "cpu": "auto"}, targets) == {
        "accelerator": "cpu", "arch": None, "cpu": "x86-64-v3",
    }  # fmt: skip


def test_hosts_without_gpus_get_a_cpu_wheel_only_when_asked(make_facts):
    hosts = {"node1": make_facts("node1"), "node2": make_facts("node2")}
    assert failing(hosts, "cpu") == []
    (one, two) = compare_hosts(hosts, None).failing
    assert [one.host, two.host] == ["node1", "node2"]
    assert "--accelerator cpu" in one.remedy
    assert failing(hosts, "cuda") == [(host, "gpu", Level.ERROR) for host in hosts]


def test_a_host_without_gpu_among_others_is_named(rack, make_facts):
    rack["node3"] = make_facts("node3")
    (finding,) = compare_hosts(rack, None).failing
    assert finding.host == "node3"
    assert "as on node1, node2" in finding.expected


@pytest.mark.parametrize(
    ("fact", "accelerator", "level"),
    [
        ({"gpus": {"unknown": "nvidia-smi: exit 9"}}, None, Level.UNKNOWN),
        ({"gpus": [gpu("odd", "[N/A]")]}, "cuda", Level.UNKNOWN),
        ({"glibc": {"unknown": "why"}}, "cpu", Level.UNKNOWN),
        ({"glibc": {"absent": True}}, "cpu", Level.ERROR),
        ({"glibcxx": {"absent": True}}, "cpu", Level.ERROR),
        ({"cpu_level": {"unknown": "why"}}, "cpu", Level.UNKNOWN),
        ({"cpu_level": "x86-64"}, "cpu", Level.ERROR),
        ({"pythons": {"unknown": "why"}}, "cpu", Level.UNKNOWN),
        ({"machine": {"unknown": "why"}}, "cpu", Level.UNKNOWN),
        ({"machine": "aarch64", "cpu_level": {"absent": True}}, "cpu", Level.ERROR),
    ],
)
def test_what_one_host_cannot_say_is_not_built_for(make_facts, fact, accelerator, level):
    hosts = {"node1": make_facts("node1", gpus=[H100]), "node2": make_facts("node2", **fact)}
    assert [(host, found) for host, _, found in failing(hosts, accelerator)] == [("node2", level)]


def test_gpus_that_cannot_be_read_do_not_matter_to_a_cpu_wheel(make_facts):
    hosts = {"node1": make_facts("node1", gpus={"unknown": "nvidia-smi: exit 9"})}
    assert failing(hosts, "cpu") == []
