"""The CUDA toolkit: which there are, which one fits torch, and the CUDA_HOME a build gets.

A toolkit is matched to torch, never the other way round. One that lies on this machine is taken
where it fits; otherwise nvcc comes as packages that locks/cuda-<version>.lock names with their
hashes. Neither has to be whole: what a slim toolkit lacks (cusparse.h, libcurand.so) comes from
the packages that a CUDA torch itself requires.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

from provision.compat import NVCC_ARCHS, NVCC_GCC, toolkit_fits
from provision.wheel.manifest import sha256_of

CHOICES = ("auto", "system", "pypi")
#: One lock for each CUDA version whose nvcc can be had as packages.
LOCKS = Path(__file__).parents[2] / "locks"
#: What the sources of torch and DeepSpeed include, and what their extensions are linked with.
NEEDED = (
    *("bin/nvcc", "bin/ptxas", "nvvm/bin/cicc", "include/crt/host_config.h"),
    *("include/cuda_runtime.h", "include/cublas_v2.h", "include/cusparse.h"),
    *("include/cusolverDn.h", "include/curand_kernel.h", "include/thrust/complex.h"),
    *("lib64/libcudart.so", "lib64/libcurand.so"),
)
#: Since CUDA 13 thrust and cub are a folder further down, which nvcc looks into by itself.
_ELSEWHERE = {"include/thrust/complex.h": "include/cccl/thrust/complex.h"}
#: What op_builder/ adds for profilers: it writes this machine's paths into the device code, where
#: no prefix map reaches.
NVCC_DROPPED = ("-lineinfo", "--generate-line-info")
_DRIVER = ("/usr/lib/x86_64-linux-gnu/libcuda.so", "/usr/lib64/libcuda.so")
_MERGED = ("bin", "include", "lib", "lib64")


@dataclass(frozen=True, kw_only=True)
class Toolkit:
    """One CUDA toolkit.

    Attributes:
        home: its folder; for packages: where they are, or will be, in the cache.
        version: nvcc's full version, such as "13.0.88".
        archs: compute capabilities that its nvcc compiles for.
        gcc: newest major version of gcc that it accepts; None: unknown.
        parts: what its output depends on, by name.
        lock: the lock that names its packages; None for a toolkit of this machine.
    """

    home: Path
    version: str
    archs: tuple[str, ...]
    gcc: int | None
    parts: Mapping[str, str]
    lock: Path | None = None

    @property
    def cuda(self) -> str:
        """Its CUDA version, such as "13.0"."""
        version = Version(self.version)
        return f"{version.major}.{version.minor}"

    @property
    def folder(self) -> Path:
        """For packages: the folder of the cache that holds these and nothing else."""
        return self.home.parents[1]

    @property
    def kind(self) -> str:
        """What ``--toolkit`` calls it."""
        return "pypi" if self.lock else "system"

    def __str__(self) -> str:
        where = f"packages of {self.lock.name}" if self.lock else str(self.home)
        return f"CUDA {self.version} ({where})"


def choose_toolkit(asked: str, toolkits: Iterable[Toolkit], torch_cuda: str) -> Toolkit | None:
    """The first toolkit of the kind asked for ("auto": any) that fits torch's CUDA."""
    for toolkit in toolkits:
        if asked in ("auto", toolkit.kind) and toolkit_fits(toolkit.cuda, torch_cuda):
            return toolkit
    return None


def read_toolkits(
    read: Callable[[str], str], environ: Mapping[str, str], torch_cuda: str, cache: Path
) -> tuple[Toolkit, ...]:
    """Every toolkit there is, this machine's first; ``read`` runs a command, "" when it fails.

    CUDA_HOME (CUDA_PATH), where set, is the only place of this machine that is looked at.
    """
    named = environ.get("CUDA_HOME") or environ.get("CUDA_PATH")
    homes = [named] if named else ["/usr/local/cuda", f"/usr/local/cuda-{torch_cuda}"]
    on_path = "" if named else read("command -v nvcc").strip()
    if on_path:
        homes.append(str(Path(on_path).resolve().parents[1]))
    folders = {Path(home).resolve(): Path(home) for home in reversed(homes)}  # the first name stays
    here = (_read_toolkit(read, home) for home in reversed(folders.values()))
    locks = (_read_lock(lock, cache) for lock in sorted(LOCKS.glob("cuda-*.lock")))
    return tuple(one for one in (*here, *locks) if one is not None)


def _read_toolkit(read: Callable[[str], str], home: Path) -> Toolkit | None:
    nvcc = home / "bin" / "nvcc"
    ptxas, cicc = home / "bin" / "ptxas", home / "nvvm" / "bin" / "cicc"
    if not all(path.is_file() for path in (nvcc, ptxas, cicc)):
        return None  # such as the folder of a script that is called nvcc and starts the real one
    version = parse_release(read(f"{shlex.quote(str(nvcc))} --version"))
    if not version:
        return None
    headers = sorted((home / "include" / "crt").glob("*.h"))
    crt = hashlib.sha256(b"".join(path.read_bytes() for path in headers)).hexdigest()
    config = home / "include" / "crt" / "host_config.h"
    return Toolkit(
        home=home,
        version=version,
        archs=parse_archs_listed(read(f"{shlex.quote(str(nvcc))} --list-gpu-arch")),
        gcc=parse_newest_gcc(config.read_text(errors="replace")) if config.is_file() else None,
        parts={
            "nvcc": version,
            "ptxas": parse_release(read(f"{shlex.quote(str(ptxas))} --version")),
            "nvvm": sha256_of(cicc),  # it does not say its version
            "crt": crt,
        },
    )


