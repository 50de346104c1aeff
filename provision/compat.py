"""Tables of what fits what, as data, each with its source. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from packaging.version import Version

#: The torch that locks/train.lock is tested with; a wheel is built against it.
TORCH = "2.13.0"

#: torch release (major.minor) → torch CUDA of the build that carries no local version, the one
#: that package indexes serve: https://github.com/pytorch/pytorch/blob/main/RELEASE.md
TORCH_CUDA: Mapping[str, str] = MappingProxyType({"2.13": "13.0"})

_TO_12 = "5.0 5.2 5.3 6.0 6.1 6.2 7.0 7.2 7.5 8.0 8.6 8.7 8.9 9.0"
#: toolkit → compute capabilities that its nvcc compiles for (``nvcc --list-gpu-arch``; each
#: version's guide: https://docs.nvidia.com/cuda/archive/, "CUDA Compiler Driver NVCC", GPU
#: Feature List). A later toolkit is asked itself.
NVCC_ARCHS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        version: tuple(archs.split())
        for version, archs in {
            "11.8": "3.5 3.7 " + _TO_12,
            **dict.fromkeys([f"12.{minor}" for minor in range(7)], _TO_12),
            "12.8": _TO_12 + " 10.0 10.1 12.0",
            "12.9": _TO_12 + " 10.0 10.1 10.3 12.0 12.1",
            "13.0": "7.5 8.0 8.6 8.7 8.8 8.9 9.0 10.0 10.3 11.0 12.0 12.1",
        }.items()
    }
)
#: toolkit → newest gcc that its nvcc accepts, from its own include/crt/host_config.h. A toolkit
#: that lies here is read instead.
NVCC_GCC: Mapping[str, int] = MappingProxyType({"13.0": 15})

#: Compute capability → GPUs of it, as people write them: https://developer.nvidia.com/cuda-gpus
#: and https://developer.nvidia.com/cuda-legacy-gpus
_GPUS = {
    "6.0": "P100",
    "6.1": "P4 P40",
    "7.0": "V100",
    "7.5": "T4 RTX2060 RTX2070 RTX2080 RTX2080Ti TitanRTX QuadroRTX4000 QuadroRTX5000 "
    "QuadroRTX6000 QuadroRTX8000",
    "8.0": "A100 A800 A30",
    "8.6": "A40 A16 A10 A10G A2 RTXA2000 RTXA4000 RTXA4500 RTXA5000 RTXA5500 RTXA6000 RTX3050 "
    "RTX3060 RTX3060Ti RTX3070 RTX3070Ti RTX3080 RTX3080Ti RTX3090 RTX3090Ti",
    "8.9": "L4 L40 L40S RTX4060 RTX4060Ti RTX4070 RTX4070Ti RTX4080 RTX4090 RTX2000Ada RTX4000Ada "
    "RTX4500Ada RTX5000Ada RTX6000Ada",
    "9.0": "H100 H200 H800 H20 GH200",
    "10.0": "B200 GB200",
    "10.3": "B300 GB300",
    "12.0": "RTX5060 RTX5060Ti RTX5070 RTX5070Ti RTX5080 RTX5090 RTXPro4000 RTXPro4500 RTXPro5000 "
    "RTXPro6000",
    "12.1": "GB10",
}
#: GPU → its compute capability, by the table's spelling.
GPUS: Mapping[str, str] = MappingProxyType(
    {name: arch for arch, names in _GPUS.items() for name in names.split()}
)
_BY_KEY = {name.lower(): name for name in GPUS}
#: What names are written with and without: brand, form factor, memory.
_DECORATION = re.compile(
    r"nvidia|geforce|tesla|sxm\d*|pcie|nvl|hbm\w+|\d+gb|generation|blackwell|super|laptop|gpu"
)

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


#: CUDA toolkit → the driver it comes with, the first that compiles its PTX: minor version
#: compatibility does not reach that far ("PTX and application compatibility", same page).
#: https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/index.html#id6 (table 3)
_DRIVER_OF_TOOLKIT = {
    "12.0": "525.60.13",
    "12.1": "530.30.02",
    "12.2": "535.54.03",
    "12.3": "545.23.06",
    "12.4": "550.54.14",
    "12.5": "555.42.02",
    "12.6": "560.28.03",
    "12.8": "570.26",
    "12.9": "575.51.03",
    "13.0": "580.65.06",
}


def driver_of_toolkit(toolkit: str) -> Version | None:
    """Lowest NVIDIA driver that compiles PTX of a toolkit ("13.0.88"); None if not in the table."""
    driver = _DRIVER_OF_TOOLKIT.get(".".join(toolkit.split(".")[:2]))
    return Version(driver) if driver else None


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


def find_gpu(name: str) -> str | None:
    """A GPU's name in any common spelling (``rtx 4090``, ``NVIDIA A100-SXM4-80GB``) → GPUS' own."""
    words = re.split(r"[\s_-]+", name.strip().lower())
    return _BY_KEY.get("".join(word for word in words if not _DECORATION.fullmatch(word)))


def cudas_for(arch: str) -> tuple[str, ...]:
    """The toolkits of NVCC_ARCHS that compile for a compute capability, oldest first."""
    return tuple(version for version, archs in NVCC_ARCHS.items() if arch in archs)


def toolkit_fits(toolkit: str, torch_cuda: str) -> bool:
    """Whether extensions of a torch of this CUDA can be compiled with this toolkit.

    DeepSpeed (``assert_no_cuda_mismatch`` in op_builder/builder.py) takes any 11.x for any 11.x,
    any 12.x for any 12.x, and wants the same minor version from 13 on; torch itself refuses
    another major version.
    """
    ours, theirs = Version(toolkit), Version(torch_cuda)
    return ours.major == theirs.major and (ours.major in (11, 12) or ours.minor == theirs.minor)
