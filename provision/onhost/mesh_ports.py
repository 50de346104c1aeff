"""Ports of this host: listen as a run would, on the master port and on a sample of the range.

Part of mesh.py. Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import errno
import glob
import os
import secrets
import socket
import sys

from provision.onhost.mesh_wire import reason


def holder_of(port: int, kind: str = "tcp", address: str = "") -> str:
    """Who listens on a port, as far as this user may see: "pid 12 (python3)".

    ``address``: an IPv4 one, where holders of the port at other addresses are in nobody's way.
    """
    # As include/net/tcp_states.h has them: a TCP socket listens, a UDP one is bound ("close").
    inodes, state = set(), {"tcp": "0A", "udp": "07"}[kind]
    here = hex_of(address) if address else None
    for table in ("/proc/net/" + kind, "/proc/net/%s6" % kind):
        try:
            with open(table) as stream:
                rows = [line.split() for line in stream.readlines()[1:]]
        except OSError:
            continue
        for row in rows:
            at, _, its_port = row[1].rpartition(":")
            same = here is None or set(at) == {"0"} or at in here
            if row[3] == state and int(its_port, 16) == port and same:
                inodes.add(row[9])
    for fd in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            target = os.readlink(fd)
            if target[:8] == "socket:[" and target[8:-1] in inodes:
                pid = fd.split("/")[2]
                with open("/proc/%s/comm" % pid) as stream:
                    return "pid %s (%s)" % (pid, stream.read().strip())
        except OSError:  # another user's, or it ended while we looked
            continue
    return "another user's process"


def hex_of(address: str) -> tuple[str, ...] | None:
    """An IPv4 address as /proc/net has it, alone and within IPv6: proc(5). None of any other."""
    try:
        packed = socket.inet_aton(address)
    except OSError:
        return None
    number = "%08X" % int.from_bytes(packed, sys.byteorder)
    mapped = "%08X" % int.from_bytes(b"\0\0\xff\xff", sys.byteorder)
    return number, "0" * 16 + mapped + number


def listen_on(port: int) -> socket.socket:
    """A listener on every address, IPv4 and IPv6, as torchrun's store makes one."""
    try:
        server = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    except OSError:
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # As torch's TCPStore: a port in TIME_WAIT is free, one that is listened on is not.
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind(("", port))
        server.listen(512)
    except OSError:
        server.close()
        raise
    return server


def port_range() -> tuple[int, int]:
    """The ports that the kernel hands out here, which gloo and NCCL listen on."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as stream:
        low, high = (int(word) for word in stream.read().split())
    return low, high


def sample_ports(low: int, high: int, count: int) -> list[socket.socket]:
    """Listeners spread over the range: one in each ``count``-th of it."""
    servers = []
    step = max(1, (high + 1 - low) // count)
    for first in range(low, high + 2 - step, step)[:count]:
        for _ in range(20):
            try:
                servers.append(listen_on(first + secrets.randbelow(step)))
                break
            except OSError:  # in use by somebody else
                continue
    return servers


def why_taken(error: Exception, port: int, kind: str, address: str = "") -> str:
    """Why a port can't be listened on, and who holds it."""
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return "in use by " + holder_of(port, kind, address)
    return reason(error)
