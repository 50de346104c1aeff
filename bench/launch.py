"""From the command to the first rank's first line, and from a killed rank to none left: 4 hosts.

    python bench/launch.py --demo zerofleet-demo        (root; a folder of ./zf demo)

Four namespaced hosts of this machine (tests/integration/cluster) share its cores, for all ways
alike; each has the demo's environment. One rank a host runs a script whose first statement writes
down the time; a round is one start of every way, one after the other, and the first round is not
counted: files come from the disk then, and preflight loads the environment's ops, once. ``ours`` is
the whole of ``invoke train --script``: facts, preflight and supervision, too. The others test
nothing. ``supervised``: of that, until the first host's supervisor was there.
``cpu``: CPU seconds of the whole machine until all ranks have begun, true where nobody else works:
hosts that share few cores are as fast as these are few, however well anything is overlapped.

``deepspeed`` is DeepSpeed's own runner (pdsh must be there), ``torchrunx`` gets an environment of
its own above the demo's (pip, pinned) and starts a function, without a process group; ``loop`` is
ssh to each host at once, with torchrun. Then ranks that add up a number in a loop, by ours and by
the loop: one on node3 is killed (SIGKILL), or stopped for good (SIGSTOP), or node4's power is cut;
the seconds until no rank is left on any host, at most --cap of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.integration.cluster import cluster as bed  # noqa: E402

TORCHRUNX = ("torchrunx==0.4.0", "fabric==3.2.2")
PORT = 29640
FIRST = """\
import time; now = time.time()
import os, sys
with open(os.path.expanduser("~/first-" + sys.argv[-1]), "w") as file:
    file.write(repr(now))
"""
#: The same as a function: torchrunx starts no scripts.
FUNCTION = """\
import sys, torchrunx
def first(tag):
    import time; now = time.time()
    import os
    with open(os.path.expanduser("~/first-" + tag), "w") as file:
        file.write(repr(now))
if __name__ == "__main__":
    hosts = ["node1", "node2", "node3", "node4"]
    torchrunx.Launcher(hosts, 1, sys.argv[2], backend=None).run(first, sys.argv[1])
"""
LOOP = """\
import os, sys, time
import torch, torch.distributed as dist
dist.init_process_group("gloo")
number = torch.ones(1)
dist.all_reduce(number)
open(os.path.expanduser("~/first-" + sys.argv[-1]), "w").write(repr(time.time()))
while True:
    dist.all_reduce(number)
    time.sleep(0.05)
