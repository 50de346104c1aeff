"""The GPUs that device code is compiled for: from any common spelling to one canonical list.

DeepSpeed's own reader of TORCH_CUDA_ARCH_LIST (``compute_capability_args`` in
op_builder/builder.py) knows ``X.Y`` and ``X.Y+PTX`` only, and dies in the middle of setup.py of
anything else that nvcc or torch take.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from packaging.version import Version

from provision.compat import GPUS, NVCC_ARCHS, find_gpu
from provision.errors import ConfigError

_NUMBER = re.compile(r"(?:sm_|compute_)?(?P<major>\d+)\.?(?P<minor>\d)(?P<special>[af]?)")
#: Every compute capability that a toolkit of the table compiles for, lowest first.
KNOWN = tuple(sorted({arch for archs in NVCC_ARCHS.values() for arch in archs}, key=Version))
#: DeepSpeed leaves the BF16 kernels out for *every* arch when one of the list is below this.
BF16_FROM = Version("8.0")


def parse_archs(given: str | Iterable[str]) -> tuple[str, ...]:
    """``"8.0;9.0+PTX"``, ``"A100, rtx 4090"`` or several such → ("8.0", "8.9", "9.0+PTX"): sorted.

    Separated by ``;``, ``,`` or white space; a name may hold white space itself.

    Raises:
        ConfigError: nothing is named, or something that no toolkit of the table compiles for.
    """
    text = given if isinstance(given, str) else ";".join(given)
    parts = [part.split() for part in re.split(r"[;,]", text)]
    found = [arch for words in parts for arch in _parse_words(words)]
    if not found:
        raise ConfigError(
            "--arch",
            found="an empty list",
            expected="compute capabilities or GPU names",
            remedy="as in --arch '8.0;9.0+PTX' or --arch A100,H100",
        )
    return canonical(found)


def canonical(archs: Iterable[str]) -> tuple[str, ...]:
    """Each compute capability once, lowest first, with ``+PTX`` if any entry of it had that."""
    with_ptx: dict[str, bool] = {}
    for arch in archs:
        number, _, ptx = arch.partition("+")
        with_ptx[number] = with_ptx.get(number, False) or bool(ptx)
    return tuple(
        f"{number}+PTX" if with_ptx[number] else number for number in sorted(with_ptx, key=Version)
    )


def number_of(arch: str) -> str:
    """``9.0+PTX`` → ``9.0``."""
    return arch.partition("+")[0]


def arch_tag(arch: str) -> str:
    """``9.0+PTX`` → ``sm90ptx``, for a wheel's local version."""
    return "sm" + arch.lower().replace(".", "").replace("+", "")


def nearest(arch: str, among: Iterable[str]) -> str:
    """The compute capability nearest to one: at or above it if there is any, else below."""
    numbers = sorted(among, key=Version)
    above = [one for one in numbers if Version(one) >= Version(arch)]
    return above[0] if above else numbers[-1]


def _parse_words(words: list[str]) -> list[str]:
    """Words between two separators: the longest run of them that is a name is that name."""
    found = []
    while words:
        for end in range(len(words), 0, -1):
            arch = _parse_one(" ".join(words[:end]))
            if arch:
                break
        else:
            raise _unknown(" ".join(words))
        found.append(arch)
        words = words[end:]
    return found


def _parse_one(text: str) -> str | None:
    name, plus, suffix = text.partition("+")
    if plus and suffix.strip().upper() != "PTX":
        return None
    ptx = "+PTX" if plus else ""
    gpu = find_gpu(name)
    if gpu:
        return GPUS[gpu] + ptx
    match = _NUMBER.fullmatch(name.strip().lower())
    if not match:
        return None
    number = f"{match['major']}.{match['minor']}"
    if match["special"]:
        raise ConfigError(
            "--arch",
            found=text,
            expected=number,
            remedy=f"DeepSpeed's build can't read the '{match['special']}', and none of its ops "
            "uses what it would add",
        )
    # Newer than the table: left for the toolkit to judge.
    return number + ptx if number in KNOWN or Version(number) > Version(KNOWN[-1]) else None


def _unknown(text: str) -> ConfigError:
    name = text.partition("+")[0].strip()
    match = _NUMBER.fullmatch(name.lower())
    if match:
        near: str | None = nearest(f"{match['major']}.{match['minor']}", KNOWN)
    else:
        names = {gpu.lower(): gpu for gpu in GPUS} | {number: number for number in KNOWN}
        close = difflib.get_close_matches("".join(name.lower().split()), names, n=1)
        near = names[close[0]] if close else None
    return ConfigError(
        "--arch",
        found=f"unknown GPU architecture {text!r}",
        expected=f"{KNOWN[0]} … {KNOWN[-1]}, each with or without +PTX, or a GPU's name",
        remedy=f"did you mean {near}?" if near else "give its compute capability, as in 9.0",
    )
