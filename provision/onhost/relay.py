"""One host's end of a push: fetch files by chunks, and serve to peers what is here so far.

    relay.py

A conversation over stdin and stdout. Every order is a JSON object on a line, every answer one
between sentinels:

    {"do": "begin", "files", "serve", "address", "token", "cert", "key", "rate"}
                        what is to be here; answers what of it is, verified, and the port served
                        on; of files to "check" what is here is hashed, and not taken as it is
    {"do": "fetch", "from", "peers"}
                        each file's source: a peer, or "" for the controller. Answers follow:
                        {"event": "want"}: the controller is to send these files, as ``bytes``
                        {"event": "lost"}: that peer can't be reached; the controller is asked next
                        {"event": "rotten"}: likewise for one file, which rotted on that peer's disk
                        {"event": "failed"}: nothing more comes of it, and why
                        {"event": "done"}: all files are in place
    {"do": "mend", "files"}
                        of files that a peer was not given: those that hash wrong are removed, and
                        fetched from the controller; answers follow as to "fetch"
    {"do": "bytes", "file", "chunk", "size"}, then so many raw bytes
    {"do": "ping"}, {"do": "end"}

How a file grows by chunks that were hashed is in relay_file.py; how peers know one another,
relay_tls.py; how one serves the others, relay_serve.py. Key and token come over stdin and leave no
file.

It ends when stdin does, and the port with it. Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import queue
import struct
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Iterator

from provision.onhost.converse import live, reason, reply, tell
from provision.onhost.files import absolute
from provision.onhost.place import hold_store
from provision.onhost.relay_file import Failed, File
from provision.onhost.relay_serve import FRAME, ROTTEN, WAIT, Server
from provision.onhost.relay_tls import Lost, Seal, why_lost
from provision.onhost.stream import receive

#: A controller that vanished without a word (power, cable) leaves stdin open for ever. It is gone
#: before hold.py gives the host's lock to the next one, who would find its files being written.
CONTROLLER_SECONDS = 34.0
#: Files that are hashed at once, to see what is here.
HASHING = 4


class Rotten(Exception):
    """A peer has a file, but not its bytes any more."""


class Relay:
    """This host's part in a push."""

    def __init__(self) -> None:
        self.files: list[File] = []
        self.seal: Seal | None = None
        self.server: Server | None = None
        self.inbox: queue.Queue[tuple[int, int, bytes]] = queue.Queue(4)
        self.heard = self.told = time.monotonic()
        self.fetched = 0

    def begin(self, order: dict[str, Any]) -> dict[str, object]:
        """What is here, verified, and where it is served."""
        try:
            hold_store(fcntl.LOCK_SH)  # until we end: what is found now is not removed meanwhile
            with ThreadPoolExecutor(HASHING) as pool:
                self.files = list(pool.map(File, order["files"]))
        except OSError as error:
            raise failure(error)
        there = [file.held if file.wanted or file.complete else None for file in self.files]
        found: dict[str, object] = {"held": there, "closed": ""}
        status = os.statvfs(absolute(".zerofleet/store"))
        found["free"] = free = status.f_bavail * status.f_frsize
        if free >= sum(file.size - file.held for file in self.coming()):
            self.reserve()  # else the controller says how much is lacking
        if order["serve"]:
            address = (os.environ.get("SSH_CONNECTION", "").split() or [""] * 4)[2]
            address = address or order["address"]
            try:
                self.seal = Seal(order["cert"], order["key"], bytes.fromhex(order["token"]))
                self.server = Server(self.files, self.seal, order["rate"], address)
                threading.Thread(target=self.server.serve, daemon=True).start()
                found.update(address=address, port=self.server.port)
            except (OSError, ImportError, AttributeError, ValueError) as error:
                found["closed"] = "%s: %s" % (type(error).__name__, error)
        return found

    def coming(self) -> list[File]:
        """The files of which something is to come yet."""
        return [file for file in self.files if file.wanted and not file.complete]

    def reserve(self) -> None:
        """Room for all that is to come, or none: what came in earlier pushes stays."""
        try:
            for file in self.coming():
                file.reserve()
        except OSError as error:
            self.give_back()
            raise failure(error)

    def give_back(self) -> None:
        """The room that was reserved and is not used yet."""
        for file in self.coming():
            file.give_back()

    def fetch(self, sources: list[str], peers: dict[str, Any]) -> None:
        """Everything that is not here yet: the body of a thread. It ends in an answer."""
        try:
            todo = [i for i, file in enumerate(self.files) if file.wanted and not file.complete]
            while todo:
                source = sources[todo[0]]
                streak = []
                for number in todo:
                    if sources[number] != source:
                        break
                    streak.append(number)
                try:
                    self._streak(streak, source, peers)
                except Lost as lost:
                    reply({"event": "lost", "peer": source, "why": str(lost)})
                    sources = ["" if each == source else each for each in sources]
                except Rotten:
                    number = next(n for n in streak if not self.files[n].complete)
                    reply({"event": "rotten", "peer": source, "file": number})
                    sources[number] = ""
                todo = [number for number in todo if not self.files[number].complete]
            reply({"event": "done", "bytes": self.fetched})
            return
        except Failed as failed:
            reply(dict(failed.parts, event="failed"))
        except OSError as error:
            reply(dict(failure(error).parts, event="failed"))
        except Exception as error:  # noqa: BLE001 - the controller waits for a word
            parts = ("relay.py", repr(error), "no such error", "report it, with this line")
            reply(dict(Failed(*parts).parts, event="failed"))
        while True:  # what was on its way: behind it comes the controller's end
            self.inbox.get()

    def mend(self, numbers: list[int]) -> None:
        """Files that others were not given, from the controller: the body of a thread."""
        try:
            for number in numbers:
                self.files[number].mend()
        except OSError as error:
            reply(dict(failure(error).parts, event="failed"))
            return
        self.fetch([""] * len(self.files), {})

    def _streak(self, numbers: list[int], source: str, peers: dict[str, Any]) -> None:
        """Files that follow one another from one source."""
        wanted = [[number, self.files[number].have] for number in numbers]
        if source:
            frames = self._frames(source, peers[source], wanted)
        else:
            reply({"event": "want", "files": wanted})
            frames = iter(self.inbox.get, None)
        for number in numbers:
            file = self.files[number]
            with file.grow() as stream:
                for chunk in range(file.have, len(file.hashes)):
                    came = next(frames, None)
                    if came is None or came[:2] != (number, chunk):
                        raise wrong_bytes(file, chunk, source)
                    if not file.right(chunk, came[2]):
                        raise wrong_bytes(file, chunk, source)
                    file.add(stream, chunk, came[2])
                    self._count(len(came[2]))
                file.finish(stream)

    def _frames(
        self, host: str, peer: dict[str, Any], wanted: list[list[int]]
    ) -> Iterator[tuple[int, int, bytes]]:
        """Chunks from a peer, in order."""
        assert self.seal
        with self.seal.dial(host, peer["address"], peer["port"]) as link:
            text = json.dumps(wanted).encode()
            try:
                link.sendall(struct.pack("!I", len(text)) + text)
                while True:
                    number, chunk, size = FRAME.unpack(receive(link, FRAME.size))
                    if number == ROTTEN:
                        raise Rotten
                    if number != WAIT:
                        # No chunk is longer; a peer that says so would only fill our memory.
                        if size > self.files[number].chunk:
                            raise Lost("it sent something else")
                        yield number, chunk, bytes(receive(link, size))
            except OSError as error:
                raise Lost("%s: %s" % (peer["address"], why_lost(error)))

    def _count(self, count: int) -> None:
        self.fetched += count
        now = time.monotonic()
        if now - self.told > 1:
            self.told = now
            tell("ZEROFLEET-AT %d" % self.fetched)

    def take(self, stdin: Any, size: int) -> bytes:
        """So many bytes from the controller, fewer if it ended; over a slow link it lives too."""
        data = bytearray()
        while len(data) < size:
            part = stdin.read1(min(size - len(data), 1 << 16))
            if not part:
                break
            data += part
            self.heard = time.monotonic()
        return bytes(data)

    def watch(self) -> None:
        """End when the controller says nothing any more."""
        while self.inbox.full() or time.monotonic() - self.heard < CONTROLLER_SECONDS:
            time.sleep(1)
        self.give_back()
        os._exit(1)


