"""A node of an allocation, reached as a host is over SSH: each command is a step of srun's."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from provision.errors import UNREACHABLE, HostError
from provision.findings import SRUN
from provision.inventory import Host, Inventory
from provision.script import script_argv
from provision.session import Remote, Say
from provision.slurm.allocation import Allocation
from provision.steps import Put
from provision.talk import SILENCE_SECONDS, ProcessChannel, Talk

#: The script that puts what is pushed into a home.
_PUSH = "relay"
#: Seconds that a step may take to end once nobody talks to it.
_PATIENCE = 5.0
# A login's folder is HOME; a job's may be one that only the login node has.
_AT_HOME = ("sh", "-c", 'cd && exec "$@"', "zerofleet")
_SLURMS = re.compile(r"^(srun|slurmstepd)(-\S+)?: (error: )?")
#: What Slurm says when it was not the command that failed: srun.c, step_launch.c, slurm_errno.c.
_GONE = re.compile(
    r"Node failure|CANCELLED|[Ii]nvalid job id|expired|permission denied|Unable to|aborted"
    r"|Communication|Requested node|timed out|Socket|Zero Bytes|revoked|not responding"
    r"|Invalid node|Job/step already|unrecognized option"
)


class NodeError(HostError):
    """No step on a node: it is down, or its job is over."""

    exit_code = UNREACHABLE


def parse_errors(label: str, said: str) -> tuple[str, NodeError | None]:
    """What a command said on stderr, and Slurm's words, if those tell why it failed. Pure."""
    slurms = [line for line in said.splitlines() if _SLURMS.match(line)]
    own = [line for line in said.splitlines() if not _SLURMS.match(line)]
    words = [_SLURMS.sub("", line).strip("* ") for line in slurms if _GONE.search(line)]
    if not words:
        return "\n".join(own), None
    error = NodeError(
        f"{label}: {SRUN}",
        found="; ".join(dict.fromkeys(words))[:300],
        expected="a step on this node",
        remedy="see `scontrol show node` and `squeue --me`, then run the command again",
    )
    return "\n".join(own), error


