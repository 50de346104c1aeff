"""What is wanted of a wheel: parsed once from flags, then never doubted again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from packaging.version import InvalidVersion, Version

from provision import compat
from provision.build import toolkit
from provision.build.arch import parse_archs
from provision.errors import ConfigError
from provision.wheel import isa, ops

#: DeepSpeed releases this version builds: release → sha256 of its source archive. The archive
#: comes through pip, from wherever the user's pip configuration says; the hash says what it is.
RELEASES: Mapping[str, str] = MappingProxyType(
    {"0.19.8": "9e491abd0827ea5c389dd702e15e11e13d83d904bac4a20d6c2a4cb37207a9af"}
)
DEFAULT_RELEASE = "0.19.8"
DEFAULT_OUT = "wheels"
ACCELERATORS = ("cpu", "cuda")


@dataclass(frozen=True, kw_only=True)
class BuildSpec:
    """One wheel, as wanted.

    Attributes:
        accelerator: what DeepSpeed is built for (``DS_ACCELERATOR``).
        ops_asked: names of the ops as asked for, sorted.
        ops: those and the ones they need, sorted by name: exactly what the wheel must hold.
        archs: what device code is compiled for, canonical: ("8.0", "9.0+PTX"); () for cpu.
        toolkit: where nvcc comes from: one of toolkit.CHOICES.
        torch: the torch release to build against; a local part (``2.13.0+cpu``) is honoured.
        version: the DeepSpeed release; None when ``source`` says it.
        source: a source tree or archive to build in place of a release.
        cpu: the CPU level that every host has.
        out: the folder the wheel and its manifest go to.
        jobs: compilers at once; None: as many as cores and memory allow.
        python: the interpreter (name or path) whose version the hosts run; None: this one.
    """

    accelerator: str
    ops_asked: tuple[str, ...]
    ops: tuple[ops.Op, ...]
    archs: tuple[str, ...]
    toolkit: str
    torch: Version
    version: str | None
    source: Path | None
    cpu: isa.Level
    out: Path
    jobs: int | None
    python: str | None

    @property
    def toolkit_parts(self) -> tuple[str, ...]:
        """Files of CUDA_HOME that some op is linked with, beyond what every CUDA build needs."""
        return tuple(op.toolkit_part for op in self.ops if op.toolkit_part)

    @property
    def op_names(self) -> tuple[str, ...]:
        """Names of ``ops``, sorted."""
        return tuple(op.name for op in self.ops)


def parse_build_spec(
    *,
    accelerator: str | None = None,
    ops: str | Iterable[str] | None = None,
    arch: str | Iterable[str] | None = None,
    toolkit: str | None = None,
    torch: str | None = None,
    version: str | None = None,
    source: str | None = None,
    cpu: str | None = None,
    native: str | None = None,
    out: str | None = None,
    jobs: int | str | None = None,
    python: str | None = None,
) -> BuildSpec:
    """Flags as given (None: not given) → BuildSpec. ``ops`` is a comma list or the names.

    ``native`` is what ``cpu`` "native" means: the CPU level of the machine that builds.

    Raises:
        ConfigError: something asked for can't be honoured.
    """
    accelerator, archs = _parse_accelerator(accelerator, arch)
    asked, wanted = _parse_ops(ops, accelerator)
    return BuildSpec(
        accelerator=accelerator,
        ops_asked=asked,
        ops=wanted,
        archs=archs,
        toolkit=_parse_toolkit(toolkit, accelerator),
        torch=_parse_torch(torch or compat.TORCH, accelerator),
        version=_parse_release(version, source),
        source=Path(source).expanduser() if source else None,
        cpu=_parse_cpu(cpu, native),
        out=Path(out or DEFAULT_OUT).expanduser(),
        jobs=_parse_jobs(jobs),
        python=python or None,
    )


def _parse_accelerator(
    name: str | None, arch: str | Iterable[str] | None
) -> tuple[str, tuple[str, ...]]:
    # No default: guessing from this machine is how a login node without a GPU yields a CPU wheel
    # for a GPU cluster (DeepSpeed's own default does exactly that). A list of GPUs says it.
    name = name or ("cuda" if arch else None)
    if not name:
        raise ConfigError(
            "--accelerator",
            found="nothing",
            expected="--arch (GPUs: --arch 8.0, --arch A100,H100), or --accelerator cpu",
            remedy="say what the hosts train on; it is never guessed from this machine",
        )
    if name not in ACCELERATORS:
        raise ConfigError(
            "--accelerator",
            found=repr(name),
            expected=" or ".join(ACCELERATORS),
            remedy="name one of them",
        )
    if name == "cpu" and arch:
        raise ConfigError(
            "--arch",
            found=f"{arch!r} beside --accelerator cpu",
            expected="one of the two: the cpu accelerator has no device code",
            remedy="leave --accelerator out for a CUDA wheel, or --arch for a CPU wheel",
        )
    if name == "cuda" and not arch:
        raise ConfigError(
            "--arch",
            found="nothing beside --accelerator cuda",
            expected="the hosts' GPUs, as in --arch '8.0;9.0+PTX' or --arch A100,H100",
            remedy="name them, or give --hosts: DeepSpeed's own default list is one that no "
            "current nvcc compiles",
        )
    return name, parse_archs(arch) if arch else ()


def _parse_toolkit(name: str | None, accelerator: str) -> str:
    if name and accelerator == "cpu" and name != toolkit.CHOICES[0]:
        raise ConfigError(
            "--toolkit",
            found=f"{name} for the cpu accelerator",
            expected="nothing: a CPU wheel is compiled without a CUDA toolkit",
            remedy="leave it out",
        )
    name = name or toolkit.CHOICES[0]
    if name not in toolkit.CHOICES:
        raise ConfigError(
            "--toolkit",
            found=repr(name),
            expected=" or ".join(toolkit.CHOICES),
            remedy="auto takes CUDA_HOME where it fits torch, else nvcc's packages",
        )
    return name


def _parse_cpu(name: str | None, native: str | None) -> isa.Level:
    if name == "native":
        if native is None:
            raise ConfigError(
                "--cpu",
                found="native, on a machine whose CPU level could not be read",
                expected=" or ".join(isa.LEVELS),
                remedy="name the level",
            )
        name = native
    if name in (None, "", "auto"):
        name = isa.DEFAULT_LEVEL
    short = {level.removeprefix("x86-64-"): level for level in isa.LEVELS}
    return isa.find_level(short.get(str(name), str(name)))


def _parse_ops(
    names: str | Iterable[str] | None, accelerator: str
) -> tuple[tuple[str, ...], tuple[ops.Op, ...]]:
    if names is None:
        names = ops.DEFAULT_OPS[accelerator]
    elif isinstance(names, str):
        names = [part.strip() for part in names.split(",")]
    asked = tuple(sorted({name for name in names if name}))
    if ops.ALL in asked:
        return (ops.ALL,), ops.find_ops(ops.buildable(accelerator), accelerator)
    if not asked:
        raise ConfigError(
            "--ops",
            found="an empty list",
            expected=f"ops of the {accelerator} accelerator: " + ", ".join(ops.ops_of(accelerator)),
            remedy="name at least one op: a wheel without any compiles them on every host",
        )
    return asked, ops.find_ops(asked, accelerator)


def _parse_torch(text: str, accelerator: str) -> Version:
    try:
        version = Version(text)
    except InvalidVersion:
        raise ConfigError(
            "--torch",
            found=repr(text),
            expected=f"one release, such as {compat.TORCH}",
            remedy="give the exact version that the hosts run; a wheel fits one torch only",
        ) from None
    if accelerator == "cuda" and version.local and not version.local.startswith("cu"):
        raise ConfigError(
            "--torch",
            found=text,
            expected=f"a torch with CUDA, such as {version.public} or {version.public}+cu130",
            remedy="or leave --arch out and say --accelerator cpu",
        )
    return version


def _parse_release(version: str | None, source: str | None) -> str | None:
    if source:
        if version:
            raise ConfigError(
                "--version",
                found=f"{version} beside --source",
                expected="one of the two",
                remedy="leave --version out: the source says its own version",
            )
        return None
    version = version or DEFAULT_RELEASE
    if version not in RELEASES:
        raise ConfigError(
            "--version",
            found=repr(version),
            expected=f"a release whose source is pinned here: {', '.join(RELEASES)}",
            remedy="or unpack the release you want and build it with --source",
        )
    return version


def _parse_jobs(jobs: int | str | None) -> int | None:
    if jobs is None or jobs == "":
        return None
    try:
        number = int(jobs)
    except ValueError:
        number = 0
    if number < 1:
        raise ConfigError(
            "--jobs",
            found=repr(jobs),
            expected="a whole number from 1",
            remedy="leave it out to use what cores and memory allow",
        )
    return number
