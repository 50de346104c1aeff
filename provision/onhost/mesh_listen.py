"""Answer the other hosts of a mesh: whoever knows the token, on all ports at once.

Part of mesh.py. Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import hmac
import json
import selectors
import socket
import struct
import threading
import time
from typing import Callable

from provision.onhost.mesh_wire import (
    BURST,
    BURST_SECONDS,
    CONNECT,
    DIAL_ATTEMPTS,
    DIAL_SECONDS,
    DOWN,
    EXCHANGE,
    FULL,
    HEADER,
    MAGIC,
    MESSAGE,
    UP,
    drain,
    mac,
    tcp_counts,
)
from provision.onhost.stream import Closed, receive


class Listener:
    """Answers whoever knows the token, on all ports at once."""

    def __init__(self, servers: list[socket.socket]) -> None:
        self.servers = servers
        self.token = b""
        self.knows = threading.Event()  # a peer may dial before our own order has come
        self.seats = threading.Semaphore(512)

    def serve(self) -> None:
        """Accept for ever."""
        waiting = selectors.DefaultSelector()
        for server in self.servers:
            waiting.register(server, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                try:
                    peer, _ = key.fileobj.accept()  # type: ignore[union-attr]
                except OSError:
                    continue
                self.seats.acquire()
                threading.Thread(target=self._answer, args=(peer,), daemon=True).start()

    def _answer(self, peer: socket.socket) -> None:
        try:
            with peer:
                self.knows.wait(30)
                peer.settimeout(DIAL_SECONDS * DIAL_ATTEMPTS)
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                magic, nonce, kind, shown = HEADER.unpack(receive(peer, HEADER.size))
                expected = mac(self.token, b"dial", nonce, kind)
                if magic == MAGIC and self.token and hmac.compare_digest(shown, expected):
                    peer.sendall(mac(self.token, b"listen", nonce, kind))
                    SERVES[kind](peer)
        except (OSError, KeyError):
            pass  # the dialling end reports it
        finally:
            self.seats.release()


def serve_connect(peer: socket.socket) -> None:
    """Let the dialling end close first."""
    peer.recv(1)


def serve_exchange(peer: socket.socket) -> None:
    """Give back every message; at the end, this side's counts."""
    try:
        while True:
            peer.sendall(receive(peer, MESSAGE))
    except Closed:
        peer.sendall(json.dumps(tcp_counts(peer)).encode())


def serve_up(peer: socket.socket) -> None:
    """Count what comes."""
    peer.sendall(struct.pack("!Q", drain(peer, FULL)))
    peer.recv(1)


def serve_down(peer: socket.socket) -> None:
    """Send full packets."""
    peer.sendall(b"\0" * FULL)
    drain(peer, 1)


def serve_burst(peer: socket.socket) -> None:
    """Measure what comes: bytes/s of the second half, past any token bucket and slow start."""
    buffer, total = bytearray(1 << 20), 0
    samples = [(time.monotonic(), 0)]
    while samples[-1][0] - samples[0][0] < BURST_SECONDS:
        count = peer.recv_into(buffer)
        if not count:
            break
        total += count
        samples.append((time.monotonic(), total))
    middle = (samples[0][0] + samples[-1][0]) / 2
    began = max(sample for sample in samples if sample[0] <= middle)
    seconds = samples[-1][0] - began[0]
    peer.sendall(struct.pack("!d", (total - began[1]) / seconds if seconds > 0 else 0.0))
    while peer.recv_into(buffer):
        pass


SERVES: dict[bytes, Callable[[socket.socket], None]] = {
    CONNECT: serve_connect,
    EXCHANGE: serve_exchange,
    UP: serve_up,
    DOWN: serve_down,
    BURST: serve_burst,
}
