"""What parity compares of GPUs and network, made of what hosts really answered."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from provision.hosts.facts import Fact, HostFacts
from provision.hosts.parity import compare
from provision.hosts.traits import TRAITS
from provision.onhost import probe_gpu

RECORDED = Path(__file__).parents[2] / "facts" / "nvidia-smi"


@pytest.fixture
def recorded(make_facts, monkeypatch, tmp_path):
    """A host whose nvidia-smi answers as recorded, with this kernel module."""

    def read(recording, module="580.65.06"):
        program = tmp_path / "nvidia-smi"
        text = (RECORDED / "nvidia-smi").read_text()
        program.write_text(text.replace("/usr/bin/env python3", f"{sys.executable} -IS", 1))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        monkeypatch.setenv("NVIDIA_SMI_REPLAY", str(RECORDED / recording))
        monkeypatch.setattr(probe_gpu, "read_pci_gpus", list)
        monkeypatch.setattr(probe_gpu, "read_module", lambda: module)
        monkeypatch.setattr(probe_gpu, "read_kernel_log", lambda: "")
        found = {
            name: Fact(unknown=str(value)) if isinstance(value, Exception) else Fact(value=value)
            for name, value in probe_gpu.read_gpu_facts().items()
        }
        return HostFacts(host="node1", facts={**make_facts("node1").facts, **found})

    return read


def traits(facts):
    gpu = [trait for trait in TRAITS if trait.name.startswith("gpu.")]
    return {t.name.removeprefix("gpu."): t.text(t.read(facts).value) for t in gpu}


@pytest.mark.parametrize(
    ("recording", "expected"),
    [
        (
            "h100x8-550.54.15",
            {"count": "8", "model": "NVIDIA H100 80GB HBM3", "mig": "Disabled", "pcie": "5 x16",
             "nvlink": "144 of 144 links up"},
        ),
        ("a100-mig-535.216.01", {"count": "2", "mig": "Disabled, Enabled", "ecc": "Enabled"}),
        ("v100x4-470.182.03", {"mig": "none", "nvlink": "23 of 24 links up"}),
        ("rtx4090x2-busy-570.133.07", {"count": "2", "ecc": "none", "nvlink": "none"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_gpus_as_nvidia_smi_tells_them(recorded, recording, expected):
    assert traits(recorded(recording)).items() >= expected.items()


@pytest.mark.parametrize(
    ("recording", "line"),
    [
        ("fails-mismatch-550.144", "Driver/library version mismatch"),
        ("fails-no-driver", "couldn't communicate with the NVIDIA driver"),
        ("fails-no-devices", "No devices were found"),
        ("fails-gpu-lost", "GPU is lost"),
    ],
)
def test_a_broken_driver_is_an_error_in_nvidia_smis_own_words(recorded, recording, line):
    failing = compare(None, "2.13.0", {"node1": recorded(recording)}).failing
    (driver,) = (finding for finding in failing if finding.subject == "driver")
    assert line in driver.found
    assert driver.remedy


def test_gpus_that_could_not_be_read_are_unknown_in_every_trait_of_theirs(recorded):
    facts = recorded("fails-mismatch-550.144")
    names = ("gpu.count", "gpu.model", "gpu.mig", "gpu.pcie")
    assert all(trait.read(facts).unknown for trait in TRAITS if trait.name in names)


def trait_of(name, facts):
    (trait,) = (trait for trait in TRAITS if trait.name == name)
    return trait.read(facts)


def test_mtu_and_speed_are_those_of_the_way_to_the_peers(make_facts):
    interfaces = [
        {"name": "eth0", "speed": 10_000},
        {"name": "ib0", "speed": 400_000},
        {"name": "docker0", "speed": None},
    ]
    itself = {"address": "10.0.0.1", "source": "10.0.0.1", "interface": "ib0", "mtu": 65536}
    routes = {
        "10.0.0.1": itself,
        "10.0.0.2": {**itself, "address": "10.0.0.2", "mtu": 4092},
        "gone": {"error": "Name or service not known"},
    }
    facts = make_facts(interfaces=interfaces, routes=routes)
    assert trait_of("mtu", facts).value == "4092"
    assert trait_of("network.speed", facts).value == "400000 Mbit/s"
    alone = make_facts(interfaces=interfaces, routes={"10.0.0.1": itself})
    assert trait_of("mtu", alone).value == "65536"


def test_infiniband_counts_what_is_up(make_facts):
    port = {"state": "ACTIVE", "rate": "400 Gb/sec (4X NDR)", "link": "InfiniBand"}
    ports = [port, port, {**port, "state": "DOWN"}]
    found = trait_of("infiniband", make_facts(infiniband=ports))
    assert found.value == "2 x InfiniBand 400 Gb/sec (4X NDR)"
    assert trait_of("infiniband", make_facts(infiniband=ports[2:])).absent
