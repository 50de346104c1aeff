"""One host over SSH: run commands there, put and get files.

How a connection is made, and what a failed one means: remote.py.
"""

from __future__ import annotations

import io
import random
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from invoke.exceptions import CommandTimedOut

from provision.errors import HostError, UnreachableError
from provision.remote import KEEPALIVE_SECONDS, explain, hung_up, limit_silence
from provision.script import parse_answer, script_argv, text_argv
from provision.steps import Phase, Put, Run, Step
from provision.talk import Talk

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Remote:
    """One host, connected."""

    label: str
    cxn: Any  # a fabric.Connection, which has no types
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def open(self) -> None:
        """Connect if not connected; UnreachableError names why not, and what to do."""
        with self.lock:
            if self.connected:
                return
            try:
                self._open()
                self.cxn.transport.set_keepalive(KEEPALIVE_SECONDS)
                limit_silence(self.cxn)
            except Exception as error:  # noqa: BLE001 - paramiko raises many unrelated types
                raise explain(self.label, error, self.cxn) from None

    def _open(self) -> None:
        """Connect; again, a little later, where the server hung up before it said anything.

        That is sshd's MaxStartups: many logins at once, to a gateway above all.
        """
        for pause in (0.5, 1.0, 2.0, 0.0):
            began = time.monotonic()
            try:
                self.cxn.open()
                return
            except Exception as error:
                if not pause or not hung_up(error, time.monotonic() - began):
                    raise
                self.cxn.close()
                time.sleep(pause * random.uniform(1, 2))  # noqa: S311 - not all at once again

    @property
    def address(self) -> str:
        """The address or name that it is reached at."""
        return str(self.cxn.host)

    @property
    def connected(self) -> bool:
        """Whether there is a connection that has not ended."""
        return bool(self.cxn.is_connected)

    def close(self) -> None:
        """Disconnect."""
        self.cxn.close()

    def run(
        self, argv: Sequence[str], on_line: Say | None = None, timeout: float | None = None
    ) -> tuple[int, str, str]:
        """(exit status, stdout, stderr) of argv there; ``on_line`` sees stdout as it comes.

        UnreachableError if the connection ends, or nothing came in ``timeout`` seconds.
        """
        streams: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        if on_line is not None:
            streams.update(out_stream=_Lines(on_line), err_stream=_Lines(lambda _: None))
        try:
            result = self.cxn.run(
                shlex.join(argv), warn=True, hide=True, in_stream=False, encoding="utf-8", **streams
            )
        except CommandTimedOut:
            raise UnreachableError(
                f"{self.label}: ssh",
                found=f"no answer in {timeout:.0f} s after the login",
                expected="an answer",
                remedy="is it overloaded, or a disk there hung? (--answer-timeout gives it longer)",
            ) from None
        except Exception as error:  # noqa: BLE001 - likewise
            raise explain(self.label, error, self.cxn) from None
        return int(result.exited), str(result.stdout), str(result.stderr)

    def talk(self, script: str, args: Sequence[str] = (), python: str = "") -> Talk:
        """Start ``onhost/<script>.py args…`` there, to be told more over its stdin."""
        try:
            channel = self.cxn.transport.open_session(timeout=30)
            channel.exec_command(shlex.join(script_argv(script, args, python)))
        except Exception as error:  # noqa: BLE001 - likewise
            raise explain(self.label, error, self.cxn) from None
        return Talk(label=self.label, channel=channel)

    def ask(
        self,
        script: str,
        args: Sequence[str] = (),
        python: str = "",
        timeout: float | None = None,
    ) -> dict[str, object]:
        """The answer of ``onhost/<script>.py args…`` there (HostError if it gives none)."""
        _, out, err = self.run(script_argv(script, args, python), timeout=timeout)
        return parse_answer(self.label, out, err)

    def ask_text(self, text: str, name: str, args: Sequence[str]) -> dict[str, object]:
        """As :meth:`ask`, for a program given as text."""
        _, out, err = self.run(text_argv(text, name, args))
        return parse_answer(self.label, out, err)

    def apply(self, phase: Phase, say: Say) -> None:
        """This host's steps of a phase, in order; puts that follow one another go as one batch."""
        batch: list[Put] = []
        for step in phase.of(self.label):
            if isinstance(step.do, Put):
                batch.append(step.do)
                continue
            self.put(batch, say)
            batch = []
            self._apply_run(step, step.do, say)
        self.put(batch, say)

    def _apply_run(self, step: Step, do: Run, say: Say) -> None:
        def progress(line: str) -> None:
            if line.startswith("ZEROFLEET-SAY "):
                say(f"[{self.label}] {line.removeprefix('ZEROFLEET-SAY ')}")

        code, out, err = self.run(do.argv, progress)
        if code == 0:
            return
        last = (err.strip() or out.strip()).splitlines()
        tail = [line for line in last if line.strip() and not line.startswith("ZEROFLEET-")]
        # None came: https://docs.paramiko.org/en/stable/api/channel.html (recv_exit_status)
        cut = "no exit status: its connection ended, or a signal ended it there"
        raise HostError(
            f"{self.label}: {do}",
            found=tail[-1][:300] if tail else f"exit {code}" if code >= 0 else cut,
            expected=f"exit 0 (it exited {code})" if code >= 0 else "exit 0",
            remedy=f"this step was to {step.why}",
        )

    def put(self, batch: Sequence[Put], say: Say) -> None:
        """Files to this host: written beside their target, hashed *there*, then renamed."""
        if not batch:
            return
        checks: list[str] = []
        made = self.ask("place", ["folders", *[put.target for put in batch]])
        targets = made["targets"]
        assert isinstance(targets, list)
        for put, target in zip(batch, targets, strict=True):
            source = put.source.open("rb") if put.source else io.BytesIO(put.content or b"")
            with source as stream:
                self._send(stream, f"{target}.partial", put, say)
            checks += [str(target), put.sha256, format(put.mode, "o")]
        problems = self.ask("place", ["files", *checks]).get("problems")
        if problems:
            raise HostError(
                f"{self.label}: sha256 after the push",
                found=problems,
                expected="what was sent",
                remedy="check that disk and memory, then run the command again",
            )

    def _send(self, stream: IO[bytes], target: str, put: Put, say: Say) -> None:
        """The bytes of a put into a file there."""
        sftp = self.cxn.sftp()
        sftp.putfo(stream, target, file_size=put.size, callback=self._meter(put, say))

    def _meter(self, put: Put, say: Say) -> Callable[[int, int], None]:
        """A line every few seconds for a file that takes longer."""
        last = [time.monotonic()]

        def callback(sent: int, total: int) -> None:
            if time.monotonic() - last[0] > 3:
                last[0] = time.monotonic()
                say(f"[{self.label}] {put.target}: {sent:,} of {total:,} bytes")

        return callback

    def get(self, source: str, target: Path) -> None:
        """A file of this host to ``target`` here, complete or not at all."""
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        self.cxn.sftp().get(source, str(partial))
        partial.replace(target)


class _Lines(io.StringIO):
    """A stream that hands over whole lines as they come."""

    def __init__(self, on_line: Say) -> None:
        super().__init__()
        self._on_line = on_line
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._on_line(line.rstrip("\r"))
        return len(text)
