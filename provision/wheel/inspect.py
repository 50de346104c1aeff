"""What any DeepSpeed wheel is, whoever built it.

Nothing of the wheel is run: its file list and DeepSpeed's own record are read, and its modules'
symbol versions, device code and instructions.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from provision.errors import ConfigError
from provision.wheel import binary, cubin, isa
from provision.wheel.contents import Contents, opened_wheel, read_contents
from provision.wheel.manifest import WheelManifest, sha256_of
from provision.wheel.ops import OPS


@dataclass(frozen=True, kw_only=True)
class Module:
    """One compiled module.

    Attributes:
        op: what it is.
        instructions: None where there is no objdump to look at them with.
    """

    op: str
    floors: binary.Floors
    code: cubin.DeviceCode
    instructions: isa.Instructions | None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a wheel is, as found.

    Attributes:
        name: its file name.
        size: in bytes.
    """

    name: str
    sha256: str
    size: int
    contents: Contents
    modules: tuple[Module, ...]

    @property
    def archs(self) -> tuple[str, ...]:
        """Compute capabilities that it holds machine code for."""
        return cubin.sorted_capabilities(arch for one in self.modules for arch in one.code.cubins)

    @property
    def ptx(self) -> tuple[str, ...]:
        """Compute capabilities that it holds PTX for."""
        return cubin.sorted_capabilities(arch for one in self.modules for arch in one.code.ptx)

    @property
    def isa(self) -> str | None:
        """The CPU level that its modules need; None if not looked at, or nothing is compiled."""
        levels = [one.instructions.level for one in self.modules if one.instructions]
        if not levels or len(levels) != len(self.modules):
            return None
        return max(levels, key=(isa.BASELINE, *isa.LEVELS).index)

    @property
    def glibc(self) -> str | None:
        """The oldest glibc that it loads on; None when nothing is compiled."""
        return binary.highest(one.floors.glibc for one in self.modules) or None

    @property
    def glibcxx(self) -> str | None:
        """The oldest GLIBCXX symbol version that it loads on; None when nothing asks for one."""
        return binary.highest(one.floors.glibcxx for one in self.modules) or None

    def as_json(self, manifest: WheelManifest | None = None) -> dict[str, object]:
        """Keys of ``inspect-wheel --json``: a stable contract, keys are only ever added."""
        contents = self.contents
        python, _, platform = contents.tags[0].split("-")
        return {
            "wheel": self.name,
            "sha256": self.sha256,
            "size": self.size,
            "deepspeed": contents.version,
            "ops": sorted(contents.modules),
            "requested_ops": list(manifest.ops_asked) if manifest else None,
            "accelerator": contents.accelerator or None,
            "archs": list(self.archs),
            "ptx": list(self.ptx),
            "isa": self.isa,
            "glibc": self.glibc,
            "glibcxx": self.glibcxx,
            "torch": contents.torch or None,
            "cuda": contents.torch_cuda,
            "python": python,
            "platform": platform,
        }

    def rows(self, manifest: WheelManifest | None = None) -> tuple[tuple[str, str], ...]:
        """The same for a person: what, and what was found."""
        return tuple((key, _text(value)) for key, value in self.as_json(manifest).items())


def read_objdump() -> str:
    """The path of objdump here, or ""."""
    return shutil.which("objdump") or ""


def read_inspection(wheel: Path, objdump: str) -> Inspection:
    """Inspect a wheel file. ``objdump`` is its path, or "": instructions are then not looked at.

    Raises:
        ConfigError: it can't be read, is no DeepSpeed wheel, or holds a module we can't read.
    """
    contents = read_contents(wheel)
    with tempfile.TemporaryDirectory() as folder, opened_wheel(wheel) as archive:
        modules = tuple(
            read_module(op, Path(archive.extract(name, folder)), objdump)
            for op, name in sorted(contents.modules.items())
        )
    return Inspection(
        name=wheel.name,
        sha256=sha256_of(wheel),
        size=wheel.stat().st_size,
        contents=contents,
        modules=modules,
    )


def read_module(op: str, path: Path, objdump: str) -> Module:
    """Read one compiled module.

    Raises:
        ConfigError: it is no shared object, or its device code or instructions can't be read.
    """
    from elftools.common.exceptions import ELFError

    try:
        floors, code = binary.read_floors(path), cubin.read_device_code(path)
    except (ELFError, cubin.UnreadableError) as error:
        raise _unreadable(path, str(error)) from None
    guarded = OPS[op].guarded if op in OPS else ()
    instructions = _read_instructions(path, objdump, guarded) if objdump else None
    return Module(op=op, floors=floors, code=code, instructions=instructions)


def _read_instructions(path: Path, objdump: str, guarded: tuple[str, ...]) -> isa.Instructions:
    with subprocess.Popen(
        (objdump, "-d", "-C", "--no-show-raw-insn", str(path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        found = isa.parse_instructions(process.stdout, guarded=guarded)
    if process.returncode != 0 or found is None:
        raise _unreadable(path, f"objdump exit status {process.returncode}, no disassembly")
    return found


def _unreadable(path: Path, found: str) -> ConfigError:
    return ConfigError(
        path.name, found=found, expected="a shared object of x86-64", remedy="build it again"
    )


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(one) for one in value) or "none"
    return "-" if value is None else str(value)
