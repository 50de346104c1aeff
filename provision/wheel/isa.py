"""The CPU level a wheel is built for, and how DeepSpeed's build is held to it.

DeepSpeed's op_builder hard-codes ``-march=native`` and defines ``__AVX512__``, ``__AVX256__`` or
``__SCALAR__`` from the *build* machine; no variable overrides either, and nothing chooses at run
time. So a wheel from a new login node dies with an illegal instruction on an older host
(deepspeedai/DeepSpeed#1886, #7556). Both are mapped here, together, in a compiler wrapper: the
macro and the flag must agree (AVX512 code does not compile for x86-64-v3). x86-64-v2 has no macro
of its own: DeepSpeed's loops are then scalar.

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
        own: instructions, as objdump writes them, that the level below does not have.
    """

    name: str
    macro: str
    tag: str
    flags: frozenset[str]
    own: re.Pattern[str]


# "pni" is how Linux shows sse3, and "abm" how it shows lzcnt.
_V2 = frozenset(["cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3"])
_V3 = _V2 | frozenset(["abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"])
_V4 = _V3 | frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"])

_PREFIXES = r"\t(?:(?:lock|rep[nz]*|notrack|bnd|data16|[c-gs]s|\{e?vex\}) )*"
# tzcnt is not among them: older CPUs read it as "rep bsf", which gcc writes for all of them.
_V2_NAMES = (
    r"cmpxchg16b|crc32[bwlq]?|popcnt[wlq]?|addsubp[ds]|h(?:add|sub)p[ds]|lddqu|movs[hl]dup|movddup"
    r"|pabs[bwd]|palignr|ph(?:add|sub)(?:s?w|d)|pmaddubsw|pmulhrsw|pshufb|psign[bwd]|p?blend\w+"
    r"|dpp[ds]|extractps|insertps|movntdqa|mpsadbw|packusdw|pcmp(?:eqq|gtq|[ei]str[im])"
    r"|pextr[bdq]|pinsr[bdq]|phminposuw|p(?:max|min)(?:s[bd]|u[wd])|pmov[sz]x\w+|pmul(?:dq|ld)"
    r"|ptest|round[sp][sd]"
)
_V3_NAMES = (
    r"v(?!er[rw]\b)\w+|andn[lq]?|bextr[lq]?|bls(?:i|r|msk)[lq]?|bzhi[lq]?|lzcnt[wlq]?|movbe[wlq]?"
    r"|mulx[lq]?|pdep[lq]?|pext[lq]?|rorx[lq]?|s(?:ar|hl|hr)x[lq]?"
)

#: The accepted levels, by name, lowest first.
LEVELS: Mapping[str, Level] = MappingProxyType(
    {
        level.name: level
        for level in (
            Level(
                name="x86-64-v2",
                macro="__SCALAR__",
                tag="x86v2",
                flags=_V2,
                own=re.compile(rf"{_PREFIXES}(?:{_V2_NAMES})\b"),
            ),
            Level(
                name="x86-64-v3",
                macro="__AVX256__",
                tag="x86v3",
                flags=_V3,
                own=re.compile(rf"%ymm|{_PREFIXES}(?:{_V3_NAMES})\b"),
            ),
            Level(
                name="x86-64-v4",
                macro="__AVX512__",
                tag="x86v4",
                flags=_V4,
                # 512-bit registers, masks, and the upper 16 vector registers.
                own=re.compile(r"%zmm|%k[0-7]\b|%[xy]mm(?:1[6-9]|2\d|3[01])\b"),
            ),
        )
    }
)
#: What every x86-64 CPU has.
BASELINE = "x86-64"
#: Instructions that no level has, though a newer CPU may: AMX, AES, SHA, ADX, VNNI, BF16, FP16 ….
BEYOND = re.compile(
    r"%tmm\d|" + _PREFIXES + r"(?:v?aes\w+|v?pclmul\w+|sha(?:1|256)\w+|ad[co]x[lq]?|rdrand|rdseed"
    r"|v?gf2p8\w+|clzero|movntss|movntsd|extrq|insertq|vpdp\w+|vdpbf16ps|vcvtne2?ps2bf16\w*"
    r"|vpopcnt\w+|vpermb|vperm[it]2b|vpmultishiftqb|vp(?:compress|expand)[bw]|vpsh[lr]d\w+"
    r"|vpmadd52\w+|vfm\w+ph|v(?:add|sub|mul|div|sqrt)ph)\b"
)

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


