"""One short question to many hosts through OpenSSH's own client.

For what is asked first of all: `ssh` logs in while Python is still importing what else a command
needs, and on other cores. It is as strict as remote.py: an unknown or changed key refuses the host,
and nothing asks for a password. What fails here is not explained: whoever asks in vain asks again
through fleet.py, which names the fault.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from provision.inventory import Host

#: Whatever the user's configuration says, by ssh_config(5): no question to anybody, keys that
#: known_hosts has, nothing written, nothing forwarded, no command but ours, no process left behind.
_OPTIONS = (
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "VerifyHostKeyDNS=no",
    "NoHostAuthenticationForLocalhost=no",
    "UpdateHostKeys=no",
    "ControlMaster=no",
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "ConnectionAttempts=1",
    "LogLevel=QUIET",
    # Half of a login's time, both sides computing, where OpenSSH < 10 prefers this one (9.2: 2 × 25
    # ms); the next best, elliptic curves or ML-KEM, is what Fabric's connections have as well.
    "KexAlgorithms=-sntrup761x25519-sha512*",
)
#: Seconds for a host to take the connection: who is slower is asked in the other way.
_CONNECT = 3
#: Seconds for an `ssh` to end when it is told to.
_END = 2.0


def ssh_argv(host: Host, config: Path | None, argv: Sequence[str]) -> tuple[str, ...]:
    """Argv of the `ssh` that runs ``argv`` on a host."""
    options = [part for option in _OPTIONS for part in ("-o", option)]
    options += ["-o", f"ConnectTimeout={_CONNECT}"]
    options += ["-F", str(config)] if config else []
    options += ["-l", host.user] if host.user else []
    options += ["-p", str(host.port)] if host.port else []
    return ("ssh", "-T", "-a", "-x", *options, "--", host.name, shlex.join(argv))


@dataclass(kw_only=True)
class Question:
    """A question that is on its way: one `ssh` for each host, so many at once."""

    waiting: deque[tuple[str, tuple[str, ...]]]
    running: deque[tuple[str, subprocess.Popen[bytes]]] = field(default_factory=deque)

    def apply_next(self) -> None:
        """Start the next host's `ssh`, if one is left. OSError where there is no such program."""
        if not self.waiting:
            return
        label, argv = self.waiting.popleft()
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # No terminal to ask on, not even by the `ssh` of a ProxyJump.
            start_new_session=True,
            env={**os.environ, "SSH_ASKPASS_REQUIRE": "never"},
        )
        self.running.append((label, process))

    def gather(self, seconds: float) -> dict[str, str]:
        """What each host answered; one that fails, or is late, ends it: others are missing, too."""
        answers: dict[str, str] = {}
        until = time.monotonic() + seconds
        while self.running:
            label, process = self.running[0]
            try:
                out, _ = process.communicate(timeout=max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                break
            self.running.popleft()
            if process.returncode != 0:
                break
            answers[label] = out.decode("utf-8", "replace")
            self.apply_next()
        return answers

    def close(self) -> None:
        """End what is still on its way: by SIGTERM, on which `ssh` ends a ProxyCommand, too."""
        for _, process in self.running:
            process.terminate()
        for _, process in self.running:
            try:
                process.communicate(timeout=_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


@contextmanager
def apply_question(
    hosts: Iterable[Host], argv: Sequence[str], *, config: Path | None, at_once: int
) -> Iterator[Question]:
    """Ask hosts to run ``argv``; the block goes on at once, and may gather the answers."""
    question = Question(waiting=deque((h.label, ssh_argv(h, config, argv)) for h in hosts))
    try:
        try:
            for _ in range(at_once):
                question.apply_next()
        except OSError:
            question.waiting.clear()  # no OpenSSH on this machine: nobody answers
        yield question
    finally:
        question.close()
