"""Fit: what a build is about to make, and what it made, against the hosts it is for."""

from __future__ import annotations

import pytest

from provision.errors import ConfigError
from provision.hosts.fit import Wanted, compare_built, compare_wanted, require_python
from provision.hosts.here import HERE
from provision.hosts.targets import make_targets

PY311 = {"path": "/usr/bin/python3", "version": "3.11.2", "venv": True}


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
    newer = {"a": make_facts("a", gpus=rack["node1"].gpus, glibc="2.35")}
    assert compare_wanted(make_targets(newer, "cpu"), wanted(ops=("cpu_adam",), accelerator="cpu",
        python_tag="cp311"), here).ok  # fmt: skip
    unread = make_facts(HERE, glibc={"unknown": "why"}, glibcxx={"unknown": "why"})
    assert compare_wanted(targets, wanted(ops=("cpu_adam",)), unread).ok


def test_a_wheel_above_the_oldest_host_is_refused(rack, make_manifest):
    targets = make_targets(rack, None)
    (finding,) = compare_built(targets, make_manifest(glibc="2.32", glibcxx="3.4.28")).failing
    assert (finding.host, finding.found) == ("node2", "2.31")
    assert finding.remedy == "build on the oldest host: invoke build-deepspeed --on node2"
    assert compare_built(targets, make_manifest(glibc="2.31", glibcxx="")).ok


def test_a_host_builds_with_a_python_that_every_host_has(rack, make_facts):
    targets = make_targets(rack, None)
    assert require_python(targets, rack["node2"]).tag == "cp312"
    assert require_python(None, rack["node2"]).tag == "cp311"
    with pytest.raises(ConfigError, match=r"--on node4: python: found 3\.11\.2, .*\(cp312\)"):
        require_python(targets, make_facts("node4", pythons=[PY311]))
    assert require_python(targets, rack["node2"], "python3").tag == "cp311"
    assert require_python(None, rack["node2"], "/usr/bin/python3.12").tag == "cp312"
    with pytest.raises(ConfigError, match=r"expected python3\.13, Python 3\.11 or later"):
        require_python(None, rack["node2"], "python3.13")


@pytest.mark.parametrize(
    ("pythons", "found"),
    [
        ([{**PY311, "version": "3.9.2"}], "3.9.2"),
        ([{**PY311, "venv": False}], "3.11.2"),
        ([], "none"),
        ({"unknown": "why"}, r"unknown \(why\)"),
    ],
)
def test_a_host_without_a_python_that_can_build(make_facts, pythons, found):
    with pytest.raises(ConfigError, match=rf"found {found}, expected Python 3\.11 or later"):
        require_python(None, make_facts("node1", pythons=pythons))
