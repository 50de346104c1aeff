"""One host's end of a push: fetch files by chunks, and serve to peers what is here so far.

    relay.py

A conversation over stdin and stdout. Every order is a JSON object on a line, every answer one
between sentinels:

    {"do": "begin", "files", "serve", "address", "token", "cert", "key", "rate"}
                        what is to be here; answers what of it is, verified, and the port served on
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

A file grows beside its target (TARGET.partial); every chunk is hashed before it is written or
served, the whole before the target's name exists. So what was interrupted goes on after the last
chunk that still hashes right. Peers are dialled over TLS: both ends show the one certificate that
the controller made for this push, and know its token. Key and token come over stdin and leave no
file.

It ends when stdin does, and the port with it. Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import hmac
import json
import math
import os
import queue
import socket
import struct
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from typing import Any, BinaryIO, Iterator

from provision.onhost.converse import live, reply, say, tell
from provision.onhost.place import absolute, digest, make_folder, relink

#: A peer that waits for a chunk itself says so; one that says nothing for so long is gone.
WAITING_SECONDS, SILENT_SECONDS, DIAL_SECONDS = 2.0, 15.0, 4.0
#: A controller that vanished without a word (power, cable) leaves stdin open for ever. It is gone
#: before hold.py gives the host's lock to the next one, who would find its files being written.
CONTROLLER_SECONDS = 34.0
SEATS, STRANGERS_NAMED = 64, 5
#: file, chunk, bytes that follow; WAIT and ROTTEN are no files.
FRAME = struct.Struct("!III")
WAIT, ROTTEN = 0xFFFFFFFF, 0xFFFFFFFE


class Lost(Exception):
    """A peer can't be reached, or is gone."""


class Rotten(Exception):
    """A peer has a file, but not its bytes any more."""


class Failed(Exception):
    """This push can't go on here: what it is about, what was found, what was expected."""

    def __init__(self, what: str, found: str, expected: str, remedy: str) -> None:
        super().__init__(found)
        self.parts = {"what": what, "found": found, "expected": expected, "remedy": remedy}


# ---------------------------------------------------------------------------------- files


