"""A conversation with a script on a host: it answers, is told more, and answers again.

One start of a script in place of several, and what must stay private (a token) goes over its
stdin rather than its argv. The script ends when its stdin does, so it ends with the connection.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from provision.errors import HostError, ProvisionError
from provision.script import parse_answer

OnLine = Callable[[str], None]

_END = b">>ZEROFLEET"
#: What one SSH packet holds: https://www.rfc-editor.org/rfc/rfc4253#section-6.1
_PACKET = 1 << 15
#: What writing to a channel that has ended raises; paramiko has EOFError where its connection has.
_CLOSED = (OSError, EOFError)
#: Scripts that work for longer say ZEROFLEET-ALIVE every five seconds.
SILENCE_SECONDS = 36.0
#: What a process may take to end after its last output.
_LAST_WORDS = 5.0


@dataclass(kw_only=True)
class Talk:
    """One conversation. ``channel`` is a paramiko.Channel (or what reads and writes like one).

    ``why``: the error that an end with this stderr stands for, where that is not the script's own
    to tell. ``lost``: the error of a host that is not reached any more: what was found, and what to
    do. None: it is no host, but a process of this machine.
    """

    label: str
    channel: Any
    why: Callable[[str], ProvisionError | None] = lambda _: None
    lost: Callable[[str, str], ProvisionError] | None = None
    _unread: bytes = field(default=b"", repr=False)

    def send(self, message: Mapping[str, object]) -> None:
        """Tell the script something: one JSON object, one line. An error if it has ended."""
        try:
            self.channel.sendall(json.dumps(message).encode() + b"\n")
        except _CLOSED:
            raise self._ended() from None

    def nudge(self, message: Mapping[str, object]) -> None:
        """As :meth:`send`, if it can go at once; that the script has ended, others find out."""
        with contextlib.suppress(*_CLOSED):
            if self.channel.send_ready():
                self.channel.sendall(json.dumps(message).encode() + b"\n")

    def send_bytes(self, message: Mapping[str, object], data: bytes) -> None:
        """Likewise, with raw bytes behind it; it may take as long as the script takes to read."""
        left = memoryview(json.dumps(message).encode() + b"\n" + data)
        while left:
            try:
                left = left[self.channel.send(bytes(left[:_PACKET])) :]
            except TimeoutError:
                continue  # receive(), in another thread, sets the limit for both directions
            except _CLOSED:
                raise self.why("") or HostError(
                    f"{self.label}: conversation",
                    found="closed by the host",
                    expected="a script that reads",
                    remedy="run the command again",
                ) from None

    def receive(self, timeout: float, on_line: OnLine | None = None) -> dict[str, object]:
        """The script's next answer; an error if it ended, or if none came in ``timeout`` s.

        With ``on_line``, which sees the lines before the answer, it is silence that must not last
        so long: a script that works for minutes says so meanwhile.
        """
        until = time.monotonic() + timeout
        while _END not in self._unread:
            self.channel.settimeout(max(0.01, until - time.monotonic()))
            try:
                part = self.channel.recv(1 << 16)
            except TimeoutError:
                raise self._late(timeout) from None
            if not part:
                raise self._ended()
            self._unread += part
            if on_line is not None:
                until = time.monotonic() + timeout
                self._pass_lines(on_line)
        answer, _, self._unread = self._unread.partition(_END)
        return parse_answer(self.label, (answer + _END).decode("utf-8", "replace"))

    def await_answer(self, since: float, on_line: OnLine) -> dict[str, object]:
        """The next answer of a script that says every few seconds that it lives.

        For conversations that go on side by side and are listened to in turn: ``since`` is when all
        were told something (time.monotonic). Whoever is silent for SILENCE_SECONDS is gone; the
        lines of one that lives have been waiting here meanwhile.
        """
        waited = time.monotonic() - since
        return self.receive(max(SILENCE_SECONDS / 3, SILENCE_SECONDS - waited), on_line)

    def _pass_lines(self, on_line: OnLine) -> None:
        """Hand over whole lines that are no answer."""
        *lines, rest = self._unread.split(b"\n")
        kept = [line for line in lines if _END in line]
        for line in lines:
            if _END not in line:
                on_line(line.decode("utf-8", "replace").rstrip("\r"))
        self._unread = b"\n".join([*kept, rest])

    def _late(self, seconds: float) -> ProvisionError:
        """That no answer came in time."""
        found, remedy = f"no answer in {seconds:.0f} s", "is it very busy, or a disk there hung?"
        if self.lost is not None:
            return self.lost(found, "is the host down or very busy, or its network cut?")
        return HostError(f"{self.label}: answer", found=found, expected="one", remedy=remedy)

    def _ended(self) -> ProvisionError:
        """Why there is no answer any more: what the script, or the shell, said at the end."""
        said = self._unread.decode("utf-8", "replace")
        errors = b""
        while self.channel.recv_stderr_ready():
            errors += self.channel.recv_stderr(1 << 16)
        if error := self.why(errors.decode("utf-8", "replace")):
            return error
        if said.strip() or errors.strip():
            try:
                parse_answer(self.label, said, errors.decode("utf-8", "replace"))
            except HostError as error:
                return error
        return HostError(
            f"{self.label}: conversation",
            found="closed",
            expected="an answer",
            remedy="was the script there ended? run the command again",
        )

    def close(self) -> None:
        """End the conversation, and with it the script."""
        with contextlib.suppress(*_CLOSED):  # it has ended already
            self.channel.close()


class ProcessChannel:
    """A process of this machine, read and written like one of paramiko's channels.

    ``patience``: seconds that it may take to end once its stdin did; then it is made to. None: as
    long as it likes.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        environ: Mapping[str, str] | None = None,
        patience: float | None = None,
    ) -> None:
        self._ours, theirs = socket.socketpair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the channel
        self._patience = patience
        with theirs:
            self.process = subprocess.Popen(
                list(argv),
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._errors,
                env=environ,
                start_new_session=True,
            )
        self._read = 0
        self.sendall, self.send, self.recv = self._ours.sendall, self._ours.send, self._ours.recv
        self.settimeout = self._ours.settimeout

    def send_ready(self) -> bool:
        """Whether something can be sent without waiting."""
        if self._ours.fileno() < 0:
            return False
        poll = select.poll()  # select() takes no descriptor above 1023
        poll.register(self._ours, select.POLLOUT)
        return bool(poll.poll(0))

    def recv_stderr_ready(self) -> bool:
        """Whether it said something on stderr that was not read yet, now that it has ended."""
        if self._errors.closed:
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):  # its stdout has
            self.process.wait(_LAST_WORDS)
        return self._errors.seek(0, 2) > self._read

    def recv_stderr(self, size: int) -> bytes:
        """What it said on stderr."""
        self._errors.seek(self._read)
        said = self._errors.read(size)
        self._read += len(said)
        return said

    def close(self) -> None:
        """Its stdin ends, and it with that; a second time, nothing."""
        if self._ours.fileno() < 0:
            return
        with contextlib.suppress(OSError):  # it has ended, and its end of the socket with it
            self._ours.shutdown(socket.SHUT_WR)
        end(self.process, self._patience)
        self._ours.close()
        self._errors.close()


def end(process: subprocess.Popen[Any], patience: float | None) -> None:
    """Wait for a process; one that takes longer is asked to end, and then made to."""
    for more in (process.terminate, process.kill):
        try:
            process.wait(patience)
            return
        except subprocess.TimeoutExpired:
            more()
    process.wait()