def highest_level(flags: Iterable[str]) -> Level | None:
    """The highest level of a CPU with these ``/proc/cpuinfo`` flags; None below all of them.

    What ``-march=native`` would mean, as far as a wheel for other machines can mean it.
    """
    present = set(flags)
    fitting = [level for level in LEVELS.values() if level.flags <= present]
    return fitting[-1] if fitting else None


def missing_flags(level: Level, flags: Iterable[str]) -> tuple[str, ...]:
    """CPU flags of the level that a CPU with these ``/proc/cpuinfo`` flags lacks, sorted."""
    return tuple(sorted(level.flags - set(flags)))


def wrapper_script(
    *,
    level: Level,
    compiler: str,
    version: str,
    libraries: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> str:
    """A compiler wrapper that pins ``-march=native`` and the SIMD macro to the level.

    ``libraries`` maps a module's file name (up to its first dot) to flags that end the command
    that links it; LDFLAGS would give them to every module.

    The compiler's version is part of the text so that ccache, told to hash the compiler's
    content, sees an upgraded compiler. ``-g`` is left out: linking strips what it makes, and making
    it is a third of the compiler's time.
    """
    macros = "|".join(f"-D{macro}" for macro in ("__AVX512__", "__AVX256__", "__SCALAR__"))
    linked = "".join(
        f'    *" -shared "*"/{module}."*) set -- "$@" {shlex.join(flags)} ;;\n'
        for module, flags in sorted(libraries.items())
    )
    append = f'case " $* " in\n{linked}esac\n' if linked else ""
    return f"""\
#!/bin/sh
# {compiler} {version}, held to {level.name}
for arg in "$@"; do
    shift
    case $arg in
        -march=native) arg=-march={level.name} ;;
        {macros}) arg=-D{level.macro} ;;
        -g) continue ;;
    esac
    set -- "$@" "$arg"
done
{append}exec {shlex.quote(compiler)} "$@"
"""


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """An instruction above a level: the function that holds it, and its text."""

    function: str
    instruction: str


@dataclass(frozen=True, kw_only=True)
class Instructions:
    """What a disassembly holds.

    Attributes:
        level: name of the lowest level that has all its instructions, but for ``beyond``.
        first: level name → its first instruction, for every level that is needed.
        beyond: the first instruction of each function that no level has.
    """

    level: str
    first: Mapping[str, Foreign]
    beyond: tuple[Foreign, ...]

    def above(self, level: Level) -> tuple[Foreign, ...]:
        """Instructions that a CPU of this level need not have; the highest level's first."""
        names = tuple(LEVELS)
        higher = reversed(names[names.index(level.name) + 1 :])
        return (*self.beyond, *(self.first[name] for name in higher if name in self.first))


_FUNCTION = re.compile(r"^[0-9a-f]+ <(?P<name>.*)>:$")


def parse_instructions(
    disassembly: Iterable[str], *, guarded: Iterable[str] = ()
) -> Instructions | None:
    """Lines of ``objdump -d -C --no-show-raw-insn`` → Instructions; None when there are none.

    Functions named in ``guarded`` (and the OpenMP clones that gcc makes of them) are passed over.
    """
    passed_over = tuple(f"{name}(" for name in guarded)
    first: dict[str, Foreign] = {}
    beyond: dict[str, Foreign] = {}
    wanted = list(LEVELS.values())
    function, skip, any_code = "?", False, False
    for line in disassembly:
        if header := _FUNCTION.match(line):
            function, any_code = header["name"], True
            skip = function.startswith(passed_over)
        elif not skip and "\t" in line:
            for level in wanted:
                if level.own.search(line):
                    first[level.name] = _foreign(function, line)
            wanted = [level for level in wanted if level.name not in first]
            if function not in beyond and BEYOND.search(line):
                beyond[function] = _foreign(function, line)
    if not any_code:
        return None
    needed = [name for name in LEVELS if name in first]
    highest = needed[-1] if needed else BASELINE
    return Instructions(level=highest, first=first, beyond=tuple(beyond.values()))


def _foreign(function: str, line: str) -> Foreign:
    return Foreign(function=function, instruction=" ".join(line.partition("\t")[2].split()))
