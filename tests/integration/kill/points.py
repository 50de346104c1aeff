"""Deploys that are broken off anywhere: `python -m tests.integration.kill.points`.

    … [--points 20] [--seed N] [--kinds kill,off,cut,full] [--folder F]        (root)

Every kind of break in every phase of a deploy, in an order, at a host and at a moment that the
seed gives:

    kill    the controller, with SIGKILL
    off     a host's power; it is booted again
    cut     a host's link, until the command gives up; it is mended
    full    a host's disk, until the command gives up; it has room again

At each point the other environment is deployed from an empty store. A watcher looks at all hosts
all the time: what ``current`` names is whole, down to every file of every package. Then the same
command again: it must converge, and leave nothing but what a deploy leaves.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice, pairwise, product
from pathlib import Path
from typing import Self

from tests.integration.cluster import cluster as bed
from tests.integration.kill.stage import Stage, make_stage

KINDS = ("kill", "off", "cut", "full")
#: A deploy's, by the lines that it tells them with; it begins with the hosts' facts.
PHASES = ("facts", "push", "install", "prove", "switch")
#: Below ~/.zerofleet after a deploy that came to its end.
WHOLE = {"store", "envs", "current", "history.jsonl", "lock", "seen"}
#: Of a disk that is to be full: more than a deploy asks for.
DISK = "1500m"
#: A deploy may take a fraction of what the last one took, and so be at its end too early.
TRIES = 4


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where a deploy breaks: at a share (0 to 1) of the time that a phase takes."""

    kind: str
    phase: str
    host: str
    share: float


def choose_points(count: int, seed: int, hosts: Sequence[str], kinds: Sequence[str]) -> list[Point]:
    """Every kind in every phase before any comes twice; the rest is the seed's."""
    chance = random.Random(seed)
    pairs = list(product(kinds, PHASES))
    chance.shuffle(pairs)
    return [
        Point(kind=kind, phase=phase, host=chance.choice(hosts), share=chance.random())
        for kind, phase in islice(cycle(pairs), count)
    ]


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
        while not self.ended.wait(0.01):
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
        try:  # another may be in use by now, and this one gone
            same = str((root / "current").readlink()) == name
        except OSError:
            same = False
        return f"{name} lacks {', '.join(missing[:3])}" if missing and same else ""


@dataclass
class Running:
    """A deploy under way: the phase that it is in, and since when."""

    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)
    since: dict[str, float] = field(default_factory=dict)
    begun: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self.since["facts"] = time.monotonic()
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def _listen(self) -> None:
        for line in self.process.stderr or ():
            with self.begun:
                self.said.append(line.rstrip())
                if (word := line.partition(":")[0]) in PHASES:
                    self.since.setdefault(word, time.monotonic())
                self.begun.notify_all()
        with self.begun:
            self.since["end"] = time.monotonic()
            self.begun.notify_all()

    def wait_for(self, phase: str) -> None:
        """Return when it is in that phase, or has ended."""
        with self.begun:
            self.begun.wait_for(lambda: {phase, "end"} & {*self.since}, timeout=300)

    @property
    def lasted(self) -> dict[str, float]:
        """Seconds of the phases that it came to the end of."""
        at = [(phase, self.since[phase]) for phase in (*PHASES, "end") if phase in self.since]
        return {phase: after - begun for (phase, begun), (_, after) in pairwise(at)}

    def wait(self) -> int:
        """Its exit code, when it has one."""
        self.thread.join(timeout=300)
        self.process.communicate(timeout=10)
        return self.process.returncode

    @property
    def phase(self) -> str:
        """The phase that it is in, or was when it ended."""
        return next((phase for phase in reversed(PHASES) if phase in self.since), "")


def until_none(left: Callable[[], object], within: float = 60) -> None:
    """Wait until nothing is left: what a command had at work on a host ends after the command does,
    with its connection.
    """
    deadline = time.monotonic() + within
    while found := left():
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def left_over(node: bed.Node, home: str) -> list[str]:
    """What a deploy that came to its end should not have left: files, processes, open ports."""
    root = Path(f"/proc/{node.pid}/root{home}/.zerofleet")
    odd = [path.name for path in root.iterdir() if path.name not in WHOLE]
    odd += [str(path.relative_to(root)) for path in root.glob("store/*/*.part*")]
    for path in (root / "envs").iterdir():
        if path.suffix != ".lock" and not (path / "complete.json").is_file():
            odd.append(f"envs/{path.name}")
    ports = node.run(["ss", "--listening", "--tcp", "--no-header"]).splitlines()
    return odd + at_work(node) + ports[1:]  # one is its SSH server's


def at_work(node: bed.Node) -> list[str]:
    """Processes of a command on a host: all but its own PID 1, its sshd, and logins."""
    known = ("sshd", "sh ", "/bin/sh", "bash", "sftp")
    commands = node.commands().values()
    return [
        c[:100] for c in commands if c and not c.lstrip("-").startswith(known) and "sshd" not in c
    ]


