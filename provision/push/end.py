"""The controller's end of one host's conversation with onhost/relay.py."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from provision.errors import HostError, ProvisionError
from provision.push.parcel import Parcel
from provision.push.rate import Pace
from provision.script import passing_on
from provision.session import Say
from provision.talk import SILENCE_SECONDS, Talk

#: Hosts that the controller sends to side by side: more would only share its link.
STAR = 8
#: Between two signs of life; onhost/relay.py takes 34 s of silence for our end.
_ALIVE_EVERY = 5.0


@dataclass(kw_only=True)
class Uplink:
    """What all conversations of one push share: who sends now, how fast, and what was sent.

    ``rotten``: files, by number, that hosts hold but could not pass on: they hash wrong there.
    """

    parcels: Sequence[Parcel]
    pace: Pace
    say: Say
    pool: ThreadPoolExecutor
    turns: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(STAR))
    sent: int = 0
    come: dict[str, int] = field(default_factory=dict)
    rotten: dict[str, set[int]] = field(default_factory=dict)


@dataclass(kw_only=True)
class End:
    """One host's conversation: it asks, is sent to, and says how far it is."""

    host: str
    talk: Talk
    _sending: threading.Lock = field(default_factory=threading.Lock)

    def apply_begin(self, order: Mapping[str, object], say: Say) -> dict[str, Any]:
        """What the host holds, once it has verified that."""
        self.apply_tell(order)
        return self._answer(say, {})

    def apply_tell(self, message: Mapping[str, object]) -> None:
        """One order."""
        with self._sending:
            self.talk.send(message)

    def apply_fetch(self, order: Mapping[str, object], uplink: Uplink) -> int:
        """Have the host fetch, and send it what it asks for here; its count of bytes in the end.

        An error if it can't go on; it is then let go at once, so that nobody waits for it.
        """
        feeding: list[Future[None]] = []
        try:
            self.apply_tell(order)
            while True:
                answer = self._answer(uplink.say, uplink.come)
                if answer["event"] == "done":
                    uplink.come[self.host] = int(answer["bytes"])
                    return int(answer["bytes"])
                if answer["event"] == "rotten":
                    uplink.rotten.setdefault(answer["peer"], set()).add(answer["file"])
                elif answer["event"] == "lost":
                    reason = f"{answer['peer']} can't be reached from there ({answer['why']})"
                    uplink.say(f"[{self.host}] {reason}: from here instead, over SSH")
                else:
                    feeding.append(uplink.pool.submit(self._feed, answer["files"], uplink))
        except BaseException:
            self.talk.close()
            raise

    def apply_end(self) -> None:
        """Have the host close its port, and await that; it ends in any case when this is closed."""
        try:
            self.apply_tell({"do": "end"})
            self.talk.receive(SILENCE_SECONDS)
        except ProvisionError:
            pass  # it is gone, and so is its port
        self.talk.close()

    def _answer(self, say: Say, come: dict[str, int]) -> dict[str, Any]:
        pass_on = passing_on(self.host, say)

        def on_line(line: str) -> None:
            pass_on(line)
            if line.startswith("ZEROFLEET-AT "):
                come[self.host] = int(line.removeprefix("ZEROFLEET-AT "))

        answer = self.talk.receive(SILENCE_SECONDS, on_line)
        if answer.get("event") == "failed":
            what, found, expected, remedy = (
                str(answer[key]) for key in ("what", "found", "expected", "remedy")
            )
            raise HostError(f"{self.host}: {what}", found=found, expected=expected, remedy=remedy)
        return answer

    def apply_alive(self) -> None:
        """Tell the host that we live, unless we are telling it something anyway."""
        if self._sending.acquire(blocking=False):
            try:
                self.talk.nudge({"do": "ping"})
            finally:
                self._sending.release()

    def _feed(self, wanted: Sequence[tuple[int, int]], uplink: Uplink) -> None:
        """Send files from a chunk on. If the host is gone, whoever listens to it hears of that."""
        with uplink.turns:
            for number, first in wanted:
                parcel = uplink.parcels[number]
                with parcel.read_open() as stream:
                    stream.seek(first * parcel.chunk)
                    for chunk in range(first, len(parcel.hashes)):
                        data = stream.read(parcel.length(chunk))
                        uplink.pace.apply_wait(len(data))
                        header = {"do": "bytes", "file": number, "chunk": chunk, "size": len(data)}
                        if not self._send(header, data):
                            return
                        uplink.sent += len(data)

    def _send(self, header: Mapping[str, object], data: bytes) -> bool:
        """An order with bytes behind it; False if the host is gone."""
        with self._sending:
            try:
                self.talk.send_bytes(header, data)
            except ProvisionError:
                return False
            return True


def say_alive(ends: Mapping[str, End], ended: threading.Event) -> None:
    """Show all hosts every few seconds that this controller lives: the body of a thread.

    Some wait for long, with nothing said: until another host has verified what it holds, say.
    """
    while not ended.wait(_ALIVE_EVERY):
        for end in list(ends.values()):
            end.apply_alive()
