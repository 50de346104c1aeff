"""Hosts with GPUs: nvidia-smi there answers from a recording, and a driver's version lies where
its kernel module would put it. All else is real. Nothing was deployed to them yet.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.cluster.cluster import Node
    from tests.integration.faults.conftest import Hosts, Mended, Said

RECORDED = Path(__file__).resolve().parents[2] / "facts" / "nvidia-smi"
DRIVER, OLDER = "550.54.15", "515.105.01"
MODULE = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Tue Mar  5 22:23:56 UTC 2024\n"
TABLES = "/etc/nvidia-smi-replay"


def install(node: Node, recording: str = f"h100x8-{DRIVER}", driver: str = DRIVER) -> None:
    """Give a host the GPUs of a recording, and no environment."""
    shutil.copytree(RECORDED / recording, node.path(TABLES))
    shutil.copy(RECORDED / "nvidia-smi", node.path("/usr/local/bin/nvidia-smi"))
    node.run(["mount", "-t", "tmpfs", "driver", "/proc/driver"])
    node.path("/proc/driver/nvidia").mkdir()
    node.path("/proc/driver/nvidia/version").write_text(MODULE.format(driver))
    node.path("/dev/nvidiactl").touch()
    node.run(["mount", "-t", "tmpfs", "bare", f"{node.cluster.home}/.zerofleet"])
    if (node.path(TABLES) / "gpus.csv").exists():
        replace(node, "GPU-0000", f"GPU-{node.number}000")  # no two GPUs share an identity
        replace(node, DRIVER, driver)


def replace(node: Node, old: str, new: str, table: str = "gpus.csv") -> None:
    """Other text in what a host's nvidia-smi says."""
    path = node.path(TABLES) / table
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def wheels(four: Hosts) -> str:
    """A folder with a wheel for GPUs: the one at hand, under a manifest that says so."""
    folder = four.folder / "wheels"
    folder.mkdir()
    (wheel,) = four.wheels.glob("deepspeed-*.whl")
    shutil.copy(wheel, folder)
    manifest = json.loads(wheel.with_name(f"{wheel.name}.json").read_text())
    manifest |= {"accelerator": "cuda", "torch": "2.13.0+cu128", "torch_cuda": "12.8"}
    manifest |= {"toolkit": "12.8.93", "arch_list": ["8.9", "9.0"], "archs_checked": True}
    (folder / f"{wheel.name}.json").write_text(json.dumps(manifest))
    return str(folder)


DRIVERS = (
    ("node2", "driver"),
    ("node3", "gpu.count"),
    ("node4", "driver"),
    ("node4", "gpu"),
    ("node4", "gpu.count"),
)


@pytest.fixture(scope="module")
def drivers(mended: Mended, wheels: str) -> Said:
    """What parity says of an older driver, a GPU that is gone, and a half upgraded driver."""
    with mended() as hosts:
        install(hosts["node1"])
        install(hosts["node2"], driver=OLDER)
        install(hosts["node3"])
        last = (hosts["node3"].path(TABLES) / "gpus.csv").read_text().splitlines(keepends=True)[-1]
        replace(hosts["node3"], last, "")
        install(hosts["node4"], "fails-mismatch-550.144")
        names = hosts.folder / "gpus.txt"  # no slots: as many ranks as there are GPUs
        names.write_text("node1\nnode2\nnode3\nnode4\n")
        return hosts.invoke("parity", "--wheels", wheels, "--hosts", str(names))


def test_an_older_driver(drivers: Said) -> None:
    line = drivers.line("node2", "driver", *DRIVERS)
    assert f"found {OLDER}, expected 525 or later (torch CUDA 12.8): upgrade the driver" in line


def test_a_missing_gpu(drivers: Said) -> None:
    line = drivers.line("node3", "gpu.count", *DRIVERS)
    assert "found 7, expected 8, as 2 of 4 hosts: one fell off the bus" in line


def test_a_driver_upgraded_below_its_loaded_module(drivers: Said) -> None:
    line = drivers.line("node4", "driver", *DRIVERS)
    assert "Failed to initialize NVML: Driver/library version mismatch" in line
    assert "reboot, or stop what uses the GPUs and reload the nvidia modules" in line


#: As on all hosts that nothing was deployed to.
BARE = [(f"node{i}", "environment") for i in range(1, 5)]


@pytest.fixture(scope="module")
def taken(mended: Mended, wheels: str) -> Said:
    """What preflight says of another GPU model, and of a GPU that something else runs on."""
    with mended() as hosts:
        for node in hosts.cluster.nodes:
            install(node)
        replace(hosts["node2"], "NVIDIA H100 80GB HBM3, 9.0", "NVIDIA L40S, 8.9")
        replace(hosts["node3"], "9.0, 81559, 1, GPU-30000100-0000-4000-8000-000000000000",
                "9.0, 81559, 40961, GPU-30000100-0000-4000-8000-000000000000")  # fmt: skip
        apps = hosts["node3"].path(TABLES) / "apps.csv"
        row = "GPU-30000100-0000-4000-8000-000000000000, 55111, 40950, /usr/bin/python3\n"
        apps.write_text(apps.read_text() + row)
        return hosts.preflight("--wheels", wheels)


def test_a_gpu_in_use(taken: Said) -> None:
    line = taken.line("node3", "gpu in use", *BARE)
    assert "found 40961 MiB in use on GPU 0: pid 55111 (/usr/bin/python3, 40950 MiB)" in line
    assert "ps -o user,etime,args -p 55111" in line


def test_another_gpu_model(taken: Said) -> None:
    (warning,) = [f for f in taken.answer["findings"] if f["level"] == "warn"]
    assert (warning["host"], warning["subject"]) == ("node2", "gpu.model")
    assert warning["found"] == "NVIDIA L40S"
    assert warning["expected"] == "NVIDIA H100 80GB HBM3, as 3 of 4 hosts"
    assert warning["remedy"]