"""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The hosts, what is used on them, and where the controller's files are."""

    cluster: bed.Cluster
    folder: Path
    home: Path
    python: str
    torchrunx: Path | None

    def start(self, argv: Sequence[str], log: str) -> subprocess.Popen[bytes]:
        """A command of the controller, where hosts' names are known, and its own to them."""
        inside = f"hostname controller; mount --bind {self.folder}/hosts /etc/hosts; "
        entry = [*self.cluster.entry(), "unshare", "--mount", "--uts", "sh", "-c"]
        environ = {**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}"}
        with (self.folder / log).open("wb") as out:
            return subprocess.Popen(
                [*entry, inside + f"exec {shlex.join(argv)}"],
                env={**environ, "PDSH_RCMD_TYPE": "ssh"}, cwd=self.home / "bench-launch",
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip

    def times(self, tag: str) -> list[float]:
        """When the ranks that did so wrote down their first line."""
        found = []
        for node in (node for node in self.cluster.nodes if node.pid):
            with contextlib.suppress(OSError, ValueError):
                path = Path(f"/proc/{node.pid}/root{self.home}/first-{tag}")
                found.append(float(path.read_text()))
        return found

    def ranks(self, script: str) -> int:
        """How many processes there are on all hosts whose command line has the script."""
        every = (node.commands().values() for node in self.cluster.nodes if node.pid)
        return sum(script in words and "-c" not in words for found in every for words in found)


def torchrun(bench: Bench, rank: int, *program: str) -> str:
    """torchrun's command of one node."""
    words = ["--nnodes", "4", "--node-rank", str(rank), "--nproc-per-node", "1"]
    words += ["--master-addr", "10.77.0.1", "--master-port", str(PORT)]
    return shlex.join([bench.python, "-m", "torch.distributed.run", *words, *program])


def by_loop(bench: Bench, script: str, tag: str) -> list[str]:
    """ssh to every host at once. GLOO_SOCKET_IFNAME: what everybody has to find out by himself."""
    to_each = [
        f"ssh node{rank + 1} "
        + shlex.quote(
            f"cd {shlex.quote(str(bench.home))}/bench-launch && GLOO_SOCKET_IFNAME=eth0 exec "
            + torchrun(bench, rank, script, tag)
        )
        for rank in range(4)
    ]
    return ["sh", "-c", " & ".join(to_each) + " & wait"]


def command(bench: Bench, way: str, script: str, tag: str) -> list[str]:
    """What a user of each way would type."""
    if way == "ours":
        words = ["--script", script, "--code", ".", "--nproc", "1", "--master-port", str(PORT)]
        return [sys.executable, "-P", "-m", "invoke", "train", *words, "--", tag]
    if way == "deepspeed":
        runner = str(Path(bench.python).with_name("deepspeed"))
        words = ["--hostfile", "hostfile", "--master_addr", "10.77.0.1"]
        return [runner, *words, "--master_port", str(PORT), script, tag]
    if way == "torchrunx":
        return [str(bench.torchrunx), "function.py", tag, str(bench.cluster.ssh_config)]
    return by_loop(bench, script, tag)


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def busy() -> float:
    """CPU seconds that this machine has worked since boot, for whomever: proc_stat(5)."""
    words = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _, _, irq, softirq, steal = map(int, words[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def time_start(bench: Bench, way: str, tag: str) -> dict[str, float]:
    """Seconds from the command to the first and to the last rank's first line; empty: it failed."""
    began, before = time.time(), busy()
    process = bench.start(command(bench, way, "first.py", tag), f"{tag}.log")
    try:
        until(lambda: process.poll() is not None or len(bench.times(tag)) == 4, 300)
        cpu = busy() - before
        process.wait(300)
    finally:
        end(process)
    found = bench.times(tag)
    if len(found) != 4:
        return {}
    ends = bench.folder.glob("runs/*/hosts/*/exit.json")
    starts = [json.loads(path.read_text())["started_at"] - began for path in ends]
    ours = {"supervised": min(one for one in starts if one > 0)} if way == "ours" else {}
    return {"first": min(found) - began, "last": max(found) - began, "cpu": cpu, **ours}


def rank_of(bench: Bench, host: str, tag: str) -> int:
    """The PID of a host's rank, as this machine sees it."""
    words = bench.cluster.node(host).commands().items()
    (pid,) = [
        p for p, line in words if f"loop.py {tag}" in line and "torch.distributed" not in line
    ]
    return pid


def end(process: subprocess.Popen[bytes]) -> None:
    """End a command and what it started here, if it has not ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def time_death(bench: Bench, way: str, fault: str, cap: float) -> float | None:
    """Seconds until no rank is left on any host that is up; None: some were after ``cap``."""
    tag = f"{way}-{fault}"
    process = bench.start(command(bench, way, "loop.py", tag), f"{tag}.log")
    try:
        if not until(lambda: len(bench.times(tag)) == 4, 240):
            raise SystemExit(f"{tag} did not start: see {bench.folder}/{tag}.log")
        began = time.monotonic()
        if fault == "off":
            bench.cluster.node("node4").off()
        else:
            signals = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
            os.kill(rank_of(bench, "node3", tag), signals[fault])
        gone = until(lambda: bench.ranks(f"loop.py {tag}") == 0, cap)
        return time.monotonic() - began if gone else None
    finally:
        end(process)
        bench.cluster.mended()
        for node in bench.cluster.nodes:
            node.reset()


def prepare(args: argparse.Namespace, folder: Path) -> Bench:
    """The hosts and the controller's files."""
    home = args.demo.resolve() / "node1"
    (work := home / "bench-launch").mkdir(exist_ok=True)
    for name, text in (("first.py", FIRST), ("loop.py", LOOP), ("function.py", FUNCTION)):
        (work / name).write_text(text)
    (work / "hostfile").write_text("".join(f"node{n} slots=1\n" for n in range(1, 5)))
    rx = torchrunx(home) if "torchrunx" in args.ways else None
    cluster = bed.start(folder / "cluster", 4, home=str(home), lower=(str(home),))
    names = [(f"10.77.0.{n}", f"node{n}") for n in range(1, 5)] + [(bed.CONTROLLER, "controller")]
    hosts = "127.0.0.1 localhost\n" + "".join(f"{ip} {name}\n" for ip, name in names)
    (folder / "hosts").write_text(hosts)
    for node in cluster.nodes:
        (disk := Path(f"/proc/{cluster.keeper}/root{node.disk}") / "hosts").write_text(hosts)
        node.path("/etc/hosts").write_text(disk.read_text())
    (folder / "bin").mkdir()
    ssh = f'#!/bin/sh\nexec /usr/bin/ssh -F {cluster.ssh_config} "$@"\n'
    (folder / "bin" / "ssh").write_text(ssh)
    (folder / "bin" / "ssh").chmod(0o755)
    settings = {
        "hosts": str(cluster.folder / "hosts.txt"), "ssh_config": str(cluster.ssh_config),
        "wheels": str(args.demo.resolve() / "wheels"), "runs": str(folder / "runs"),
    }  # fmt: skip
    (work / "invoke.yaml").write_text(json.dumps({"zerofleet": settings}))
    (work / "tasks.py").write_text(
        f"import runpy, sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        f"globals().update(runpy.run_path({str(ROOT / 'tasks.py')!r}))\n"
    )
    python = str(home / ".zerofleet" / "current" / "bin" / "python")
    return Bench(cluster=cluster, folder=folder, home=home, python=python, torchrunx=rx)


def torchrunx(home: Path) -> Path:
    """Its environment: what pip brings, and the packages of the demo's environment."""
    python = home / "torchrunx" / "bin" / "python"
    if not python.exists():
        theirs = home / ".zerofleet" / "current" / "bin" / "python"
        subprocess.run([theirs, "-m", "venv", python.parent.parent], check=True)
        site = next((python.parent.parent / "lib").glob("python*/site-packages"))
        real = next((theirs.parent.parent / "lib").glob("python*/site-packages"))
        (site / "demo.pth").write_text(f"{real}\n")
        pip = [python, "-m", "pip", "install", "-q"]
        subprocess.run([*pip, *TORCHRUNX], check=True)
    return python


def main() -> int:
    """Print the table as it comes, and all of it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=ROOT / "zerofleet-demo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cap", type=float, default=120.0)
    parser.add_argument("--ways", default="ours,loop,deepspeed,torchrunx")
    parser.add_argument("--faults", default="kill,stop,off")
    args = parser.parse_args()
    args.ways = args.ways.split(",")
    if "deepspeed" in args.ways and not shutil.which("pdsh"):
        raise SystemExit("no pdsh here: install it, or leave deepspeed out of --ways")
    folder = Path(tempfile.mkdtemp(prefix="bench-launch-"))
    bench = prepare(args, folder)
    starts: dict[str, list[dict[str, float]]] = {way: [] for way in args.ways}
    deaths: dict[str, float | None] = {}
    try:
        for number in range(args.rounds + 1):
            for way in args.ways:
                found = time_start(bench, way, f"{way}-{number}")
                if number:
                    starts[way].append(found)
                said = ", ".join(f"{what} {seconds:.2f} s" for what, seconds in found.items())
                name = f"round {number}" if number else "not counted"
                print(f"{name}: {way}: {said or 'failed'}", flush=True)
        for fault in filter(None, args.faults.split(",")):
            for way in ("ours", "loop"):
                deaths[f"{way} {fault}"] = found = time_death(bench, way, fault, args.cap)
                print(f"{fault}: {way}:", f"{found:.1f} s" if found else f"not in {args.cap:.0f} s")
    finally:
        bench.cluster.close()
        shutil.rmtree(bench.home / "bench-launch", ignore_errors=True)
    medians = {
        way: {what: statistics.median(one[what] for one in found if one) for what in found[-1]}
        for way, found in starts.items()
    }
    print(json.dumps({"seconds": medians, "none_left": deaths, "logs": str(folder)}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
