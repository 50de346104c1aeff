"""Hosts on which a deploy takes seconds, and the folder of a user who deploys to them (root).

Hosts are the cluster's (real SSH, disks and power of their own), the command is `invoke deploy` as
a user types it. What is deployed is small: the checkout is copied, its locks/train.lock replaced by
one of three small packages, and torch and DeepSpeed are stand-ins of their names, without ops. All
else is what it always is: store, push, installer, proof, switch.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from provision.deploy.spec import make_env_spec
from provision.wheel.manifest import Distribution, SourceOf, WheelManifest, apply_manifest
from tests.integration.cluster import cluster as bed

CHECKOUT = Path(__file__).resolve().parents[3]
TAG = f"cp{sys.version_info[0]}{sys.version_info[1]}"
#: A package's own data: enough for a push to take a while on a machine that does nothing else.
BULK = 6_000_000
TORCH = '__version__ = "2.13.0+cpu"\n\n\nclass version:\n    cuda = None\n'

#: How long each end of a connection is silent, and may be: a quarter of it.
QUICKER = (
    ("talk.py", "SILENCE_SECONDS = 36.0", "SILENCE_SECONDS = 9.0"),
    ("remote.py", "SILENCE_SECONDS = 10, 30", "SILENCE_SECONDS = 2, 8"),
    ("deploy/hold.py", "_ALIVE_EVERY = 5.0", "_ALIVE_EVERY = 1.2"),
    ("push/end.py", "_ALIVE_EVERY = 5.0", "_ALIVE_EVERY = 1.2"),
    ("onhost/converse.py", "ALIVE_SECONDS = 5.0", "ALIVE_SECONDS = 1.2"),
    ("onhost/relay.py", "CONTROLLER_SECONDS = 34.0", "CONTROLLER_SECONDS = 8.5"),
    ("onhost/hold.py", "SILENCE = 40.0", "SILENCE = 10.0"),
)


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A small wheel: its path, and the size of every file that it installs."""

    path: Path
    name: str
    version: str
    sizes: dict[str, int]

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @property
    def line(self) -> str:
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}\n"


def hash_of(content: bytes) -> str:
    """As RECORD has it."""
    return (
        f"sha256={base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip('=')}"
    )


