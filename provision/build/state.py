"""What an earlier build left that this one can use: read once, before planning."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from provision.build.cache import Layout, key_of, read_kept_wheel, read_nearest
from provision.build.environment import LOCK, Environment, environment_path, read_environment
from provision.build.interpreter import Python
from provision.build.source import Source, read_source
from provision.build.spec import BuildSpec
from provision.build.toolchain import Toolchain
from provision.build.toolkit import NVCC_DROPPED, Toolkit
from provision.errors import ConfigError
from provision.wheel import isa
from provision.wheel.manifest import WheelManifest, read_manifest, sha256_of

#: Compiler and linker flags beside DeepSpeed's own. Debug data is 97 % of an op's size; the
#: prefix map keeps this machine's paths out of the binary, so that two builds agree to the byte.
STRIP = "-Wl,--strip-debug"
PREFIX_MAP = "-ffile-prefix-map"
#: nvcc names temporary files and symbols at random, and writes both into the object.
NVCC_FLAGS = ("--objdir-as-tempdir", "--frandom-seed=deepspeed")
#: What stands in the binary for the source, site-packages and Python's headers, in this order.
MAPPED = ("/deepspeed", "/site-packages", "/python")
#: Timestamps within the wheel: the first that zip can hold.
EPOCH = 315532800  # 1980-01-01


@dataclass(frozen=True, kw_only=True)
class BuildState:
    """What is there before a build.

    Attributes:
        environ: the user's environment variables.
        environment: the complete build environment, if there is one for this spec.
        archive: the release's source archive, if it is in the cache.
        toolkit_there: whether the toolkit's packages need no fetching.
        published: the very wheel asked for, if it lies in the out folder.
        kept: the very wheel asked for, if it lies in the cache.
        miss: why there is none; "" when that can't be known before the environment is made.
    """

    layout: Layout
    source: Source
    lock: Path
    lock_sha256: str
    environ: Mapping[str, str] = field(repr=False)
    environment: Environment | None = None
    archive: Path | None = None
    toolkit_there: bool = False
    published: WheelManifest | None = None
    kept: WheelManifest | None = None
    miss: str = ""


def read_state(spec: BuildSpec, toolchain: Toolchain, cache: Path) -> BuildState:
    """Read the source, the cache and the out folder.

    Raises:
        ConfigError: ``--source`` holds no DeepSpeed source, or the interpreter was not found.
    """
    layout = Layout(root=cache.absolute())
    source = read_source(spec)
    lock_sha256 = sha256_of(LOCK)
    python = require_python(toolchain)
    environment = read_environment(environment_path(spec, python, layout, lock_sha256))
    toolkit = toolkit_of(toolchain)
    published = kept = None
    miss = ""
    if environment is not None:
        facts = wheel_facts(spec, source, toolchain, environment, lock_sha256)
        published, kept = read_wheels_of(key_of(facts), spec, layout)
        miss = "" if kept else miss_of(read_nearest(layout, facts))
    archive = layout.sources / source.sha256 / source.name
    return BuildState(
        layout=layout,
        source=source,
        lock=LOCK,
        lock_sha256=lock_sha256,
        environ=dict(os.environ),
        environment=environment,
        archive=archive if source.pinned and archive.is_file() else None,
        toolkit_there=toolkit is not None and toolkit.home.is_dir(),
        published=published,
        kept=kept,
        miss=miss,
    )


def miss_of(nearest: tuple[str, tuple[str, ...]] | None) -> str:
    """What read_nearest found → why a wheel has to be compiled."""
    if nearest is None:
        return "no wheel in the cache yet"
    name, parts = nearest
    if not parts:
        return f"{name} in the cache is damaged"
    return f"{name} in the cache differs in {', '.join(parts)}"


def read_wheels_of(
    key: str, spec: BuildSpec, layout: Layout
) -> tuple[WheelManifest | None, WheelManifest | None]:
    """The wheel of this key as found in the out folder, and in the cache.

    The cache is what ties a key to a wheel; the out folder has it when it holds the same bytes.
    """
    kept = read_kept_wheel(layout.wheels / key)
    if kept is None:
        return None, None
    try:
        published = read_manifest(spec.out / kept.wheel)
    except ConfigError:
        return None, kept
    return (published if published == kept else None), kept


def require_python(toolchain: Toolchain) -> Python:
    """The interpreter; ConfigError when it does not run (compare_toolchain says so as well)."""
    if toolchain.python is None:
        raise ConfigError(
            "--python",
            found=f"{toolchain.asked_python}, which does not run",
            expected="an interpreter of the hosts' version",
            remedy="give its name or path",
        )
    return toolchain.python


def toolkit_of(toolchain: Toolchain) -> Toolkit | None:
    """The toolkit that a wheel is compiled with; None for a wheel without device code."""
    return toolchain.cuda.toolkit if toolchain.cuda else None


def libraries_of(spec: BuildSpec) -> dict[str, tuple[str, ...]]:
    """Module file → flags that only its own link gets."""
    return {PurePosixPath(op.module_path).name: op.ldflags for op in spec.ops if op.ldflags}


def wheel_facts(
    spec: BuildSpec,
    source: Source,
    toolchain: Toolchain,
    environment: Environment,
    lock_sha256: str,
) -> dict[str, object]:
    """Everything that decides a wheel's content, by what a user would call it."""
    torch = next(one for one in environment.requires if one.name == "torch")
    wrapper = isa.wrapper_script(
        level=spec.cpu,
        compiler=toolchain.compiler,
        version=str(toolchain.compiler_version),
        libraries=libraries_of(spec),
    )
    toolkit = toolkit_of(toolchain)
    return {
        "accelerator": spec.accelerator,
        "archs": list(spec.archs),
        "compiler": [toolchain.compiler_name, wrapper],
        "cpu": spec.cpu.name,
        "epoch": EPOCH,
        # Not of the wheel's content, but of what its manifest can promise.
        "isa_checked": bool(toolchain.objdump),
        "flags": [STRIP, PREFIX_MAP, *MAPPED, *NVCC_FLAGS, *NVCC_DROPPED],
        "lock": lock_sha256,
        "ops": list(spec.op_names),
        "python": require_python(toolchain).tag,
        "source": source.sha256,
        "toolkit": dict(toolkit.parts) if toolkit else None,
        "torch": [environment.torch, torch.sha256],
    }