def clear(stage: Stage, number: int) -> None:
    """Neither the environment that comes next is there, nor anything that it is made from."""
    stage.choose(number)
    name = stage.names[number]
    for node in stage.cluster.nodes:
        gone = f"cd ~/.zerofleet 2>/dev/null && rm -rf store envs/{name} envs/{name}.lock; true"
        node.run(["sh", "-c", gone])


@contextmanager
def small_disk(stage: Stage, host: str) -> Iterator[None]:
    """~/.zerofleet on a disk of its own, which can be full; what is there then stays."""
    node = stage.cluster.node(host)
    root = shlex.quote(f"{stage.cluster.home}/.zerofleet")
    keep, put = f"mkdir -p {root} && cp -a {root} /run/kept", f"cp -a /run/kept/. {root}/"
    mount = f"mount -t tmpfs -o mode=700,size={DISK} small {root}"
    node.run(["sh", "-ec", f"{keep}; {mount}; {put}; rm -r /run/kept"])
    yield
    node.run(["sh", "-ec", f"{keep}; umount {root}; rm -rf {root}; mkdir -m 700 {root}; {put}"])
    node.run(["rm", "-r", "/run/kept"])


def strike(stage: Stage, kind: str, node: bed.Node, deploy: Running) -> int:
    """Break something, and mend it once the deploy has ended; its exit code."""
    root = shlex.quote(f"{stage.cluster.home}/.zerofleet")
    if kind == "kill":
        deploy.process.send_signal(signal.SIGKILL)
    elif kind == "off":
        node.off()
        node.start()
    elif kind == "cut":
        node.cut()
    else:  # as large as what is on it; refused if that grows meanwhile
        used = f"$(df -k --output=used {root} | tail -n 1)k"
        node.run(["sh", "-c", f"until mount -o remount,size={used} {root}; do :; done"])
    code = deploy.wait()
    if kind == "cut":
        node.mend()
    elif kind == "full":
        node.run(["sh", "-c", f"mount -o remount,size={DISK} {root}"])
    return code


def apply_strike(stage: Stage, point: Point, lasts: dict[str, float]) -> str:
    """Break a deploy off: the phase that was hit, and the deploy's last words; "" if it missed.

    ``lasts``: the fewest seconds that each phase has taken; brought up to date.
    """
    node, deploy = stage.cluster.node(point.host), Running(stage.start("deploy"))
    deploy.wait_for(point.phase)
    time.sleep(point.share * lasts[point.phase])
    phase = deploy.phase
    late = "end" in deploy.since
    code = strike(stage, point.kind, node, deploy)
    for each, seconds in deploy.lasted.items():
        if late or each != phase:
            lasts[each] = min(lasts[each], seconds)
    words = "" if code < 0 else deploy.said[-1][:200] if code else "it came to its end"
    return "" if late else f"{phase:8} {words}"


def apply_point(stage: Stage, number: int, point: Point, lasts: dict[str, float]) -> str:
    """Break a deploy off, deploy again, look at everything; what happened, as a row."""
    with Watcher(stage=stage) as watcher:
        for _ in range(TRIES):
            clear(stage, number % 2)
            if hit := apply_strike(stage, point, lasts):
                break
            stage.choose((number + 1) % 2)  # it came to its end before: another is in use again
            stage.deploy()
        began = time.monotonic()
        stage.deploy("--wait", "120")
        seconds = time.monotonic() - began
    assert not watcher.wrong, watcher.wrong[:5]
    used = {n.path("~/.zerofleet/current").readlink().name for n in stage.cluster.nodes}
    assert used == {stage.names[number % 2]}, used
    for node in stage.cluster.nodes:
        until_none(partial(left_over, node, stage.cluster.home))
    return f"{seconds:5.1f} s {watcher.looks:6}  {hit or 'missed'}"


def apply_points(stage: Stage, points: Sequence[Point], say: Callable[[str], None] = print) -> None:
    """One after another, on hosts that have an environment in use; a row for each."""
    stage.choose(1)
    deploy = Running(stage.start("deploy"))
    assert deploy.wait() == 0, deploy.said[-5:]
    lasts = deploy.lasted
    say("kind  host   aimed at        again  looks  hit      broken off with")
    for number, point in enumerate(points):
        row = f"{point.kind:5} {point.host:6} {f'{point.phase} {100 * point.share:.0f} %':12} "
        full = point.kind == "full"
        try:
            with small_disk(stage, point.host) if full else nullcontext():
                row += apply_point(stage, number, point, lasts)
        except AssertionError:
            say(row + "did not converge")
            raise
        say(row)
    say(f"{len(points)} points: all converged; what was in use was whole at every look")


def main(argv: Sequence[str]) -> int:
    """The command line."""
    usage = str(__doc__)
    parser = argparse.ArgumentParser(
        usage=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=KINDS)
    parser.add_argument("--folder", type=Path, help="an empty one (default: a temporary one)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="kill-") as temporary:
        kept = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        stage = make_stage((args.folder or Path(temporary)).resolve(), cache=kept)
        try:
            print(f"seed {args.seed}")
            hosts = [node.name for node in stage.cluster.nodes]
            apply_points(stage, choose_points(args.points, args.seed, hosts, args.kinds))
        finally:
            stage.cluster.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
