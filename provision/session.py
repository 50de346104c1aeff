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

from provision.errors import HostError, ProvisionError, UnreachableError
from provision.findings import SSH
from provision.remote import (
    KEEPALIVE_SECONDS,
    SILENCE_SECONDS,
    answers,
    explain,
    hung_up,
    limit_silence,
)
from provision.script import parse_answer, passing_on, script_argv
from provision.steps import Phase, Put, Run, Step
from provision.talk import Talk

Say = Callable[[str], None]

#: paramiko's, where none came: a signal ended the command, the connection ended, or we closed it
#: (recv_exit_status, https://docs.paramiko.org/en/stable/api/channel.html).
_NO_STATUS = -1
#: What was found, and what to do, where a connection has ended.
_ENDED = ("the connection ended", "is the host up, and its network? then run the command again")


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
                self.close()  # of an earlier connection, its file transfers would be used on
                self._open()
                self.cxn.transport.set_keepalive(KEEPALIVE_SECONDS)
                limit_silence(self.cxn)
            except Exception as error:  # noqa: BLE001 - paramiko raises many unrelated types
                raise explain(self.label, error, self.cxn) from None

    def _open(self) -> None:
        """Connect; again, a little later, where the server hung up before it said anything.

        That is sshd's MaxStartups: many logins at once, to a gateway above all.
        """
        for pause in (0.5, 1.0, 2.0, 4.0, 0.0):
            try:
                self.cxn.open()
                return
            except Exception as error:
                if not pause or not hung_up(error):
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
        try:
            self.cxn.close()
        except Exception:  # noqa: BLE001 - file transfers can't be told to end, and count as ended
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
        if not self.connected:  # Fabric would connect anew, after Ctrl-C has cut this, too
            raise self._lost(*_ENDED)
        began = time.monotonic()
        try:
            result = self.cxn.run(
                shlex.join(argv), warn=True, hide=True, in_stream=False, encoding="utf-8", **streams
            )
        except CommandTimedOut:
            raise self._silent(timeout or 0) from None
        except Exception as error:  # noqa: BLE001 - likewise
            raise explain(self.label, error, self.cxn) from None
        if result.exited == _NO_STATUS:
            self._check_cut(time.monotonic() - began, timeout)
        return int(result.exited), str(result.stdout), str(result.stderr)

    def _silent(self, timeout: float) -> ProvisionError:
        """The error of a command that did not end in time."""
        return self._lost(
            f"no answer in {timeout:.0f} s after the login",
            "is it overloaded, or a disk there hung? (--answer-timeout gives it longer)",
        )

    def _lost(self, found: str, remedy: str) -> ProvisionError:
        """That this host is not reached any more."""
        what = f"{self.label}: {SSH}"
        return UnreachableError(what, found=found, expected="an answer", remedy=remedy)

    def _cut(self) -> ProvisionError | None:
        """The error of a connection that has ended; None where the host answers over it."""
        if answers(self.cxn, SILENCE_SECONDS):
            return None
        return self._lost(*_ENDED)

    def _check_cut(self, seconds: float, timeout: float | None) -> None:
        """UnreachableError if not the command ended, but its time or its connection.

        Invoke closes the channel when time is up, and then tells by whether its timer's thread has
        ended, which it may not have yet: invoke.runners.Runner.timed_out, in
        https://docs.pyinvoke.org/en/stable/api/runners.html. Of a lost connection Fabric raises
        nothing.
        """
        if timeout is not None and seconds >= timeout:
            raise self._silent(timeout)
        if (error := self._cut()) is not None:
            raise error

    def talk(self, script: str, args: Sequence[str] = (), python: str = "") -> Talk:
        """Start ``onhost/<script>.py args…`` there, to be told more over its stdin."""
        try:
            channel = self.cxn.transport.open_session(timeout=30)
            channel.exec_command(shlex.join(script_argv(script, args, python)))
        except Exception as error:  # noqa: BLE001 - likewise
            raise explain(self.label, error, self.cxn) from None
        return Talk(label=self.label, channel=channel, why=lambda _: self._cut(), lost=self._lost)

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
        code, out, err = self.run(do.argv, passing_on(self.label, say))
        if code == 0:
            return
        last = (err.strip() or out.strip()).splitlines()
        tail = [line for line in last if line.strip() and not line.startswith("ZEROFLEET-")]
        cut = "no exit status: a signal ended it there"
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
        try:
            sftp = self.cxn.sftp()
            sftp.putfo(stream, target, file_size=put.size, callback=self._meter(put, say))
        except Exception as error:  # noqa: BLE001 - likewise
            raise self._not_moved(
                error, target, "a file written there", "is there room? then run the command again"
            ) from None

    def _not_moved(self, error: Exception, path: str, expected: str, remedy: str) -> ProvisionError:
        """Why a file did not come or go: the connection's end, or what is wrong with the file."""
        if not isinstance(error, OSError):
            return explain(self.label, error, self.cxn)
        what = f"{self.label}: {path}"
        return self._cut() or HostError(what, found=error, expected=expected, remedy=remedy)

    def _meter(self, put: Put, say: Say) -> Callable[[int, int], None]:
        """A line every few seconds for a file that takes longer."""
        last = [time.monotonic()]

        def callback(sent: int, total: int) -> None:
            if time.monotonic() - last[0] > 3:
                last[0] = time.monotonic()
                say(f"[{self.label}] {put.target}: {sent:,} of {total:,} bytes")

        return callback

    def get(self, source: str, target: Path) -> None:
        """A file of this host to ``target`` here, complete or not at all.

        UnreachableError if the connection ends; HostError if that file can't be had, or kept.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        try:
            self.cxn.sftp().get(source, str(partial))
        except Exception as error:  # noqa: BLE001 - likewise
            partial.unlink(missing_ok=True)
            raise self._not_moved(
                error,
                source,
                f"a copy of it at {target}",
                "is it still there, and room for it here? then run the command again",
            ) from None
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
