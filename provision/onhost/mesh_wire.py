"""What both ends of a mesh connection know: its greeting, its times and sizes, its counts.

The end that dials says what the connection is for (CONNECT and so on). Both ends show that they
know the token, by an HMAC over a nonce: it never crosses the network itself.

Part of mesh.py. Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import struct

from provision.onhost.stream import Closed

#: Three SYNs fit in it: Linux sends them at 0, 1 and 3 s (RFC 6298), so one lost packet, or two, is
#: not taken for a firewall. And what failed is tried once more.
DIAL_SECONDS = 3.5
DIAL_ATTEMPTS = 2
#: Retransmissions come after 0.2, 0.6, 1.4 and 3 s: five tries of a full packet.
STALL_SECONDS = 4.0
#: Several full packets, also of a 9000-byte MTU.
FULL = 64 * 1024
MESSAGE = 64
BURST_SECONDS = 0.3

CONNECT, EXCHANGE, UP, DOWN, BURST = b"c", b"x", b"u", b"d", b"b"
HEADER = struct.Struct("!4s16sc32s")
MAGIC = b"ZFM1"
# struct tcp_info of linux/tcp.h: tcpi_total_retrans, and tcpi_segs_out (Linux 4.2 or later).
_TOTAL_RETRANS, _SEGS_OUT = 100, 136
_IP_MTU, _IPV6_MTU = 14, 24  # linux/in.h, linux/in6.h


class Refused(Exception):
    """The other end is not ours."""


def reason(error: BaseException) -> str:
    """Why a dial failed, in a few words."""
    if isinstance(error, socket.timeout):
        return "no answer in %g s" % DIAL_SECONDS
    if isinstance(error, (Refused, Closed)):
        return "something else answered"
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def mac(token: bytes, side: bytes, nonce: bytes, kind: bytes) -> bytes:
    """What shows that a side knows the token."""
    return hmac.new(token, side + nonce + kind, hashlib.sha256).digest()


def drain(peer: socket.socket, count: int) -> int:
    """How many of ``count`` bytes came before the stream stalled or ended."""
    peer.settimeout(STALL_SECONDS)
    came = 0
    try:
        while came < count:
            part = peer.recv(min(1 << 16, count - came))
            if not part:
                break
            came += len(part)
    except OSError:
        pass
    return came


def tcp_counts(peer: socket.socket) -> list[int] | None:
    """[segments sent again, segments sent] of a connection; None where the kernel has no count."""
    try:
        info = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        again = struct.unpack_from("I", info, _TOTAL_RETRANS)[0]
        sent = struct.unpack_from("I", info, _SEGS_OUT)[0]
    except (OSError, struct.error):
        return None
    return [int(again), int(sent)]


def path_mtu(peer: socket.socket) -> int | None:
    """The packet size that this host would use towards the peer."""
    six = peer.family == socket.AF_INET6
    try:
        level, option = (socket.IPPROTO_IPV6, _IPV6_MTU) if six else (socket.IPPROTO_IP, _IP_MTU)
        return peer.getsockopt(level, option)
    except OSError:
        return None
