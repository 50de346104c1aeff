"""Tables of what fits what, as data, each with its source. Pure."""

from __future__ import annotations

from packaging.version import Version

#: The torch that locks/train.lock is tested with; a wheel is built against it.
TORCH = "2.13.0"

#: x86-64 micro-architecture levels, lowest first (https://gitlab.com/x86-psABIs/x86-64-ABI).
CPU_LEVELS = ("x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4")

#: CUDA major version → lowest driver that runs any toolkit of that major version ("CUDA minor
#: version compatibility"): https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
_DRIVER_MINIMUM = {13: "580", 12: "525", 11: "450"}


def cpu_runs(level: str, wanted: str) -> bool | None:
    """Whether a CPU of ``level`` runs code for ``wanted``; None if either is not in the table."""
    if level not in CPU_LEVELS or wanted not in CPU_LEVELS:
        return None
    return CPU_LEVELS.index(level) >= CPU_LEVELS.index(wanted)


def driver_minimum(torch_cuda: str) -> Version | None:
    """Lowest NVIDIA driver for a torch CUDA version such as "13.0"; None if not in the table."""
    minimum = _DRIVER_MINIMUM.get(Version(torch_cuda).major)
    return Version(minimum) if minimum else None


def arch_covers(arch_list: tuple[str, ...], capability: str) -> bool:
    """Whether device code for ``arch_list`` (``8.0``, ``9.0+PTX``) runs on a compute capability.

    A cubin for X.Y runs on X.Z with Z >= Y; PTX for X.Y is compiled by the driver for anything
    later. https://docs.nvidia.com/cuda/cuda-c-programming-guide/index.html#binary-compatibility
    """
    major, minor = (int(part) for part in capability.split("."))
    for arch in arch_list:
        number, _, ptx = arch.partition("+")
        built_major, built_minor = (int(part) for part in number.split("."))
        if built_major == major and built_minor <= minor:
            return True
        if ptx and (built_major, built_minor) <= (major, minor):
            return True
    return False
