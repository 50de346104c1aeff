"""A deploy that is broken off anywhere, again and again: `python -m tests.integration.kill.points`.

    … [--points 20] [--seed N] [--folder /tmp/kill]     as root, from the checkout

Hosts are the cluster's (real SSH, disks and power of their own), the command is `invoke deploy` as
a user types it. What is deployed is small, so that one takes seconds: the checkout is copied, its
locks/train.lock replaced by one of three small packages, and torch and DeepSpeed are stand-ins
of their names, without ops. All else is what it always is: store, push, installer, proof, switch.

At each point the next environment is deployed from nothing; at a random moment something breaks:

    kill    the controller, with SIGKILL
    off     a host's power; it is booted again
    cut     a host's link, then the controller is killed; the link is mended
    full    a host's disk

A watcher looks at all hosts all the time: what ``current`` names is whole, down to every file of
every package. Then the same command again: it must converge, and nothing else may be left.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import yaml

from provision.wheel.manifest import Distribution, SourceOf, WheelManifest, apply_manifest
from tests.integration.cluster import cluster as bed

CHECKOUT = Path(__file__).resolve().parents[3]
KINDS = ("kill", "full", "off", "cut")
TAG = f"cp{sys.version_info[0]}{sys.version_info[1]}"
#: A package's own data: enough for a push to take a while on a machine that does nothing else.
BULK = 6_000_000
#: Below ~/.zerofleet after a deploy that came to its end.
WHOLE = {"store", "envs", "current", "history.jsonl", "lock", "seen"}
TORCH = '__version__ = "2.13.0+cpu"\n\n\nclass version:\n    cuda = None\n'


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A small wheel: its path, and the size of every file that it installs."""

    path: Path
    name: str
    version: str
    sizes: dict[str, int]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @property
    def line(self) -> str:
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}\n"


