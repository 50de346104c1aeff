"""Parity: every way in which a host does not fit the wheel, and odd ones out among hosts."""

from __future__ import annotations

import pytest

from provision.findings import Level
from provision.hosts.parity import compare, compare_wheel

H100 = {
    "index": "0", "name": "NVIDIA H100 80GB HBM3", "compute_cap": "9.0",
    "memory_total": "81559", "memory_used": "0", "uuid": "GPU-1", "driver_version": "580.65.06",
}  # fmt: skip


def failing(manifest, facts, torch="2.13.0"):
    return [f for f in compare_wheel(manifest, torch, facts) if f.fails]


def test_a_fitting_host_has_no_failing_finding(make_manifest, make_facts):
    assert failing(make_manifest(), make_facts()) == []


@pytest.mark.parametrize(
    ("wheel", "host", "subject", "line"),
    [
        ({"python_tag": "cp313"}, {}, "python", "found 3.11.2, 3.12.1, expected 3.13"),
        ({"python_tag": "cp312"}, {}, "python", "found 3.12.1 without venv"),
        ({"torch": "2.12.1+cpu"}, {}, "torch", "found a wheel built for torch 2.12.1+cpu"),
        ({"glibc": "2.38"}, {}, "glibc", "found 2.36, expected 2.38 or later"),
        ({"glibcxx": "3.4.32"}, {}, "glibcxx", "found 3.4.30, expected 3.4.32 or later"),
        ({"cpu": "x86-64-v4"}, {}, "cpu", "found x86-64-v3, expected x86-64-v4 or later"),
        ({"platform": "linux_aarch64"}, {}, "machine", "found x86_64, expected linux_aarch64"),
    ],
)
def test_a_misfit_is_an_error_with_a_remedy(make_manifest, make_facts, wheel, host, subject, line):
    (finding,) = failing(make_manifest(**wheel), make_facts(**host))
    assert finding.subject == subject
    assert line in str(finding)
    assert finding.level is Level.ERROR
    assert finding.remedy


@pytest.mark.parametrize("fact", ["glibc", "glibcxx", "cpu_level", "machine", "pythons"])
def test_what_could_not_be_read_is_never_ok(make_manifest, make_facts, fact):
    (finding,) = failing(make_manifest(), make_facts(**{fact: {"unknown": "no access"}}))
    assert finding.level is Level.UNKNOWN
    assert "no access" in finding.found


def test_musl_has_no_glibc_and_does_not_fit(make_manifest, make_facts):
    assert failing(make_manifest(), make_facts(glibc={"absent": True}))


@pytest.mark.parametrize(
    ("driver", "level"),
    [
        ("580.65.06", Level.OK),
        ("590.1", Level.OK),
        ("535.104.05", Level.ERROR),
        ({"absent": True}, Level.ERROR),
        ({"unknown": "odd file"}, Level.UNKNOWN),
    ],
)
def test_a_cuda_wheel_needs_the_driver_of_its_torch_cuda(make_manifest, make_facts, driver, level):
    manifest = make_manifest(accelerator="cuda", torch_cuda="13.0", arch_list=("9.0",))
    findings = compare_wheel(manifest, "2.13.0", make_facts(gpu_driver=driver, gpus=[H100]))
    assert next(f for f in findings if f.subject == "driver").level is level


@pytest.mark.parametrize(
    ("archs", "capability", "level"),
    [
        (("9.0",), "9.0", Level.OK),
        (("8.0",), "8.6", Level.OK),
        (("8.6",), "8.0", Level.ERROR),
        (("8.0",), "9.0", Level.ERROR),
        (("8.0+PTX",), "9.0", Level.OK),
        (("9.0+PTX",), "8.0", Level.ERROR),
    ],
)
def test_device_code_must_run_on_the_gpu(make_manifest, make_facts, archs, capability, level):
    manifest = make_manifest(accelerator="cuda", torch_cuda="13.0", arch_list=archs)
    facts = make_facts(gpu_driver="580.1", gpus=[{**H100, "compute_cap": capability}])
    (gpu,) = (f for f in compare_wheel(manifest, "2.13.0", facts) if f.subject == "gpu")
    assert gpu.level is level


def test_no_gpu_where_the_wheel_wants_one_is_an_error(make_manifest, make_facts):
    manifest = make_manifest(accelerator="cuda", torch_cuda="13.0", arch_list=("9.0",))
    assert {f.subject for f in failing(manifest, make_facts())} == {"driver", "gpu"}


def test_the_odd_one_out_is_named_against_the_majority(make_facts):
    hosts = {n: make_facts(n, gpu_driver="580.1", gpus=[H100]) for n in ("node1", "node2")}
    hosts["node3"] = make_facts("node3", gpu_driver="570.2", gpus=[H100])
    (finding,) = (f for f in compare(None, "2.13.0", hosts).findings if f.level is not Level.OK)
    assert finding.host == "node3"
    assert finding.level is Level.WARN
    assert "found 570.2, expected 580.1, as 2 of 3 hosts" in str(finding)


def test_without_a_majority_every_host_is_shown(make_facts):
    hosts = {"node1": make_facts("node1"), "node2": make_facts("node2", kernel="5.15.0")}
    findings = [f for f in compare(None, "2.13.0", hosts).findings if f.level is not Level.OK]
    assert [(f.host, f.level) for f in findings] == [("node1", Level.NOTE), ("node2", Level.NOTE)]


def test_equal_hosts_are_shown_as_equal(make_facts):
    hosts = {name: make_facts(name) for name in ("node1", "node2")}
    findings = compare(None, "2.13.0", hosts).findings
    assert {f.level for f in findings} == {Level.OK}
    assert "kernel" in {f.subject for f in findings}


def test_one_host_has_nobody_to_differ_from(make_facts):
    assert compare(None, "2.13.0", {"node1": make_facts()}).findings == ()
