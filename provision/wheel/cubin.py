"""The device code in a compiled module: for which compute capabilities, and which PTX.

nvcc puts it into ELF sections of its own as "fat binaries", each a header and a row of entries,
one per cubin or PTX. The layout is not documented; it has been the same from CUDA 4 to 13, is
what https://github.com/n-eiling/cuda-fatbin-decompression and ZLUDA read, and agrees with
cuobjdump. Anything that does not look exactly like it is an error, never "no device code".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

#: Of code that is complete, and of code that was still to be linked (nvcc -rdc=true).
_SECTIONS = (".nv_fatbin", "__nv_relfatbin")
#: magic, version, size of this header, size of the entries that follow
_REGION = struct.Struct("<IHHQ")
_MAGIC, _VERSION = 0xBA55ED50, 1
#: kind, version, size of this header, size of the payload; … ; architecture; … ; flags
_ENTRY = struct.Struct("<HHIQ12xI8xQ")
_PTX, _CUBIN = 1, 2
#: Flags of nvcc's sm_90a and sm_100f: code that later GPUs do not run.
_SUFFIXES = ((1 << 20, "a"), (1 << 21, "f"))
#: The runtime's entry point that a module with device code calls when it is loaded.
_REGISTER = "__cudaRegisterFatBinary"


class UnreadableError(ValueError):
    """A fat binary of another layout than the one we know."""


@dataclass(frozen=True, kw_only=True)
class DeviceCode:
    """What a module holds for GPUs, as compute capabilities ("8.0", "9.0a"), lowest first.

    Attributes:
        cubins: machine code.
        ptx: code that a driver compiles, for this capability or any later one.
        registers: whether the module registers device code with the CUDA runtime when loaded.
    """

    cubins: tuple[str, ...] = ()
    ptx: tuple[str, ...] = ()
    registers: bool = False


def read_device_code(module: Path) -> DeviceCode:
    """Read a shared object's device code; UnreadableError when there is some we can't read."""
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    with module.open("rb") as file:
        elf = ELFFile(file)
        sections = [
            section.data()
            for name in _SECTIONS
            if (section := elf.get_section_by_name(name)) is not None
        ]
        symbols = elf.get_section_by_name(".dynsym")
        registers = isinstance(symbols, SymbolTableSection) and bool(
            symbols.get_symbol_by_name(_REGISTER)
        )
    return parse_fatbin(*sections, registers=registers)


def parse_fatbin(*sections: bytes, registers: bool = False) -> DeviceCode:
    """The bytes of a module's sections → the device code in them.

    ``registers``: the module registers device code, whether any is found or not.
    """
    found = [entry for section in sections for entry in _entries(section)]
    return DeviceCode(
        cubins=sorted_capabilities(capability for kind, capability in found if kind == _CUBIN),
        ptx=sorted_capabilities(capability for kind, capability in found if kind == _PTX),
        registers=registers or bool(found),
    )


def _entries(section: bytes) -> Iterator[tuple[int, str]]:
    """Kind and compute capability of every entry of every region."""
    at = 0
    while at < len(section):
        if not any(section[at : at + 8]):  # regions are aligned to 8 bytes
            at += 8
            continue
        magic, version, header, size = _unpack(_REGION, section, at)
        if (magic, version) != (_MAGIC, _VERSION) or header < _REGION.size:
            raise UnreadableError(f"no fat binary of version {_VERSION} at byte {at}")
        end = at + header + size
        at += header
        while at < end:
            kind, _version, header, size, architecture, flags = _unpack(_ENTRY, section, at)
            if kind not in (_PTX, _CUBIN) or header < _ENTRY.size:
                raise UnreadableError(f"an entry of kind {kind} at byte {at}")
            yield kind, _capability(architecture, flags)
            at += header + size
        if at != end or end > len(section):
            raise UnreadableError(f"a fat binary that does not end at byte {end}")


def _unpack(layout: struct.Struct, data: bytes, at: int) -> tuple[int, ...]:
    try:
        return layout.unpack_from(data, at)
    except struct.error:
        raise UnreadableError(f"a fat binary cut off at byte {at}") from None


def _capability(architecture: int, flags: int) -> str:
    suffix = "".join(letter for flag, letter in _SUFFIXES if flags & flag)
    return f"{architecture // 10}.{architecture % 10}{suffix}"


def sorted_capabilities(capabilities: Iterable[str]) -> tuple[str, ...]:
    """Compute capabilities, each once, by number: "9.0" comes before "10.0"."""

    def order(capability: str) -> tuple[int, int, str]:
        major, _, minor = capability.partition(".")
        digits = "".join(char for char in minor if char.isdigit())
        return int(major), int(digits), capability

    return tuple(sorted(set(capabilities), key=order))


def wanted_code(archs: Iterable[str]) -> DeviceCode:
    """The device code that a list such as ("8.0", "9.0+PTX") asks for.

    As torch reads it: a cubin for each, and PTX beside it where "+PTX" says so.
    https://docs.pytorch.org/docs/stable/cpp_extension.html (TORCH_CUDA_ARCH_LIST)
    """
    numbers = [arch.partition("+") for arch in archs]
    return DeviceCode(
        cubins=sorted_capabilities(number for number, _, _ in numbers),
        ptx=sorted_capabilities(number for number, plus, _ in numbers if plus),
        registers=bool(numbers),
    )