def make_wheel(folder: Path, name: str, version: str, tag: str, files: dict[str, bytes]) -> Wheel:
    """A wheel as PEP 427 has it."""
    info = f"{name}-{version}.dist-info"
    pure = str(tag.endswith("any")).lower()
    wheel = f"Wheel-Version: 1.0\nRoot-Is-Purelib: {pure}\nTag: {tag}\n".encode()
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    whole = {**files, f"{info}/METADATA": metadata, f"{info}/WHEEL": wheel}
    record = "".join(f"{path},,\n" for path in [*whole, f"{info}/RECORD"])
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, content in {**whole, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(inner, content)
    sizes = {inner: len(content) for inner, content in files.items()}
    return Wheel(path=path, name=name, version=version, sizes=sizes)


def make_deepspeed(folder: Path, torch: Wheel) -> Wheel:
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
    return made


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Two hosts, two environments that differ in one package, and the user's folder."""

    folder: Path
    cluster: bed.Cluster
    environ: dict[str, str]
    locks: tuple[str, str]
    sizes: dict[str, tuple[int, ...]]

    @property
    def lock(self) -> Path:
        return self.folder / "checkout" / "locks" / "train.lock"

    def start(self, *args: str) -> subprocess.Popen[str]:
        """``invoke args --json``, in the controller's network."""
        argv = [*self.cluster.entry(), sys.executable, "-P", "-m", "invoke"]
        argv += ["--search-root", str(self.folder / "checkout"), *args, "--json"]
        return subprocess.Popen(
            argv, cwd=self.folder, env=self.environ, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def invoke(self, *args: str) -> tuple[int, dict[str, object], str]:
        """(exit code, JSON object, what else it said) of a command."""
        process = self.start(*args)
        out, err = process.communicate(timeout=180)
        return process.returncode, json.loads(out) if out else {}, err


def make_stage(folder: Path, hosts: int = 2, cache: Path | None = None) -> Stage:
    """Everything, in a folder of its own; ``cache`` keeps what has to be downloaded (uv)."""
    checkout, wheels, house = (folder / name for name in ("checkout", "wheels", "house"))
    for path in (wheels, house):
        path.mkdir(parents=True)
    for name in ("provision", "locks", "trainer", "zero_configs", "recipes"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / name, checkout / name, ignore=ignored)
    shutil.copy(CHECKOUT / "tasks.py", checkout)
    torch = make_wheel(
        house, "torch", "2.13.0+cpu", f"{TAG}-{TAG}-linux_x86_64",
        {"torch/__init__.py": TORCH.encode()},
    )  # fmt: skip
    deepspeed = make_deepspeed(wheels, torch)
    bulk = random.Random(1).randbytes(BULK)
    big = make_wheel(
        house, "big", "1.0", "py3-none-any", {"big/__init__.py": b"", "big/data": bulk}
    )
    ones = [
        make_wheel(house, "one", version, "py3-none-any", {"one/__init__.py": version.encode()})
        for version in ("1.0", "2.0")
    ]
    sizes: dict[str, tuple[int, ...]] = {}
    for wheel in (torch, deepspeed, big, *ones):
        for path, size in wheel.sizes.items():
            sizes[path] = (*sizes.get(path, ()), size)
    # Where hosts install from an index, theirs is a folder in their homes.
    home = folder / "seed"
    shutil.copytree(house, home / "house")
    (home / ".config" / "pip").mkdir(parents=True)
    config = f"[global]\nno-index = true\nfind-links = {folder / 'home' / 'house'}\n"
    (home / ".config" / "pip" / "pip.conf").write_text(config)
    cluster = bed.start(folder / "cluster", hosts, home=str(folder / "home"), lower=[str(home)])
    settings = {
        "hosts": str(cluster.folder / "hosts.txt"), "ssh_config": str(cluster.ssh_config),
        "wheels": str(wheels), "connect_timeout": 5,
    }  # fmt: skip
    (checkout / "invoke.yaml").write_text(yaml.safe_dump({"zerofleet": settings}))
    environ = {**os.environ, "PIP_FIND_LINKS": str(house)}
    environ["XDG_CACHE_HOME"] = str(cache or folder / "cache")
    locks = (big.line + ones[0].line, big.line + ones[1].line)
    return Stage(folder=folder, cluster=cluster, environ=environ, locks=locks, sizes=sizes)


@dataclass
class Watcher:
    """Looks at what ``current`` names on every host, all the time.

    ``wrong``: where that was not whole.
    """

    stage: Stage
    wrong: list[str] = field(default_factory=list)
    looks: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def watch(self) -> None:
        while not self.ended.wait(0.005):
            for node in self.stage.cluster.nodes:
                pid = node.pid
                if pid and (wrong := self.look(node)) and node.pid == pid and bed.started(pid):
                    self.wrong.append(f"{node.name}: {wrong}")

    def look(self, node: bed.Node) -> str:
        """What is missing of the environment in use; "" if nothing is, or none is in use."""
        root = Path(f"/proc/{node.pid}/root{self.stage.cluster.home}/.zerofleet")
        try:
            name = str((root / "current").readlink())
        except OSError:
            return ""
        environment = root / name
        missing = [] if (environment / "complete.json").is_file() else ["complete.json"]
        site = environment / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
        for path, sizes in self.stage.sizes.items():
            try:
                found = (site / path).stat().st_size
            except OSError:
                found = -1
            if found not in sizes:
                missing.append(f"{path} ({found} bytes)")
        self.looks += 1
        try:  # a clean may take an environment away only after ``current`` left it
            same = str((root / "current").readlink()) == name
        except OSError:
            same = False
        return f"{name} lacks {', '.join(missing[:3])}" if missing and same else ""


def left_over(node: bed.Node, home: str) -> list[str]:
    """What a deploy that came to its end should not have left on a host."""
    root = Path(f"/proc/{node.pid}/root{home}/.zerofleet")
    odd = [path.name for path in root.iterdir() if path.name not in WHOLE]
    odd += [str(path.relative_to(root)) for path in root.glob("store/*/*.part*")]
    for path in (root / "envs").iterdir():
        if path.suffix != ".lock" and not (path / "complete.json").is_file():
            odd.append(f"envs/{path.name}")
    return odd


def at_work(node: bed.Node) -> list[str]:
    """Processes of a deploy on a host: all but its own PID 1, its sshd, and logins."""
    known = ("sshd", "sh ", "/bin/sh", "bash", "sftp")
    commands = node.commands().values()
    return [
        c[:100] for c in commands if c and not c.lstrip("-").startswith(known) and "sshd" not in c
    ]


def prepare(stage: Stage, number: int, kind: str, victim: bed.Node) -> None:
    """The next environment is not there yet, nor anything that it is made from."""
    stage.lock.write_text(stage.locks[number % 2])
    code, answer, err = stage.invoke("deploy", "--dry-run")
    assert code == 0, err[-2000:]
    name = str(answer["plan"]).partition("envs/")[2][:16]
    for node in stage.cluster.nodes:
        gone = f"cd ~/.zerofleet 2>/dev/null && rm -rf store envs/{name} envs/{name}.lock; true"
        node.run(["sh", "-c", gone])
    if kind == "full":
        root = f"{stage.cluster.home}/.zerofleet"
        fill = (
            f"mkdir -p {root} && cp -a {root} /run/kept && mount -t tmpfs -o size=1400m kill {root}"
        )
        victim.run(["sh", "-c", f"{fill} && cp -a /run/kept/. {root}/ && rm -r /run/kept"])


def strike(stage: Stage, kind: str, victim: bed.Node, deploy: subprocess.Popen[str]) -> str:
    """Break something; the end of the deploy, if it was not killed."""
    if kind == "off":
        victim.off()
        victim.start()
    elif kind == "full":
        filler = f"{stage.cluster.home}/.zerofleet/filler"
        victim.run(["sh", "-c", f"dd if=/dev/zero of={filler} bs=64k 2>/dev/null; true"])
    else:
        if kind == "cut":
            victim.cut()
        deploy.send_signal(signal.SIGKILL)
        if kind == "cut":
            time.sleep(0.5)
            victim.mend()
    _, err = deploy.communicate(timeout=180)
    if kind == "full":
        victim.run(["rm", "-f", f"{stage.cluster.home}/.zerofleet/filler"])
    return err


def apply_point(stage: Stage, number: int, kind: str, victim: bed.Node, delay: float) -> str:
    """One point: break a deploy off, look, deploy again, look; a line that says what happened."""
    prepare(stage, number, kind, victim)
    with Watcher(stage=stage) as watcher:
        deploy = stage.start("deploy")
        time.sleep(delay)
        ended = deploy.poll() is not None
        said = strike(stage, kind, victim, deploy)
        phase = next((x for x in reversed(said.splitlines()) if x.split(":")[0] in PHASES), "facts")
        code, _, err = stage.invoke("deploy", "--wait", "120")
    assert code == 0, f"{kind} after {delay:.2f} s: no convergence: {err[-3000:]}"
    assert not watcher.wrong, watcher.wrong[:5]
    used = {n.path("~/.zerofleet/current").readlink() for n in stage.cluster.nodes}
    assert len(used) == 1, used
    for node in stage.cluster.nodes:
        assert not (left := left_over(node, stage.cluster.home)), f"{node.name}: {left}"
        assert not at_work(node), at_work(node)
    if kind == "full":
        unmount(stage, victim)
    where = f"{kind} {victim.name} after {delay:.2f} s, in {phase.split(':')[0]}"
    return f"{where}{' (at its end)' if ended else ''}: converged; {watcher.looks} looks, all whole"


#: Lines by which a deploy tells where it is.
PHASES = ("push", "install", "prove", "switch", "download", "switch back")


def unmount(stage: Stage, node: bed.Node) -> None:
    """The host's own disk again, with what is deployed now."""
    root = f"{stage.cluster.home}/.zerofleet"
    keep = (
        f"cp -a {root} /run/kept && umount {root} && rm -rf {root}/* && cp -a /run/kept/. {root}/"
    )
    node.run(["sh", "-c", f"{keep} && rm -r /run/kept"])


def apply_points(stage: Stage, count: int, seed: int, say: object = print) -> None:
    """So many points, each kind in turn; the moments and hosts are the seed's."""
    assert callable(say)
    chance = random.Random(seed)
    stage.lock.write_text(stage.locks[1])
    began = time.monotonic()
    code, _, err = stage.invoke("deploy")
    assert code == 0, err[-3000:]
    lasts = time.monotonic() - began
    say(f"seed {seed}; a deploy takes {lasts:.1f} s")
    for number in range(count):
        kind, victim = KINDS[number % len(KINDS)], chance.choice(stage.cluster.nodes)
        say(apply_point(stage, number, kind, victim, chance.uniform(0.1, lasts)))


def main(argv: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(usage=str(__doc__))
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--folder", type=Path, default=Path("kill"))
    args = parser.parse_args(argv)
    stage = make_stage(args.folder.resolve())
    try:
        apply_points(stage, args.points, args.seed)
    finally:
        stage.cluster.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