def make_wheel(folder: Path, name: str, version: str, tag: str, files: dict[str, bytes]) -> Wheel:
    """A wheel as PEP 427 has it."""
    info = f"{name}-{version}.dist-info"
    pure = str(tag.endswith("any")).lower()
    wheel = f"Wheel-Version: 1.0\nRoot-Is-Purelib: {pure}\nTag: {tag}\n".encode()
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    whole = {**files, f"{info}/METADATA": metadata, f"{info}/WHEEL": wheel}
    record = "".join(f"{inner},{hash_of(each)},{len(each)}\n" for inner, each in whole.items())
    record += f"{info}/RECORD,,\n"
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, content in {**whole, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(inner, content)
    sizes = {inner: len(content) for inner, content in files.items()}
    return Wheel(path=path, name=name, version=version, sizes=sizes)


def make_deepspeed(folder: Path, torch: Wheel) -> tuple[Wheel, WheelManifest]:
    """The wheel to deploy, with its manifest beside it."""
    ops = "deepspeed/ops/op_builder"
    files = {
        "deepspeed/__init__.py": b'__version__ = "0.19.8"\n',
        "deepspeed/ops/__init__.py": b"",
        f"{ops}/__init__.py": b"",
        f"{ops}/all_ops.py": b"ALL_OPS = {}\n",
        f"{ops}/builder.py": b"class OpBuilder:\n    pass\n",
    }
    made = make_wheel(folder, "deepspeed", "0.19.8", f"{TAG}-{TAG}-linux_x86_64", files)
    manifest = WheelManifest(
        wheel=made.path.name, sha256=made.sha256, size=made.path.stat().st_size,
        deepspeed="0.19.8", accelerator="cpu", ops_asked=(), ops=(), not_loaded={},
        torch="2.13.0+cpu", torch_dist="2.13.0+cpu", torch_cuda=None, python_tag=TAG,
        platform="linux_x86_64", toolkit=None, arch_list=(), ptx=(), archs_checked=False,
        cpu="x86-64-v2", isa_checked=True, glibc="2.17", glibcxx="3.4.19", compiler="none",
        source=SourceOf(name="deepspeed", sha256="0" * 64), built_at="2026-01-01T00:00:00+00:00",
        requires=(Distribution(name="torch", version="2.13.0+cpu", sha256=torch.sha256),),
    )  # fmt: skip
    apply_manifest(manifest, folder)
    return made, manifest


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Hosts, two environments that differ in one package, and the user's folder.

    ``locks``: the text of locks/train.lock for each; ``sizes``: what an installed file may be long.
    """

    folder: Path
    cluster: bed.Cluster
    environ: dict[str, str]
    manifest: WheelManifest
    locks: tuple[str, str]
    sizes: dict[str, tuple[int, ...]]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What the two environments are called on hosts."""
        wheel = self.folder / "wheels" / self.manifest.wheel
        return tuple(make_env_spec(lock, self.manifest, wheel).name for lock in self.locks)

    def choose(self, number: int) -> None:
        """Have the first or the second environment deployed from now on."""
        (self.folder / "checkout" / "locks" / "train.lock").write_text(self.locks[number])

    @contextmanager
    def quicker(self) -> Iterator[None]:
        """Have controller and hosts take silence for the end in a quarter of the time."""
        folder = self.folder / "checkout" / "provision"
        before = {name: (folder / name).read_text() for name, _, _ in QUICKER}
        for name, as_it_is, quick in QUICKER:
            assert before[name].count(as_it_is) == 1, f"{name}: {as_it_is}"
            (folder / name).write_text(before[name].replace(as_it_is, quick))
        try:
            yield
        finally:
            for name, text in before.items():
                (folder / name).write_text(text)

    def start(self, *args: str) -> subprocess.Popen[str]:
        """``invoke args --json``, in the controller's network."""
        argv = [*self.cluster.entry(), sys.executable, "-P", "-m", "invoke"]
        argv += ["--search-root", str(self.folder / "checkout"), *args, "--json"]
        return subprocess.Popen(
            argv, cwd=self.folder, env=self.environ, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def invoke(self, *args: str) -> tuple[int, dict[str, Any], str]:
        """(exit code, JSON object, what else it said) of a command."""
        process = self.start(*args)
        out, err = process.communicate(timeout=300)
        return process.returncode, json.loads(out) if out else {}, err

    def deploy(self, *flags: str) -> dict[str, Any]:
        """The answer of a deploy that has to succeed."""
        code, answer, said = self.invoke("deploy", *flags)
        assert code == 0, said[-3000:]
        return answer


def make_packages(folder: Path) -> tuple[Wheel, ...]:
    """torch, big, and two versions of one, in the folder that pip finds packages in."""
    torch = {"torch/__init__.py": TORCH.encode()}
    big = {"big/__init__.py": b"", "big/data": random.Random(1).randbytes(BULK)}
    any_python = "py3-none-any"
    return (
        make_wheel(folder, "torch", "2.13.0+cpu", f"{TAG}-{TAG}-linux_x86_64", torch),
        make_wheel(folder, "big", "1.0", any_python, big),
        make_wheel(folder, "one", "1.0", any_python, {"one/__init__.py": b"1.0"}),
        make_wheel(folder, "one", "2.0", any_python, {"one/__init__.py": b"2.0"}),
    )


def bring_uv(house: Path, cache: Path | None) -> None:
    """uv's own wheel beside the packages: from the wheelhouse of ``cache`` if it is there."""
    kept = (cache or house) / "zerofleet" / "wheelhouse"
    if found := list(kept.glob(f"*/uv-*musllinux*{os.uname().machine}.whl")):
        shutil.copy(found[0], house)
        return
    argv = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes"]
    argv += ["--only-binary", ":all:", "--platform", f"musllinux_1_1_{os.uname().machine}"]
    argv += ["--dest", str(house), "--requirement", str(CHECKOUT / "locks" / "uv.lock")]
    subprocess.run(argv, check=True)


def make_checkout(folder: Path, settings: dict[str, object]) -> None:
    """What of this checkout a command needs, with an invoke.yaml of its own."""
    for name in ("provision", "locks", "trainer", "zero_configs", "recipes"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / name, folder / name, ignore=ignored)
    shutil.copy(CHECKOUT / "tasks.py", folder)
    (folder / "invoke.yaml").write_text(yaml.safe_dump({"zerofleet": settings}))


def make_stage(
    folder: Path, hosts: int = 2, cache: Path | None = None, *, shared_home: bool = False
) -> Stage:
    """Everything, in a folder of its own; ``cache`` may have what would be downloaded (uv)."""
    wheels, house = folder / "wheels", folder / "house"
    for path in (wheels, house):
        path.mkdir(parents=True)
    torch, big, *ones = make_packages(house)
    deepspeed, manifest = make_deepspeed(wheels, torch)
    bring_uv(house, cache)
    sizes: dict[str, tuple[int, ...]] = {}
    for wheel in (torch, deepspeed, big, *ones):
        for path, size in wheel.sizes.items():
            sizes[path] = (*sizes.get(path, ()), size)
    cluster = bed.start(folder / "cluster", hosts, shared_home=shared_home)
    settings = {
        "hosts": str(cluster.folder / "hosts.txt"), "ssh_config": str(cluster.ssh_config),
        "wheels": str(wheels), "connect_timeout": 12,
    }  # fmt: skip
    make_checkout(folder / "checkout", settings)
    # As a URI: pip splits the variable at spaces. Packages come from there alone.
    found = {"PIP_FIND_LINKS": house.as_uri(), "PIP_NO_INDEX": "1"}
    found["XDG_CACHE_HOME"] = str(folder / "cache")
    environ = {**os.environ, **found}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)  # many commands, one checkout
    locks = (big.line + ones[0].line, big.line + ones[1].line)
    return Stage(
        folder=folder, cluster=cluster, environ=environ, manifest=manifest,
        locks=locks, sizes=sizes,
    )  # fmt: skip
