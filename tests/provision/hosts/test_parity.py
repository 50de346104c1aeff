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
        ({"torch": "2.12.1+cpu"}, {}, "torch", "found a wheel built for torch 2.12.1+cpu"),
        # DeepSpeed itself compares major.minor only, and says nothing of this one.
        ({"torch": "2.13.1+cpu"}, {}, "torch", "found a wheel built for torch 2.13.1+cpu"),
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
        (("9.0",), None, Level.UNKNOWN),  # drivers up to 470 can't say
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


DEPLOYED = {
    "lock": "abc123", "python": "3.11.2", "torch": "2.13.0+cpu", "torch_cuda": None,
    "deepspeed": "0.19.8+torch2.13.cpu.x86v3", "wheel_sha256": "ab" * 32, "path": "/envs/abc123",
}  # fmt: skip
HELD = {"torch": "2.13.0+cpu", "torch_cuda": None, "nccl": None, "deepspeed": "0.19.8"}


def in_use(make_manifest, make_facts, record=None, held=None, lock="abc123"):
    facts = make_facts(
        environment={**DEPLOYED, **(record or {})},
        **{"environment.now": {**HELD, **(held or {})}},
    )
    report = compare(make_manifest(), "2.13.0", {"node1": facts}, lock=lock)
    return [str(f) for f in report.failing]


def test_the_environment_that_the_wheel_makes_fits(make_manifest, make_facts):
    assert in_use(make_manifest, make_facts) == []


@pytest.mark.parametrize(
    ("record", "held", "line"),
    [
        ({"lock": "old"}, {}, "environment.lock: found old, expected abc123"),
        ({"wheel_sha256": "cd" * 32}, {}, "environment.wheel: found cdcdcdcdcdcd, expected abab"),
        ({"torch": "2.12.1+cpu"}, {"torch": "2.12.1"}, "environment.torch: found 2.12.1+cpu"),
        ({}, {"torch": "2.12.1"}, "found torch 2.12.1, expected 2.13.0+cpu, as deploy proved"),
        ({}, {"torch": "2.13.0+cu130"}, "environment: found torch 2.13.0+cu130"),
        ({}, {"deepspeed": None}, "environment: found deepspeed None, expected 0.19.8"),
    ],
)
def test_another_environment_in_use_is_an_error(make_manifest, make_facts, record, held, line):
    (found,) = in_use(make_manifest, make_facts, record, held)
    assert line in found
    assert "invoke deploy" in found


def test_what_the_environment_holds_now_could_not_be_read(make_manifest, make_facts):
    facts = make_facts(environment=DEPLOYED, **{"environment.now": {"unknown": "no access"}})
    (finding,) = compare(make_manifest(), "2.13.0", {"node1": facts}, lock="abc123").failing
    assert finding.level is Level.UNKNOWN


def test_an_environment_that_could_not_be_read_is_unknown(make_manifest, make_facts):
    facts = make_facts(environment={"unknown": "complete.json: permission denied"})
    (finding,) = compare(make_manifest(), "2.13.0", {"node1": facts}, lock="abc123").failing
    assert (finding.subject, finding.level) == ("environment", Level.UNKNOWN)


def test_before_the_first_deploy_there_is_a_note_and_deploy_asks_for_none(
    make_manifest, make_facts
):
    hosts = {"node1": make_facts()}
    report = compare(make_manifest(), "2.13.0", hosts, lock="abc123")
    assert [f.subject for f in report.findings if f.level is Level.NOTE] == ["environment"]
    assert report.ok
    old = {"node1": make_facts(environment={**DEPLOYED, "lock": "old"})}
    assert compare(make_manifest(), "2.13.0", old, lock="abc123", deployed=False).ok


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("Failed to initialize NVML: Driver/library version mismatch", "reboot"),
        (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
            "modprobe nvidia",
        ),
        ("No devices were found", "dmesg"),
        ("Unable to determine the device handle for GPU0000:3B:00.0: GPU is lost.", "reboot"),
    ],
)
def test_a_driver_that_does_not_answer_is_an_error_that_says_what_to_do(make_facts, said, remedy):
    facts = make_facts(gpus={"unknown": f"nvidia-smi: exit 18: {said}"}, gpu_driver="580.65.06")
    (finding,) = compare(None, "2.13.0", {"node1": facts}).failing
    assert finding.subject == "driver"
    assert said in finding.found
    assert remedy in finding.remedy


def test_a_broken_driver_is_nothing_to_a_run_on_cpus(make_manifest, make_facts):
    facts = make_facts(gpus={"unknown": "Driver/library version mismatch"})
    report = compare(make_manifest(), "2.13.0", {"node1": facts})
    assert report.ok
    assert Level.NOTE in {f.level for f in report.findings if f.subject == "driver"}


def test_a_gpu_that_fell_off_the_bus(make_facts):
    slots = [{"slot": f"0000:0{n}:00.0", "id": "10de:2330"} for n in range(2)]
    facts = make_facts(gpus=[H100], gpu_driver="580.1", **{"gpu.pci": slots})
    (finding,) = (f for f in compare(None, "2.13.0", {"n": facts}).findings if "gpu" in f.subject)
    assert finding.level is Level.WARN
    assert "1 in nvidia-smi, expected 2, as on the PCI bus" in str(finding)


@pytest.mark.parametrize(
    ("kernel", "warns"),
    [
        ("5.4.0-150-generic", True),
        ("5.5", False),
        ("6.1.0-18-amd64", False),
        ("4.18.0-553.el8", True),
    ],
)
def test_a_kernel_on_which_distributed_runs_hang(make_facts, kernel, warns):
    findings = compare(None, "2.13.0", {"n": make_facts(kernel=kernel)}).findings
    assert [f.level for f in findings if f.subject == "kernel"] == [Level.WARN] * warns


@pytest.mark.parametrize(
    ("archs", "driver", "level"),
    [
        (("9.0",), "580.10", Level.OK),  # its own code: minor version compatibility
        (("8.0+PTX",), "580.10", Level.ERROR),  # PTX of 13.0 needs the driver of 13.0
        (("8.0+PTX",), "580.65.06", Level.OK),
        (("8.0", "9.0+PTX"), "580.10", Level.OK),
    ],
)
def test_ptx_needs_the_driver_of_its_toolkit(make_manifest, make_facts, archs, driver, level):
    manifest = make_manifest(
        accelerator="cuda", torch_cuda="13.0", toolkit="13.0.88", arch_list=archs
    )
    findings = compare_wheel(manifest, "2.13.0", make_facts(gpu_driver=driver, gpus=[H100]))
    assert next(f for f in findings if f.subject == "driver").level is level