class File:
    """One file of the push. ``have``: chunks of it that are on this disk and hashed right."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.target = absolute(asked["target"])
        self.name = os.path.basename(self.target)
        self.partial = self.target + ".partial"
        self.sha256: str = asked["sha256"]
        self.size: int = asked["size"]
        self.mode: int = asked["mode"]
        self.chunk: int = asked["chunk"]
        hashes = base64.b64decode(asked["hashes"])
        self.hashes = [hashes[i : i + 32] for i in range(0, len(hashes), 32)]
        self.whole = hashlib.sha256()
        self.grown = threading.Condition()
        self.seen = (0, 0)
        self.have = 0
        self.wanted: bool = asked["wanted"]  # else it is served if it is there
        self.complete = os.path.exists(self.target)
        self.proved = not self.complete  # what came in this push was hashed on its way to the disk
        self.mended = False
        if self.complete:
            self.have = len(self.hashes)
        elif self.wanted:
            make_folder(os.path.dirname(self.target))
            self._verify()

    @property
    def held(self) -> int:
        """Verified bytes."""
        return min(self.size, self.have * self.chunk)

    def length(self, chunk: int) -> int:
        """Bytes of a chunk: all are of one length but the last."""
        return min(self.chunk, self.size - chunk * self.chunk)

    def right(self, chunk: int, data: bytes) -> bool:
        """Whether these are the chunk's bytes, as the controller said over SSH."""
        return hashlib.sha256(data).digest() == self.hashes[chunk]

    def _verify(self) -> None:
        """Go on after the last chunk of an interrupted push that still hashes right."""
        if not os.path.exists(self.partial):
            return
        with open(self.partial, "rb") as stream:
            self.seen = identity(stream)
            while self.have < len(self.hashes):
                data = stream.read(self.length(self.have))
                if not self.right(self.have, data):
                    break
                self.whole.update(data)
                self.have += 1
        if self.seen[1] > self.held:
            lost = self.seen[1] - self.held
            say("%s: %s of its bytes from before hash wrong, and come again" % (self.name, lost))

    def rotten(self, chunk: int, data: bytes) -> bool:
        """Whether bytes of a file that was here before this push are not the file's any more."""
        return not self.proved and not self.right(chunk, data)

    def mend(self) -> None:
        """Remove a file that rotted on this disk, so that it comes again."""
        if digest(self.target) == self.sha256:
            return
        with self.grown:
            os.remove(self.target)
            self.complete, self.proved, self.have = False, True, 0
        self.wanted = self.mended = True
        self.whole = hashlib.sha256()
        say("%s had rotted on this disk: removed, and sent again" % self.name)

    def open(self) -> BinaryIO:
        """The file as it is so far, to be read: the name changes once, while others read it."""
        with self.grown:
            # Unbuffered: nothing is read before it was verified.
            return open(self.target if self.complete else self.partial, "rb", 0)

    def grow(self) -> BinaryIO:
        """The growing file, locked against any other push of it."""
        stream = os.fdopen(os.open(self.partial, os.O_RDWR | os.O_CREAT, 0o600), "r+b", 0)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._other("is being written by another push") from None
        named = os.stat(self.partial)
        if self.seen not in ((0, 0), identity(stream)) or named.st_ino != identity(stream)[0]:
            raise self._other("was changed by another push meanwhile")
        stream.truncate(self.held)
        stream.seek(self.held)
        return stream

    def _other(self, what: str) -> Failed:
        remedy = "wait until the other push ended, then run the command again"
        return Failed(self.name, self.partial + " " + what, "one push at a time", remedy)

    def add(self, stream: BinaryIO, chunk: int, data: bytes) -> None:
        """The next chunk, hashed right: write it, and have those know who wait for it."""
        self.whole.update(data)
        view = memoryview(data)
        while view:
            view = view[stream.write(view) :]
        with self.grown:
            self.have = chunk + 1
            self.grown.notify_all()

    def finish(self, stream: BinaryIO) -> None:
        """All chunks are there: the name comes into being, on disk too (power may fail next)."""
        if self.whole.hexdigest() != self.sha256:
            os.remove(self.partial)
            found = "sha256 %s of %s" % (self.whole.hexdigest()[:12], self.name)
            remedy = "did the file change meanwhile? run the command again"
            raise Failed("sha256 after the push", found, self.sha256[:12], remedy)
        os.fchmod(stream.fileno(), self.mode)
        os.fsync(stream.fileno())
        with self.grown:
            os.replace(self.partial, self.target)
            self.complete = True
        if self.mended:
            relink(self.target, self.sha256)
        folder = os.open(os.path.dirname(self.target), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def wait(self, chunk: int) -> bool:
        """Whether the chunk is here, after a while at most."""
        with self.grown:
            return self.grown.wait_for(lambda: self.have > chunk, WAITING_SECONDS)


def identity(stream: BinaryIO) -> tuple[int, int]:
    """Which file this is, and how long."""
    status = os.fstat(stream.fileno())
    return status.st_ino, status.st_size


# ---------------------------------------------------------------------------------- TLS


def receive(peer: Any, count: int) -> bytearray:
    """Exactly ``count`` bytes; OSError if the other end closes before."""
    data = bytearray(count)
    view = memoryview(data)
    while view:
        came = peer.recv_into(view)
        if not came:
            raise ConnectionResetError(errno.ECONNRESET, "it closed the connection")
        view = view[came:]
    return data


@contextmanager
def private_file(text: str) -> Iterator[str]:
    """The path of a file that only this process sees: ssl takes keys from files alone."""
    stream: Any
    if hasattr(os, "memfd_create"):
        stream = os.fdopen(os.memfd_create("zerofleet"), "w+")
        path = "/proc/self/fd/%d" % stream.fileno()
    else:  # glibc before 2.27: private too, and gone once it is closed
        stream = tempfile.NamedTemporaryFile("w+")  # noqa: SIM115 - the block below closes both
        path = stream.name
    with stream:
        stream.write(text)
        stream.flush()
        yield path


class Seal:
    """The push's certificate and token: who shows both is of this push."""

    def __init__(self, cert: str, key: str, token: bytes) -> None:
        import ssl  # some Pythons were built without it

        self.ssl, self.token = ssl, token
        self.pin = hashlib.sha256(ssl.PEM_cert_to_DER_cert(cert)).digest()
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.client.check_hostname = False  # no name counts, this one certificate does
        with private_file(cert + key) as path:
            for context in (self.server, self.client):
                context.minimum_version = ssl.TLSVersion.TLSv1_2
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(cadata=cert)
                context.load_cert_chain(path)

    def _pinned(self, peer: Any) -> bool:
        shown = peer.getpeercert(binary_form=True) or b""
        return hmac.compare_digest(hashlib.sha256(shown).digest(), self.pin)

    def accept(self, plain: socket.socket) -> Any:
        """The connection of a peer of this push; Failed says why it is none."""
        try:
            peer = self.server.wrap_socket(plain, server_side=True)
            if not self._pinned(peer):
                raise Failed("", "it shows another certificate", "", "")
            token = receive(peer, len(self.token))
        except self.ssl.SSLError as error:
            why = error.reason or str(error)
            raise Failed("", "no certificate of this push (%s)" % why, "", "")
        known = hmac.compare_digest(bytes(token), self.token)
        peer.sendall(b"Y" if known else b"N")
        if not known:
            raise Failed("", "it does not know the token", "", "")
        return peer

    def dial(self, host: str, address: str, port: int) -> Any:
        """A connection to a peer. Lost: not reached; Failed: something else is there."""
        failed = "relay of " + host
        remedy = "is that address %s's own? has its disk or memory a fault?" % host
        try:
            plain = socket.create_connection((address, port), DIAL_SECONDS)
            plain.settimeout(SILENT_SECONDS)
            peer = self.client.wrap_socket(plain)
            peer.sendall(self.token)
            answer = receive(peer, 1)
        except self.ssl.SSLCertVerificationError:
            raise Failed(failed, "another certificate", "the one made for this push", remedy)
        except self.ssl.SSLError as error:
            if "ALERT" in str(error.reason):
                raise Failed(failed, "it refuses our certificate", "one certificate", remedy)
            raise Lost("something else answers at %s port %s" % (address, port))
        except OSError as error:
            raise Lost("%s port %s: %s" % (address, port, reason(error)))
        if not self._pinned(peer):
            raise Failed(failed, "another certificate", "the one made for this push", remedy)
        if answer != b"Y":
            raise Failed(failed, "it refuses our token", "one token", remedy)
        return peer


def reason(error: OSError) -> str:
    """Why a peer was not reached, in a few words."""
    return "no answer" if isinstance(error, socket.timeout) else error.strerror or str(error)


# ---------------------------------------------------------------------------------- serving


class Pace:
    """At most ``rate`` bytes a second, over all connections (0: as fast as it goes)."""

    def __init__(self, rate: float) -> None:
        self.rate, self.free, self.lock = rate, 0.0, threading.Lock()

    def take(self, count: int) -> None:
        """Wait until so many more bytes may go."""
        if not self.rate:
            return
        with self.lock:
            now = time.monotonic()
            begin = max(now, self.free)
            self.free = begin + count / self.rate
        time.sleep(begin - now)


class Server:
    """Gives files of this push to peers of this push, as far as they are here."""

    def __init__(self, files: list[File], seal: Seal, rate: float, address: str) -> None:
        family = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0][0]
        self.listener = socket.socket(family, socket.SOCK_STREAM)
        self.listener.bind((address, 0))
        self.listener.listen(SEATS)
        self.files, self.seal, self.pace = files, seal, Pace(rate)
        self.seats = threading.Semaphore(SEATS)
        self.strangers: set[str] = set()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.listener.getsockname()[1])

    def serve(self) -> None:
        """Accept until the listener is closed."""
        while True:
            try:
                plain, source = self.listener.accept()
            except OSError as error:
                if error.errno in (errno.EBADF, errno.EINVAL):
                    return
                time.sleep(0.1)  # out of files, say: others will be closed
                continue
            self.seats.acquire()
            threading.Thread(target=self._answer, args=(plain, source[0]), daemon=True).start()

    def close(self) -> None:
        """Listen no more: accept() in another thread would keep a merely closed port open."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _answer(self, plain: socket.socket, source: str) -> None:
        plain.settimeout(SILENT_SECONDS)
        try:
            with plain, self.seal.accept(plain) as peer:
                peer.settimeout(SILENT_SECONDS * 2)
                wanted = json.loads(receive(peer, struct.unpack("!I", receive(peer, 4))[0]))
                for file, first in wanted:
                    self._send(peer, file, first)
        except Failed as stranger:
            if source not in self.strangers and len(self.strangers) < STRANGERS_NAMED:
                self.strangers.add(source)
                say("relay: refused a connection from %s: %s" % (source, stranger))
        except (OSError, ValueError, IndexError):
            pass  # the peer is gone, and says so itself where it is not
        finally:
            self.seats.release()

    def _send(self, peer: Any, number: int, first: int) -> None:
        file = self.files[number]
        if first >= len(file.hashes):
            return
        while not file.wait(first):
            peer.sendall(FRAME.pack(WAIT, 0, 0))
        with file.open() as stream:
            stream.seek(first * file.chunk)
            for chunk in range(first, len(file.hashes)):
                while not file.wait(chunk):
                    peer.sendall(FRAME.pack(WAIT, 0, 0))
                data = stream.read(file.length(chunk))
                if file.rotten(chunk, data):
                    peer.sendall(FRAME.pack(ROTTEN, number, 0))
                    return
                self.pace.take(len(data))
                peer.sendall(FRAME.pack(number, chunk, len(data)) + data)


# ---------------------------------------------------------------------------------- fetching


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
            make_folder(absolute(".zerofleet/store"))
            self.files = [File(asked) for asked in order["files"]]
        except OSError as error:
            raise failure(error)
        there = [file.held if file.wanted or file.complete else None for file in self.files]
        found: dict[str, object] = {"held": there, "closed": ""}
        status = os.statvfs(absolute(".zerofleet/store"))
        found["free"] = status.f_bavail * status.f_frsize
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
        except Failed as failed:
            reply(dict(failed.parts, event="failed"))
        except OSError as error:
            reply(dict(failure(error).parts, event="failed"))
        except Exception as error:  # noqa: BLE001 - the controller waits for a word
            parts = ("relay.py", repr(error), "no such error", "report it, with this line")
            reply(dict(Failed(*parts).parts, event="failed"))

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
                raise Lost("%s: %s" % (peer["address"], reason(error)))

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
    return Failed(str(what), error.strerror or str(error), "a folder to write to", remedy)


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
    os._exit(0)  # threads that serve or wait are not waited for
