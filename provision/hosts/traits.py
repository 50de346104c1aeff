"""What of a host a run depends on, as a table: parity compares it, the drift lock records it.

Each trait says how bad it is when hosts differ in it, and why. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from provision.findings import Level
from provision.hosts import derived


def _same(text: str) -> str:
    return text


@dataclass(frozen=True, kw_only=True)
class Trait:
    """Something that hosts of one run should have in common.

    Attributes:
        name: how it is called, as in ``--allow-drift gpu.driver``.
        level: how bad it is when hosts differ in it.
        why: what the difference can do to a run.
        undo: what brings the former state back, when it changed.
        coarse: what of the value has to differ for ``level``; less is a note.
        near: numbers this close to each other (a share of them) are equal.
        unit: of its numbers.
        gpu: it is nothing to a run on CPUs.
        locked: the drift lock records it.
        needs: without this fact a host has no such trait; another trait says so.
    """

    name: str
    level: Level
    why: str
    undo: str
    read: derived.Read
    coarse: Callable[[str], str] = _same
    near: float = 0.0
    unit: str = ""
    gpu: bool = False
    locked: bool = True
    needs: str = ""

    def text(self, value: object) -> str:
        """A value in words."""
        return "none" if value is None else f"{value}{self.unit}"


_DEPLOY = "run: invoke deploy"
_AGAIN = "remove the folder that ~/.zerofleet/current names there, then run: invoke deploy"

#: In the order that a person asks for them: the machine, its GPUs, what is deployed, the network.
TRAITS = (
    Trait(
        name="os",
        level=Level.NOTE,
        why="harmless while glibc fits the wheel",
        undo="install that release again",
        read=derived.plain("os"),
    ),
    Trait(
        name="kernel",
        level=Level.WARN,
        coarse=derived.release,
        why="memory, cgroup and network defaults change between releases; a patch is harmless",
        undo="boot that kernel again",
        read=derived.plain("kernel"),
    ),
    Trait(
        name="machine",
        level=Level.ERROR,
        why="one wheel can't fit both",
        undo="use that machine again",
        read=derived.plain("machine"),
    ),
    Trait(
        name="glibc",
        level=Level.NOTE,
        why="harmless while it fits the wheel",
        undo="install that OS release again",
        read=derived.plain("glibc"),
    ),
    Trait(
        name="glibcxx",
        level=Level.NOTE,
        why="harmless while it fits the wheel",
        undo="install that libstdc++ again",
        read=derived.plain("glibcxx"),
    ),
    Trait(
        name="cpu.model",
        level=Level.NOTE,
        why="harmless while its level fits the wheel",
        undo="use that machine again",
        read=derived.plain("cpu.model"),
    ),
    Trait(
        name="cpu.level",
        level=Level.NOTE,
        why="harmless while it fits the wheel",
        undo="use that machine again",
        read=derived.plain("cpu.level"),
    ),
    Trait(
        name="cpu.cores",
        level=Level.NOTE,
        why="the slowest data loader sets the pace",
        undo="give the session those cores again (affinity, container, Slurm)",
        read=derived.plain("cpu.cores"),
    ),
    Trait(
        name="cpu.quota",
        level=Level.WARN,
        why="a cgroup that throttles one host throttles the run",
        undo="set that cgroup quota again",
        read=derived.plain("cpu.quota"),
    ),
    Trait(
        name="memory",
        level=Level.WARN,
        near=0.05,
        unit=" GiB",
        why="offload has to fit the smallest host",
        undo="is a memory module gone? (dmidecode -t memory)",
        read=derived.gibibytes("memory", "total"),
    ),
    Trait(
        name="memory.limit",
        level=Level.WARN,
        near=0.05,
        unit=" GiB",
        why="a cgroup with less memory kills its ranks first",
        undo="set that cgroup limit again",
        read=derived.gibibytes("memory.limit", "limit"),
    ),
    Trait(
        name="pythons",
        level=Level.NOTE,
        why="harmless while the wheel's is there",
        undo="install that Python again",
        read=derived.python_versions,
        locked=False,
    ),
    Trait(
        name="gpu.count",
        level=Level.ERROR,
        gpu=True,
        why="one fell off the bus (dmesg | grep -i xid)? if meant so, give the host slots= there",
        undo="find the GPU: nvidia-smi -L, lspci -d 10de:, dmesg | grep -i xid",
        read=derived.gpu_count,
    ),
    Trait(
        name="gpu.model",
        needs="gpus",
        level=Level.WARN,
        gpu=True,
        why="the slowest GPU sets the pace, the smallest the batch",
        undo="use those GPUs again",
        read=derived.per_gpu("name"),
    ),
    Trait(
        name="gpu.driver",
        level=Level.WARN,
        gpu=True,
        coarse=derived.branch,
        why="each may do for the CUDA runtime; one branch on all hosts rules out NCCL faults",
        undo="install that driver again",
        read=derived.plain("gpu.driver"),
    ),
    Trait(
        name="gpu.mig",
        needs="gpus",
        level=Level.ERROR,
        gpu=True,
        why="a rank sees one slice of a GPU in MIG mode, the whole one elsewhere",
        undo="set it again: nvidia-smi -mig 0 (or 1)",
        read=derived.per_gpu("mig"),
    ),
    Trait(
        name="gpu.ecc",
        needs="gpus",
        level=Level.NOTE,
        gpu=True,
        why="costs a little memory, and finds flipped bits",
        undo="set it again: nvidia-smi -e 0 (or 1), then reboot",
        read=derived.per_gpu("ecc"),
    ),
    # The most that GPU and slot can do: what they do now falls while a GPU is idle
    # (nvidia-smi --help-query-gpu, pcie.link.width.current).
    Trait(
        name="gpu.pcie",
        needs="gpus",
        level=Level.WARN,
        gpu=True,
        why="fewer lanes are a slower GPU: look at its slot",
        undo="reseat the GPU, or look at its slot",
        read=derived.per_gpu("pcie_gen_max", "pcie_width_max", join=" x"),
    ),
    Trait(
        name="gpu.nvlink",
        needs="gpus",
        level=Level.WARN,
        gpu=True,
        why="where a link is down, NCCL takes PCIe",
        undo="nvidia-smi nvlink -s names the link that is down",
        read=derived.nvlinks,
    ),
    Trait(
        name="toolkit",
        level=Level.NOTE,
        gpu=True,
        why="not used: the wheel holds what was compiled",
        undo="install that toolkit again",
        read=derived.plain("toolkit"),
    ),
    Trait(
        name="environment.lock",
        level=Level.ERROR,
        why=_DEPLOY,
        undo=_DEPLOY,
        read=derived.environment("lock"),
    ),
    Trait(
        name="environment.python",
        needs="environment",
        level=Level.ERROR,
        coarse=derived.release,
        why=_DEPLOY,
        undo=_DEPLOY,
        read=derived.environment("python"),
    ),
    Trait(
        name="environment.torch",
        needs="environment",
        level=Level.ERROR,
        why="ranks of two torch releases don't understand each other",
        undo=_AGAIN,
        read=derived.environment_now("torch"),
    ),
    Trait(
        name="environment.torch_cuda",
        needs="environment",
        level=Level.ERROR,
        gpu=True,
        why="the wheel was compiled for one of them",
        undo=_AGAIN,
        read=derived.environment_now("torch_cuda"),
    ),
    Trait(
        name="environment.nccl",
        needs="environment",
        level=Level.ERROR,
        gpu=True,
        why="NCCL refuses, or hangs, when ranks have different versions of it",
        undo=_AGAIN,
        read=derived.environment_now("nccl"),
    ),
    Trait(
        name="environment.deepspeed",
        needs="environment",
        level=Level.ERROR,
        why=_DEPLOY,
        undo=_AGAIN,
        read=derived.environment_now("deepspeed"),
    ),
    Trait(
        name="environment.wheel",
        needs="environment",
        level=Level.ERROR,
        why=_DEPLOY,
        undo=_DEPLOY,
        read=derived.wheel,
    ),
    Trait(
        name="mtu",
        level=Level.WARN,
        why="packets too large for one host or switch may vanish: the run hangs at its first step",
        undo="set it again: ip link set dev <interface> mtu <size>",
        read=derived.mtu,
    ),
    Trait(
        name="network.speed",
        level=Level.WARN,
        why="the slowest link sets the pace",
        undo="look at the cable and the port: ethtool <interface>",
        read=derived.speed,
    ),
    Trait(
        name="infiniband",
        level=Level.WARN,
        gpu=True,
        why="NCCL takes InfiniBand where it is up and sockets elsewhere; the two don't meet",
        undo="bring the port up: ibstat names it",
        read=derived.infiniband,
    ),
)