def _read_lock(lock: Path, cache: Path) -> Toolkit | None:
    match = re.search(r"^nvidia-cuda-nvcc==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        return None
    cuda, sha256 = lock.stem.removeprefix("cuda-"), sha256_of(lock)
    folder = cache / "toolkits" / f"{lock.stem}-{sha256[:12]}"
    return Toolkit(
        # Since CUDA 13 all of NVIDIA's packages share this one folder.
        home=folder / "nvidia" / f"cu{Version(cuda).major}",
        version=match[1],
        archs=NVCC_ARCHS.get(cuda, ()),
        gcc=NVCC_GCC.get(cuda),
        parts={"lock": sha256},
        lock=lock,
    )


def parse_release(text: str) -> str:
    """``--version`` of nvcc or ptxas → "13.0.88"; "" when it is none of these."""
    match = re.search(r"\brelease [\d.]+, V([\d.]+)", text)
    try:
        return str(Version(match[1])) if match else ""
    except InvalidVersion:
        return ""


def parse_archs_listed(text: str) -> tuple[str, ...]:
    """``nvcc --list-gpu-arch`` (lines such as ``compute_90``) → ("8.0", "9.0"), lowest first."""
    numbers = re.findall(r"^compute_(\d+)(\d)$", text, re.MULTILINE)
    return tuple(sorted((f"{major}.{minor}" for major, minor in numbers), key=Version))


def parse_newest_gcc(host_config: str) -> int | None:
    """The newest major version of gcc that include/crt/host_config.h lets pass."""
    match = re.search(r"^#if __GNUC__ > (\d+)\s*$", host_config, re.MULTILINE)
    return int(match[1]) if match else None


def read_view(toolkit: Path, packages: Path) -> Mapping[str, Path]:
    """A whole CUDA_HOME as links: relative path → what it points to.

    Args:
        toolkit: the toolkit's folder.
        packages: the site-packages with torch's own CUDA packages.
    """
    links: dict[str, Path] = {}
    homes = (toolkit, *sorted(packages.glob("nvidia/*/")))
    for home in homes:
        for folder in _MERGED:
            target = "lib64" if folder == "lib" else folder
            for entry in _read_entries(home / folder):
                links.setdefault(f"{target}/{entry.name}", entry)
    for entry in _read_entries(toolkit):
        if entry.name not in _MERGED:
            links.setdefault(entry.name, entry)
    # The driver's library, which no toolkit holds: its stub, or what is on this machine.
    stubs = [*_read_entries(toolkit / "lib64" / "stubs"), *(Path(one) for one in _DRIVER)]
    for stub in stubs:
        if stub.name == "libcuda.so" and stub.exists():
            links.setdefault(f"lib64/{stub.name}", stub)
    # Packages hold libcurand.so.10 only; a linker asked for -lcurand wants libcurand.so.
    for path in sorted(links):
        library, so, _ = path.partition(".so.")
        if so and path.startswith("lib64/"):
            links.setdefault(f"{library}.so", links[path])
    return links


def missing(links: Mapping[str, Path], parts: Iterable[str] = ()) -> tuple[str, ...]:
    """What every build (and ``parts``: this one) needs of CUDA_HOME and the links don't lead to."""
    return tuple(
        path
        for path in (*NEEDED, *sorted(set(parts)))
        if not (_leads(links, path) or (path in _ELSEWHERE and _leads(links, _ELSEWHERE[path])))
    )


def _leads(links: Mapping[str, Path], path: str) -> bool:
    parts = path.split("/")
    return any(
        (target := links.get("/".join(parts[:depth]))) is not None
        and target.joinpath(*parts[depth:]).exists()
        for depth in range(1, len(parts) + 1)
    )


def _read_entries(folder: Path) -> Iterator[Path]:
    # Resolved first: in NVIDIA's own installations include and lib64 are links themselves.
    if folder.is_dir():
        yield from sorted(folder.resolve().iterdir())


def nvcc_script(toolkit: Toolkit) -> str:
    """The nvcc of a view: without NVCC_DROPPED.

    The toolkit's parts are in the text for a ccache that is told to hash the compiler's content.
    """
    parts = ", ".join(f"{name} {version}" for name, version in sorted(toolkit.parts.items()))
    return f"""\
#!/bin/sh
# {parts}
for arg in "$@"; do
    shift
    case $arg in
        {"|".join(NVCC_DROPPED)}) continue ;;
    esac
    set -- "$@" "$arg"
done
exec {shlex.quote(str(toolkit.home / "bin" / "nvcc"))} "$@"
"""


def apply_view(links: Mapping[str, Path], nvcc: str, target: Path) -> None:
    """Make the links, and nvcc as a script, in a folder that does not exist yet."""
    for path, source in links.items():
        link = target / path
        link.parent.mkdir(parents=True, exist_ok=True)
        if path != "bin/nvcc":
            link.symlink_to(source)
            continue
        link.write_text(nvcc, encoding="utf-8")
        link.chmod(0o755)