def wrong_bytes(file: File, chunk: int, source: str) -> Failed:
    """Bytes that are not the file's: never written, never served."""
    what = "bytes from " + (source or "the controller")
    found = "chunk %d of %s hashes wrong" % (chunk, file.name)
    if not source:
        return Failed(what, found, "the file's", "did it change meanwhile? run the command again")
    remedy = "check disk and memory of %s, then run the command again" % source
    return Failed(what, found, "what it was sent as", remedy)


def failure(error: OSError) -> Failed:
    """What the disk said."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "make room there; what came so far is kept" if full else "correct that there"
    what = error.filename or "~/.zerofleet/store"
    return Failed(str(what), reason(error), "a folder to write to", remedy)


def converse(relay: Relay) -> None:
    """Do what the controller says, until it says no more."""
    stdin = sys.stdin.buffer
    for line in iter(stdin.readline, b""):
        order = json.loads(line)
        if order["do"] == "begin":
            relay.heard = math.inf  # it may take minutes, and nobody reads meanwhile
            try:
                reply(relay.begin(order))
            except Failed as failed:
                reply(dict(failed.parts, event="failed"))
        elif order["do"] == "fetch":
            args = (order["from"], order["peers"])
            threading.Thread(target=relay.fetch, args=args, daemon=True).start()
        elif order["do"] == "mend":
            threading.Thread(target=relay.mend, args=(order["files"],), daemon=True).start()
        elif order["do"] == "bytes":
            data = relay.take(stdin, order["size"])
            if len(data) < order["size"]:
                return
            relay.inbox.put((order["file"], order["chunk"], data))
        elif order["do"] == "end":
            if relay.server:
                relay.server.close()
            reply({"event": "ended"})
            return
        relay.heard = time.monotonic()


if __name__ == "__main__":
    this = Relay()
    for body in (live, this.watch):
        threading.Thread(target=body, daemon=True).start()
    converse(this)
    this.give_back()
    os._exit(0)  # threads that serve or wait are not waited for
