"""Dial the other hosts of a mesh: are they reached, do full packets pass, how fast, what is lost.

Part of mesh.py. Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import hmac
import json
import secrets
import socket
import statistics
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Callable

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
    STALL_SECONDS,
    UP,
    Refused,
    drain,
    mac,
    path_mtu,
    reason,
    tcp_counts,
)
from provision.onhost.stream import Closed, receive

#: Segment sizes tried where full ones vanish: those of an MTU of 1400, 1280 (IPv6's least) and 576.
SMALLER = (1360, 1240, 536)
EXCHANGES, EXCHANGE_SECONDS = 100, 3.0
#: On a fast network the bytes end it: 13 ms of 10 Gbit/s, well past the slow start of TCP there.
BURST_BYTES = 16 << 20

Answer = Any  # a JSON value


class Dialler:
    """Reaches other hosts' listeners, and is sure that they are ours."""

    def __init__(self, token: bytes) -> None:
        self.token = token

    def open(self, address: str, port: int, kind: bytes, segment: int = 0) -> socket.socket:
        """A connection whose other end knows the token. ``segment``: the largest that is used."""
        last: OSError = OSError("no address")
        for family, type_, proto, _, where in socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM
        ):
            peer = socket.socket(family, type_, proto)
            try:
                peer.settimeout(DIAL_SECONDS)
                if segment:
                    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
                peer.connect(where)
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._greet(peer, kind)
                return peer
            except OSError as error:
                peer.close()
                last = error
            except BaseException:
                peer.close()
                raise
        raise last

    def _greet(self, peer: socket.socket, kind: bytes) -> None:
        nonce = secrets.token_bytes(16)
        peer.sendall(HEADER.pack(MAGIC, nonce, kind, mac(self.token, b"dial", nonce, kind)))
        try:
            shown = receive(peer, 32)
        except Closed:
            raise Refused from None
        if not hmac.compare_digest(shown, mac(self.token, b"listen", nonce, kind)):
            raise Refused

    def reach(self, address: str, port: int) -> Answer:
        """Seconds until the listener there answered, or why it did not."""
        failed = ""
        for _ in range(DIAL_ATTEMPTS):
            began = time.monotonic()
            try:
                self.open(address, port, CONNECT).close()
                return time.monotonic() - began
            except (OSError, Refused) as error:
                failed = reason(error)
        return failed

    def exchange(self, address: str, port: int) -> dict[str, object]:
        """Small messages to and fro, one at a time: how long they take, how many were sent again.

        On a connection that is never congested, what is sent again was lost on the way.
        """
        times: list[float] = []
        with self.open(address, port, EXCHANGE) as peer:
            peer.settimeout(10)
            until = time.monotonic() + EXCHANGE_SECONDS
            while len(times) < EXCHANGES and time.monotonic() < until:
                began = time.monotonic()
                peer.sendall(b"\0" * MESSAGE)
                receive(peer, MESSAGE)
                times.append(time.monotonic() - began)
            mine = tcp_counts(peer)
            peer.shutdown(socket.SHUT_WR)
            theirs = b""
            part = peer.recv(256)
            while part:
                theirs += part
                part = peer.recv(256)
        counts = [mine, json.loads(theirs or b"null")]
        return {"count": len(times), "median": statistics.median(times), "tcp": counts}

    def full(self, address: str, port: int, segment: int = 0) -> dict[str, object]:
        """Full packets there, and back: how many bytes of each came before it stalled."""
        with self.open(address, port, UP, segment) as peer:
            size = path_mtu(peer)
            peer.settimeout(STALL_SECONDS * 2 + DIAL_SECONDS)
            try:
                peer.sendall(b"\0" * FULL)
                up = struct.unpack("!Q", receive(peer, 8))[0]
            except OSError:
                up = 0
        with self.open(address, port, DOWN, segment) as peer:
            down = drain(peer, FULL)
        return {"up": up, "down": down, "of": FULL, "mtu": size}

    def packets(self, address: str, port: int) -> dict[str, object]:
        """As :meth:`full`; where full packets vanish, ``passes`` is a packet size that does not."""
        found = self.full(address, port)
        if found["up"] == FULL and found["down"] == FULL:
            return found
        for segment in SMALLER:
            smaller = self.full(address, port, segment)
            if smaller["up"] and smaller["down"]:
                return dict(found, passes=segment + 40)
        return found

    def burst(self, to: dict[str, Any]) -> dict[str, float]:
        """Bytes a second to that peer, as it counted them."""
        with self.open(to["address"], to["ports"][0], BURST) as peer:
            peer.settimeout(BURST_SECONDS * 2)
            began, sent, block = time.monotonic(), 0, b"\0" * (1 << 20)
            try:
                while sent < BURST_BYTES and time.monotonic() - began < BURST_SECONDS:
                    sent += peer.send(block)
            except socket.timeout:
                pass  # so slow that nothing more fitted in: the other end has its count
            peer.shutdown(socket.SHUT_WR)
            peer.settimeout(STALL_SECONDS)
            rate = float(struct.unpack("!d", receive(peer, 8))[0])
            # What is still unsent is dropped rather than sent.
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return {"rate": rate}


def attempt(call: Callable[[], Answer]) -> Answer:
    """The answer, or {"error": why there is none}."""
    try:
        return call()
    except (OSError, Refused, ValueError, struct.error) as error:
        return {"error": reason(error)}


def dial_peer(dialler: Dialler, pool: ThreadPoolExecutor, peer: dict[str, Any]) -> dict[str, Any]:
    """All that is asked of one peer."""
    address = peer["address"]
    ports = {port: pool.submit(dialler.reach, address, port) for port in peer["ports"]}
    answer: dict[str, Any] = {"ports": {str(p): asked.result() for p, asked in ports.items()}}
    good = [int(port) for port, found in answer["ports"].items() if not isinstance(found, str)]
    if good:
        answer["exchange"] = attempt(partial(dialler.exchange, address, good[0]))
        answer["packets"] = attempt(partial(dialler.packets, address, good[-1]))
    return answer
