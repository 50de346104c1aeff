"""What is made of nvidia-smi's answers, as recorded (tests/facts/nvidia-smi)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from provision.onhost import probe_gpu
from provision.onhost.probe_read import Failed

RECORDED = Path(__file__).parents[2] / "facts" / "nvidia-smi"


@pytest.fixture
def read(monkeypatch, tmp_path):
    """GPU facts of a host with this recording; ``pci``, ``module``: what else is seen there."""

    def read(recording, *, pci=(), module=None):
        program = tmp_path / "nvidia-smi"
        text = (RECORDED / "nvidia-smi").read_text()
        program.write_text(text.replace("/usr/bin/env python3", f"{sys.executable} -IS", 1))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        monkeypatch.setenv("NVIDIA_SMI_REPLAY", str(RECORDED / recording))
        monkeypatch.setattr(probe_gpu, "read_pci_gpus", lambda: list(pci))
        monkeypatch.setattr(probe_gpu, "read_module", lambda: module)
        monkeypatch.setattr(probe_gpu, "read_kernel_log", lambda: LOG)
        return probe_gpu.read_gpu_facts()

    return read


LOG = """\
6,1021,5140900,-;Console: switching to colour frame buffer device
4,1022,9140900,-;NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', GPU has fallen off the bus.
4,1023,9140901,-;NVRM: Xid (0000:5e:00): 31, Ch 00000008, MMU Fault
"""


def test_eight_gpus_with_nvlink(read):
    facts = read("h100x8-550.54.15")
    assert [gpu["index"] for gpu in facts["gpus"]] == list("01234567")
    first = facts["gpus"][0]
    assert (first["name"], first["compute_cap"]) == ("NVIDIA H100 80GB HBM3", "9.0")
    assert (first["memory_total"], first["ecc"], first["mig"]) == ("81559", "Enabled", "Disabled")
    assert (first["pcie_gen"], first["pcie_width"]) == ("5", "16")
    assert facts["gpu.driver"] == "550.54.15"
    assert facts["gpu.nvlink"]["7"] == ["26.562 GB/s"] * 18
    assert facts["gpu.topology"]["GPU0"]["GPU7"] == "NV18"
    assert facts["gpu.topology"]["GPU0"]["NIC0"] == "PIX"
    assert facts["gpu.topology"]["NIC4"]["GPU0"] == "SYS"
    assert facts["gpu.processes"] == []
    assert facts["gpu.mig"] is None
    assert facts["gpu.unread"] is None


def test_an_old_driver_that_does_not_know_a_field_is_asked_for_the_others(read):
    facts = read("v100x4-470.182.03")
    assert len(facts["gpus"]) == 4
    assert facts["gpus"][0]["compute_cap"] is None
    assert facts["gpus"][0]["memory_total"] == "32510"
    assert "compute_cap" in facts["gpu.unread"]["compute_cap"]
    assert set(facts["gpu.unread"]) == {"compute_cap"}
    assert facts["gpu.nvlink"]["0"].count("<inactive>") == 1
    assert facts["gpu.topology"]["GPU3"]["GPU0"] == "NV1"


def test_mig_devices(read):
    facts = read("a100-mig-535.216.01")
    assert [gpu["mig"] for gpu in facts["gpus"]] == ["Enabled", "Disabled"]
    assert [row["profile"] for row in facts["gpu.mig"]] == ["3g.20gb", "1g.5gb"]
    assert {row["gpu"] for row in facts["gpu.mig"]} == {"0"}
    assert facts["gpus"][0]["utilization"] is None


def test_who_computes_on_a_gpu(read):
    facts = read("rtx4090x2-busy-570.133.07")
    (process,) = facts["gpu.processes"]
    assert process["gpu"] == facts["gpus"][0]["uuid"]
    assert process["pid"] == 55111
    assert process["name"] == "/usr/bin/python3, train.py"
    assert process["memory"] == "20469"
    assert facts["gpus"][0]["ecc"] is None  # no such thing on this GPU, and not unknown
    assert facts["gpu.nvlink"] is None
    assert facts["gpu.unread"] is None


def test_a_field_that_one_gpu_can_t_tell_is_unknown_and_the_rest_is_read(read):
    facts = read("l40s-ecc-unreadable-555.42.06")
    assert facts["gpus"][0]["ecc_errors"] is None
    assert facts["gpu.unread"] == {"ecc_errors": "nvidia-smi: GPU 0: Unknown Error"}
    assert facts["gpus"][0]["pcie_width"] == "8"


@pytest.mark.parametrize(
    ("recording", "words"),
    [
        ("fails-mismatch-550.144", "version mismatch; NVML library version: 550.144"),
        ("fails-gpu-lost", "GPU is lost"),
    ],
)
def test_a_failed_nvidia_smi_is_unknown_in_its_own_words(read, recording, words):
    facts = read(recording)
    for name in ("gpus", "gpu.processes", "gpu.topology"):
        assert isinstance(facts[name], Failed)
        assert words in str(facts[name])
    assert str(facts["gpus"]).startswith("nvidia-smi: exit 1")


@pytest.mark.parametrize("recording", ["fails-no-driver", "fails-no-devices"])
def test_tools_without_gpu_or_driver_are_no_gpu(read, recording):
    assert set(read(recording).values()) == {None}


@pytest.mark.parametrize("recording", ["fails-no-driver", "fails-no-devices"])
@pytest.mark.parametrize("seen", [{"pci": [{"slot": "0000:3b:00.0"}]}, {"module": "550.144"}])
def test_the_same_beside_a_gpu_or_a_driver_is_a_fault(read, recording, seen):
    facts = read(recording, **seen)
    assert isinstance(facts["gpus"], Failed)
    assert facts["gpu.xid"][0]["xid"] == 79


def test_the_loaded_module_is_the_driver_whatever_the_tools_say(read):
    assert read("h100x8-550.54.15", module="550.54.14")["gpu.driver"] == "550.54.14"


def test_xids_of_the_kernel_s_log(read):
    xids = read("h100x8-550.54.15")["gpu.xid"]
    assert [(row["pci"], row["xid"]) for row in xids] == [("0000:3b:00", 79), ("0000:5e:00", 31)]
    assert "fallen off the bus" in xids[0]["text"]


def test_a_log_that_can_t_be_read_leaves_the_other_facts(read, monkeypatch):
    def refused():
        raise Failed("the kernel's log is for root and group adm only")

    facts = read("h100x8-550.54.15")
    monkeypatch.setattr(probe_gpu, "read_kernel_log", refused)
    facts = probe_gpu.read_gpu_facts()
    assert len(facts["gpus"]) == 8
    assert isinstance(facts["gpu.xid"], Failed)


def test_a_module_without_its_tools_is_a_fault(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(probe_gpu, "read_module", lambda: "580.65.06")
    assert "no nvidia-smi on PATH" in str(probe_gpu.read_gpu_facts()["gpus"])
