"""Targets: what one wheel has to be for these hosts, and every reason why none can be."""

from __future__ import annotations

import pytest
from packaging.version import Version

from provision.errors import ConfigError
from provision.findings import Level
from provision.hosts.here import HERE, read_here
from provision.hosts.targets import (
    Wanted,
    compare_built,
    compare_hosts,
    compare_wanted,
    fill_flags,
    make_targets,
    require_python,
)


def gpu(name, capability):
    return {"index": "0", "name": name, "compute_cap": capability}


A100, H100 = gpu("NVIDIA A100-SXM4-80GB", "8.0"), gpu("NVIDIA H100 80GB HBM3", "9.0")
PY312 = {"path": "/usr/bin/python3.12", "version": "3.12.3", "venv": True}
PY311 = {"path": "/usr/bin/python3", "version": "3.11.2", "venv": True}


@pytest.fixture
def rack(make_facts):
    """An A100 host with an old OS, and an H100 host with a new one."""
    old = {"gpus": [A100, A100], "glibc": "2.31", "glibcxx": "3.4.28", "pythons": [PY311, PY312]}
    new = {"gpus": [H100], "cpu_level": "x86-64-v4", "glibc": "2.39", "pythons": [PY312]}
    return {"node1": make_facts("node1", **new), "node2": make_facts("node2", **old)}


@pytest.fixture
def wanted():
    """What is to be built for the rack; keywords replace values."""

    def make(**changes):
        values = {
            "accelerator": "cuda",
            "archs": ("8.0", "9.0"),
            "cpu": "x86-64-v3",
            "python_tag": "cp312",
            "ops": ("fused_adam",),
        }
        return Wanted(**{**values, **changes})

    return make


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


def test_what_fits_all_hosts_has_no_finding(rack, wanted, make_facts):
    assert compare_wanted(make_targets(rack, None), wanted(), make_facts(HERE)).ok


@pytest.mark.parametrize(
    ("change", "host", "subject", "found"),
    [
        ({"archs": ("8.0",)}, "node1", "gpu", "NVIDIA H100 80GB HBM3 (9.0)"),
        ({"cpu": "x86-64-v4"}, "node2", "cpu", "x86-64-v3"),
        ({"cpu": "native"}, "node1", "cpu", "x86-64-v4"),
        ({"python_tag": "cp311"}, "node1", "python", "cp312"),
    ],
)
def test_a_flag_that_does_not_fit_the_hosts_is_an_error(
    rack, wanted, make_facts, change, host, subject, found
):
    report = compare_wanted(make_targets(rack, None), wanted(**change), make_facts(HERE))
    finding = report.failing[0]
    assert (finding.host, finding.subject, finding.found) == (host, subject, found)
    assert finding.remedy


def test_a_newer_glibc_here_is_refused_before_compiling_where_it_will_show(
    rack, wanted, make_facts
):
    targets, here = make_targets(rack, None), make_facts(HERE)  # glibc 2.36, glibcxx 3.4.30
    glibc, glibcxx = compare_wanted(targets, wanted(ops=("cpu_adam",)), here).failing
    assert (glibc.host, glibc.subject, glibc.found) == ("node2", "glibc", "2.31")
    assert "--on node2" in glibc.remedy
    assert glibcxx.subject == "glibcxx"
    old = make_facts(HERE, glibc="2.31", glibcxx="3.4.28")
    assert compare_wanted(targets, wanted(ops=("cpu_adam",)), old).ok
    unread = make_facts(HERE, glibc={"unknown": "why"}, glibcxx={"unknown": "why"})
    assert compare_wanted(targets, wanted(ops=("cpu_adam",)), unread).ok


def test_a_wheel_above_the_oldest_host_is_refused(rack, make_manifest):
    targets = make_targets(rack, None)
    (finding,) = compare_built(targets, make_manifest(glibc="2.32", glibcxx="3.4.28")).failing
    assert (finding.host, finding.found) == ("node2", "2.31")
    assert finding.remedy == "build on the oldest host: invoke build-deepspeed --on node2"
    assert compare_built(targets, make_manifest(glibc="2.31", glibcxx="")).ok


def test_a_host_builds_with_a_python_that_every_host_has(rack):
    targets = make_targets(rack, None)
    tags = {"cp311": "/usr/bin/python3", "cp312": "/usr/bin/python3.12"}
    assert require_python(targets, tags, "node2") == "/usr/bin/python3.12"
    assert require_python(None, tags, "node2") == "/usr/bin/python3"
    with pytest.raises(ConfigError, match="--on node2: python: found cp311, expected cp312"):
        require_python(targets, {"cp311": "/usr/bin/python3"}, "node2")
    with pytest.raises(ConfigError, match=r"found none .*expected Python 3\.11 or later"):
        require_python(None, {}, "node2")


def test_this_machine_is_read_as_a_host_is():
    facts = read_here()
    assert facts.host == HERE
    assert facts["machine"].value
