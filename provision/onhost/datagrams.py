"""Part of mesh.py: whether datagrams come from every other host, on the heartbeat's UDP ports.

Every host sends to all others from the port on which it listens, as the supervisors of a run do
(heartbeat.py), and says whom it heard. So a firewall that lets in what answers its own host is
judged as the run will find it, and each direction by itself.

Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import hashlib
import hmac
import select
import socket
import threading
import time
from typing import Any

#: How long a host is waited for, and how often it speaks meanwhile: as many lost packets in a row
#: are no loss, but a wall.
SECONDS, EVERY = 7.0, 0.2
#: For how much longer it speaks to those whose order came later.
LINGER = 3.0
_MAGIC, _MAC = b"ZFD1", 32


def packet_of(token: bytes, sender: int) -> bytes:
    """What a host sends: its place among all, and that it knows the token."""
    body = _MAGIC + sender.to_bytes(4, "big")
    return body + hmac.new(token, body, hashlib.sha256).digest()


def sender_of(packet: bytes, token: bytes) -> int | None:
    """Who sent a packet; None for a stranger's."""
    sender = int.from_bytes(packet[len(_MAGIC) : -_MAC], "big") if len(packet) == 40 else 0
    return sender if hmac.compare_digest(packet, packet_of(token, sender)) else None


def bind(address: str, port: int) -> socket.socket:
    """The socket that a supervisor would have."""
    where = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
    wire = socket.socket(where[0], socket.SOCK_DGRAM)
    try:
        wire.bind(where[4])
    except BaseException:
        wire.close()
        raise
    wire.setblocking(False)
    return wire


def _speak(wire: socket.socket, packet: bytes, addresses: list[Any]) -> None:
    until = time.monotonic() + SECONDS + LINGER
    while time.monotonic() < until:
        for address in addresses:
            try:
                wire.sendto(packet, address)
            except OSError:  # what this host may not send, the other won't hear
                continue
        time.sleep(EVERY)


def hear(wire: socket.socket, token: bytes, me: int, peers: list[dict[str, Any]]) -> list[str]:
    """Speak to all peers that listen; which of them were heard, as soon as all were."""
    awaited = {place for place, peer in enumerate(peers) if place != me and peer.get("udp")}
    heard: set[int] = set()
    addresses = []
    for place in sorted(awaited):
        try:
            found = socket.getaddrinfo(
                peers[place]["address"], peers[place]["udp"], wire.family, socket.SOCK_DGRAM
            )
        except OSError:  # no address of this family: then nothing is sent, and nothing heard
            continue
        addresses.append(found[0][4])
    voice = threading.Thread(
        target=_speak, args=(wire, packet_of(token, me), addresses), daemon=True
    )
    voice.start()
    until = time.monotonic() + SECONDS
    while heard != awaited and time.monotonic() < until:
        if not select.select([wire], [], [], max(0.0, until - time.monotonic()))[0]:
            break
        try:
            sender = sender_of(wire.recv(2048), token)
        except OSError:  # an ICMP error was waiting
            continue
        if sender in awaited:
            heard.add(sender)
    return [peers[place]["host"] for place in sorted(heard)]