@dataclass(frozen=True, kw_only=True)
class Node(Remote):
    """A node. ``channels``: its steps, as long as they are not closed.

    ``here``: this machine sees the node's home. What is pushed is then put there from here: srun's
    stdin goes by the kilobyte.
    """

    allocation: Allocation
    cxn: Any = None
    here: bool = False
    channels: set[ProcessChannel] = field(default_factory=set, repr=False)

    @property
    def address(self) -> str:
        """What other nodes reach it at."""
        return next(node.address for node in self.allocation.nodes if node.name == self.label)

    @property
    def connected(self) -> bool:
        """Yes: a step is a connection of its own."""
        return True

    def open(self) -> None:
        """Nothing, likewise."""

    def close(self) -> None:
        """End all of its steps."""
        for channel in tuple(self.channels):
            channel.close()
        self.channels.clear()

    def argv(self, argv: Sequence[str]) -> tuple[str, ...]:
        """The argv of this machine that runs one there, beside whatever else the job does."""
        where = (f"--jobid={self.allocation.job}", f"--nodelist={self.label}")
        alone = ("--nodes=1", "--ntasks=1", "--overlap", "--cpu-bind=none", "--mpi=none")
        return ("srun", *where, *alone, "--quiet", "--chdir=/", *_AT_HOME, *argv)

    def apply_start(self, argv: Sequence[str], *, here: bool = False) -> ProcessChannel:
        """A step, or a process of this machine (``here``), that ends with its channel."""
        argv = (*_AT_HOME, *argv) if here else self.argv(argv)
        channel = ProcessChannel(argv, environ=self.allocation.environ, patience=_PATIENCE)
        self.channels.add(channel)
        return channel

    def run(
        self, argv: Sequence[str], on_line: Say | None = None, timeout: float | None = None
    ) -> tuple[int, str, str]:
        """(exit status, stdout, stderr) of argv there; ``on_line`` sees stdout as it comes.

        NodeError if Slurm says why there is none, or nothing came in ``timeout`` seconds.
        """
        channel = self.apply_start(argv)
        until, out, seen = timeout and time.monotonic() + timeout, b"", 0
        try:
            while True:
                channel.settimeout(max(0.01, until - time.monotonic()) if until else None)
                part = channel.recv(1 << 16)
                if not part:
                    break
                out += part
                if on_line and (end := out.rfind(b"\n") + 1) > seen:
                    for line in out[seen:end].decode("utf-8", "replace").splitlines():
                        on_line(line)
                    seen = end
            code = channel.process.wait()
            err = channel.recv_stderr(1 << 20).decode("utf-8", "replace")
        except TimeoutError:
            channel.process.terminate()
            raise self._silent(timeout or 0) from None
        finally:
            channel.close()
            self.channels.discard(channel)
        own, error = self._parse(err)
        if code and error:
            raise error
        return code, out.decode("utf-8", "replace"), own

    def _silent(self, seconds: float) -> NodeError:
        return self._lost(
            f"no answer in {seconds:.0f} s",
            "is the node overloaded, or a disk there hung? (--answer-timeout: longer)",
        )

    def _lost(self, found: str, remedy: str) -> NodeError:
        what = f"{self.label}: {SRUN}"
        return NodeError(what, found=found, expected="an answer", remedy=remedy)

    def talk(self, script: str, args: Sequence[str] = (), python: str = "") -> Talk:
        """Start ``onhost/<script>.py args…`` there, to be told more over its stdin."""
        argv = script_argv(script, args, python)
        channel = self.apply_start(argv, here=self.here and script == _PUSH)
        return Talk(
            label=self.label,
            channel=channel,
            why=lambda said: self._parse(said)[1],
            lost=self._lost,
        )

    def gather_here(self, script: str, args: Sequence[str] = ()) -> dict[str, object]:
        """The answer of a script on this machine, with the home that steps have."""
        channel = self.apply_start(script_argv(script, args), here=True)
        talk = Talk(label="this machine", channel=channel)
        try:
            return talk.receive(SILENCE_SECONDS * 2)
        finally:
            talk.close()

    def _parse(self, said: str) -> tuple[str, NodeError | None]:
        return parse_errors(self.label, said)

    def apply_pipe(self, argv: Sequence[str], **streams: Any) -> None:
        """Run a command whose stdin or stdout is a file."""
        environ, errors = self.allocation.environ, subprocess.PIPE
        done = subprocess.run(self.argv(argv), env=environ, stderr=errors, check=False, **streams)
        if done.returncode:
            own, error = self._parse(done.stderr.decode("utf-8", "replace"))
            raise error or HostError(
                f"{self.label}: {argv[-1]}",
                found=own.strip()[-300:] or f"exit {done.returncode}",
                expected="a file to read or write",
                remedy="check the file system there",
            )

    def _send(self, stream: IO[bytes], target: str, put: Put, _: Say) -> None:
        given = {"stdin": stream} if put.source else {"input": put.content}
        self.apply_pipe(["sh", "-c", 'cat >"$1"', "put", target], **given)

    def get(self, source: str, target: Path) -> None:
        """A file of this node to ``target`` here, complete or not at all."""
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        with partial.open("wb") as stream:
            self.apply_pipe(["cat", source], stdin=subprocess.DEVNULL, stdout=stream)
        partial.replace(target)


def nodes_of(allocation: Allocation) -> tuple[Inventory, dict[str, Remote]]:
    """An allocation's nodes, as a fleet takes hosts and what reaches them. Pure."""
    labels = [node.name for node in allocation.nodes]
    hosts = tuple(Host(name=label) for label in labels)
    return Inventory(hosts=hosts), {
        label: Node(label=label, allocation=allocation) for label in labels
    }
