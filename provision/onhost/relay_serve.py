"""Give the files of a push to its other hosts, as far as they are here so far.

A peer says which files it wants, each from which chunk on; it gets frames: a FRAME, then the
chunk's bytes. While a chunk is not here yet, WAIT frames say that this host lives.

Part of relay.py. Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import errno
import json
import socket
import struct
import threading
import time
from typing import Any

from provision.onhost.converse import say
from provision.onhost.relay_file import WAITING_SECONDS, Failed, File
from provision.onhost.relay_tls import SILENT_SECONDS, Seal
from provision.onhost.stream import receive

SEATS, STRANGERS_NAMED = 64, 5
#: file, chunk, bytes that follow; WAIT and ROTTEN are no files.
FRAME = struct.Struct("!III")
WAIT, ROTTEN = 0xFFFFFFFF, 0xFFFFFFFE


class Pace:
    """At most ``rate`` bytes a second, over all connections (0: as fast as it goes)."""

    def __init__(self, rate: float) -> None:
        self.rate, self.free, self.lock = rate, 0.0, threading.Lock()

    def book(self, count: int) -> float:
        """Seconds until so many more bytes may go; they are counted as gone."""
        if not self.rate:
            return 0.0
        with self.lock:
            now = time.monotonic()
            begin = max(now, self.free)
            self.free = begin + count / self.rate
        return begin - now


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
                self._wait(peer, self.pace.book(len(data)))
                peer.sendall(FRAME.pack(number, chunk, len(data)) + data)

    def _wait(self, peer: Any, seconds: float) -> None:
        """Keep to the rate; at a low one a chunk takes longer than a peer would wait in silence."""
        while seconds > 0:
            time.sleep(min(seconds, WAITING_SECONDS))
            seconds -= WAITING_SECONDS
            if seconds > 0:
                peer.sendall(FRAME.pack(WAIT, 0, 0))
