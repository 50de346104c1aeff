"""The CPU level a wheel is built for, and how DeepSpeed's build is held to it.

DeepSpeed's op_builder hard-codes ``-march=native`` and defines ``__AVX512__``, ``__AVX256__`` or
``__SCALAR__`` from the *build* machine; no variable overrides either, and nothing chooses at run
time. So a wheel from a new login node dies with an illegal instruction on an older host
(deepspeedai/DeepSpeed#1886, #7556). Both are mapped here, together, in a compiler wrapper: the
macro and the flag must agree (AVX512 code does not compile for x86-64-v3).

Levels: https://gitlab.com/x86-psABIs/x86-64-ABI (section "Micro-Architecture Levels").
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from provision.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Level:
    """One micro-architecture level.

    Attributes:
        name: the ABI's name, which is also gcc's ``-march`` (since gcc 11).
        macro: DeepSpeed's macro for the widest vectors of this level (csrc/includes/simd.h).
        tag: its short name, for a wheel's local version.
        flags: what ``/proc/cpuinfo`` shows on a CPU of this level, beyond every x86-64.
        above: registers in a disassembly that only a higher level has.
    """

    name: str
    macro: str
    tag: str
    flags: frozenset[str]
    above: re.Pattern[str]


# "abm" is how Linux shows lzcnt.
_V3 = frozenset(
    [
        "avx",
        "avx2",
        "bmi1",
        "bmi2",
        "f16c",
        "fma",
        "abm",
        "movbe",
        "sse4_2",
        "ssse3",
        "popcnt",
        "xsave",
    ]
)
_V4 = _V3 | frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"])

_LEVELS = (
    Level(
        name="x86-64-v3",
        macro="__AVX256__",
        tag="x86v3",
        flags=_V3,
        # 512-bit registers, mask registers and the upper 16 vector registers came with AVX-512.
        above=re.compile(r"%zmm|%k[0-7]\b|%[xy]mm(?:1[6-9]|2\d|3[01])\b"),
    ),
    Level(
        name="x86-64-v4",
        macro="__AVX512__",
        tag="x86v4",
        flags=_V4,
        above=re.compile(r"%tmm[0-7]\b"),  # AMX tiles
    ),
)

#: The accepted levels, by name.
LEVELS: Mapping[str, Level] = MappingProxyType({level.name: level for level in _LEVELS})

DEFAULT_LEVEL = "x86-64-v3"


def find_level(name: str) -> Level:
    """The level of this name; ConfigError when it is not one of LEVELS."""
    if name not in LEVELS:
        raise ConfigError(
            "--cpu",
            found=repr(name),
            expected=" or ".join(LEVELS),
            remedy="name the level that every host has (x86-64-v3: Intel since Haswell, AMD "
            "since Excavator; x86-64-v4: AVX-512)",
        )
    return LEVELS[name]


def missing_flags(level: Level, flags: Iterable[str]) -> tuple[str, ...]:
    """CPU flags of the level that a CPU with these ``/proc/cpuinfo`` flags lacks, sorted."""
    return tuple(sorted(level.flags - set(flags)))


def wrapper_script(*, level: Level, compiler: str, version: str) -> str:
    """A compiler wrapper that pins ``-march=native`` and the SIMD macro to the level.

    The compiler's version is part of the text so that ccache, told to hash the compiler's
    content, sees an upgraded compiler.
    """
    macros = "|".join(f"-D{macro}" for macro in ("__AVX512__", "__AVX256__", "__SCALAR__"))
    return f"""\
#!/bin/sh
# {compiler} {version}, held to {level.name}
for arg in "$@"; do
    shift
    case $arg in
        -march=native) arg=-march={level.name} ;;
        {macros}) arg=-D{level.macro} ;;
    esac
    set -- "$@" "$arg"
done
exec {shlex.quote(compiler)} "$@"
"""


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """An instruction above a level: the function that holds it, and its text."""

    function: str
    instruction: str


_FUNCTION = re.compile(r"^[0-9a-f]+ <(?P<name>.*)>:$")


def foreign_instructions(
    disassembly: Iterable[str], *, level: Level, guarded: Iterable[str] = ()
) -> tuple[Foreign, ...]:
    """The first instruction above the level of each function in ``objdump -d -C`` lines.

    Functions named in ``guarded`` (and the OpenMP clones that gcc makes of them) are passed over.
    """
    passed_over = tuple(f"{name}(" for name in guarded)
    found: dict[str, Foreign] = {}
    function = "?"
    for line in disassembly:
        header = _FUNCTION.match(line)
        if header:
            function = header["name"]
        elif (
            function not in found
            and level.above.search(line)
            and not function.startswith(passed_over)
        ):
            text = " ".join(line.partition("\t")[2].split())
            found[function] = Foreign(function=function, instruction=text)
    return tuple(found.values())
