"""One host's end of the mesh test: listen as a run would, and dial every other host.

    mesh.py MASTER_PORT PORTS ADDRESS UDP_PORT

MASTER_PORT 0: not node 0. PORTS: how many to sample. UDP_PORT: the heartbeat's, on ADDRESS; 0 in a
run that has none.

A conversation over stdin and stdout. Every answer is a JSON object between sentinels, on a line of
its own; every order is a JSON object on a line:

    (at the start)                              what is listened on, and what names mean here
    {"do": "dial", "token", "me", "master", "peers"}
                                                the master port; every peer's ports, full packets
                                                and small exchanges (``me``: own place among them);
                                                which peers' datagrams came
    {"do": "burst", "peer": N}                  bytes/s to that peer

The token comes over stdin, so ``ps`` shows none, and it never crosses the network: both ends show
that they know it (HMAC over a nonce). It ends when stdin does, or after LIFETIME; until then a line
ZEROFLEET-ALIVE every few seconds tells a slow host from one that is gone.

Standard library only, Python 3.8 or later. Writes no file.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import hmac
import json
import os
import secrets
import selectors
import socket
import statistics
import struct
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Callable

from provision.onhost.converse import live, reply
from provision.onhost.datagrams import bind, hear

LIFETIME = 600.0
#: Three SYNs fit in it: Linux sends them at 0, 1 and 3 s (RFC 6298), so one lost packet, or two, is
#: not taken for a firewall. And what failed is tried once more.
DIAL_SECONDS = 3.5
DIAL_ATTEMPTS = 2
#: Retransmissions come after 0.2, 0.6, 1.4 and 3 s: five tries of a full packet.
STALL_SECONDS = 4.0
#: Several full packets, also of a 9000-byte MTU.
FULL = 64 * 1024
#: Segment sizes tried where full ones vanish: those of an MTU of 1400, 1280 (IPv6's least) and 576.
SMALLER = (1360, 1240, 536)
EXCHANGES, EXCHANGE_SECONDS = 100, 3.0
MESSAGE = 64
#: On a fast network the bytes end it: 13 ms of 10 Gbit/s, well past the slow start of TCP there.
BURST_SECONDS, BURST_BYTES = 0.3, 16 << 20

CONNECT, EXCHANGE, UP, DOWN, BURST = b"c", b"x", b"u", b"d", b"b"
_HEADER = struct.Struct("!4s16sc32s")
_MAGIC = b"ZFM1"
# struct tcp_info of linux/tcp.h: tcpi_total_retrans, and tcpi_segs_out (Linux 4.2 or later).
_TOTAL_RETRANS, _SEGS_OUT = 100, 136
_IP_MTU, _IPV6_MTU = 14, 24  # linux/in.h, linux/in6.h

Answer = Any  # a JSON value


class Refused(Exception):
    """The other end is not ours, or ended early."""


def reason(error: BaseException) -> str:
    """Why a dial failed, in a few words."""
    if isinstance(error, socket.timeout):
        return "no answer in %g s" % DIAL_SECONDS
    if isinstance(error, Refused):
        return "something else answered"
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def resolve(name: str) -> dict[str, object]:
    """The addresses that a name has on this host."""
    try:
        return {"addresses": sorted({str(i[4][0]) for i in socket.getaddrinfo(name, 0)})}
    except OSError as error:
        return {"error": error.strerror or str(error)}


# ---------------------------------------------------------------------------------- both ends


def mac(token: bytes, side: bytes, nonce: bytes, kind: bytes) -> bytes:
    """What shows that a side knows the token."""
    return hmac.new(token, side + nonce + kind, hashlib.sha256).digest()


def receive(peer: socket.socket, count: int) -> bytes:
    """Exactly ``count`` bytes; Refused if the other end closes before."""
    data = b""
    while len(data) < count:
        part = peer.recv(count - len(data))
        if not part:
            raise Refused
        data += part
    return data


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


# ---------------------------------------------------------------------------------- listening


def holder_of(port: int, kind: str = "tcp") -> str:
    """Who listens on a port, as far as this user may see: "pid 12 (python3)"."""
    # As include/net/tcp_states.h has them: a TCP socket listens, a UDP one is bound ("close").
    inodes, state = set(), {"tcp": "0A", "udp": "07"}[kind]
    for table in ("/proc/net/" + kind, "/proc/net/%s6" % kind):
        try:
            with open(table) as stream:
                rows = [line.split() for line in stream.readlines()[1:]]
        except OSError:
            continue
        inodes |= {r[9] for r in rows if r[3] == state and int(r[1].rsplit(":", 1)[1], 16) == port}
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
                magic, nonce, kind, shown = _HEADER.unpack(receive(peer, _HEADER.size))
                expected = mac(self.token, b"dial", nonce, kind)
                if magic == _MAGIC and self.token and hmac.compare_digest(shown, expected):
                    peer.sendall(mac(self.token, b"listen", nonce, kind))
                    SERVES[kind](peer)
        except (OSError, Refused, KeyError):
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
    except Refused:
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


# ------------------------------------------------------------------------------------ dialling


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
        peer.sendall(_HEADER.pack(_MAGIC, nonce, kind, mac(self.token, b"dial", nonce, kind)))
        shown = receive(peer, 32)
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
            except (OSError, Refused):
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


def dial_all(dialler: Dialler, order: dict[str, Any], wire: socket.socket | None) -> dict[str, Any]:
    """The master port, and every peer: the next one first, so that no host is everybody's first."""
    peers, me, (name, port) = order["peers"], order["me"], order["master"]
    turn = [peers[(me + step) % len(peers)] for step in range(1, len(peers))]
    with ThreadPoolExecutor(128) as ports, ThreadPoolExecutor(16) as some:
        master = ports.submit(dialler.reach, name, port)
        heard = wire and ports.submit(hear, wire, dialler.token, me, peers)
        asked = {peer["host"]: some.submit(dial_peer, dialler, ports, peer) for peer in turn}
        return {
            "master": dict(resolve(name), reached=master.result()),
            "peers": {host: future.result() for host, future in asked.items()},
            "heard": heard.result() if heard else None,
        }


def converse(listener: Listener, wire: socket.socket | None) -> None:
    """Do what the controller says, until it says no more."""
    dialler = Dialler(b"")
    peers: list[dict[str, Any]] = []
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "dial":
            listener.token = bytes.fromhex(order["token"])
            listener.knows.set()
            dialler, peers = Dialler(listener.token), order["peers"]
            reply(dial_all(dialler, order, wire))
        else:
            reply(attempt(partial(dialler.burst, peers[order["peer"]])))


def why_taken(error: Exception, port: int, kind: str) -> str:
    """Why a port can't be listened on, and who holds it."""
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return "in use by " + holder_of(port, kind)
    return reason(error)


def start(master_port: int, count: int, address: str, udp_port: int) -> None:
    """Listen, say so, converse."""
    low, high = port_range()
    servers = sample_ports(low, high, count)
    hello: dict[str, object] = {
        "ports": [server.getsockname()[1] for server in servers],
        "range": [low, high],
        # Two names in one network namespace share its ports, and reach each other over loopback.
        "network": os.stat("/proc/self/ns/net").st_ino,
        "hostname": socket.gethostname(),
        "own": resolve(socket.gethostname()),
    }
    if master_port:
        try:
            servers.append(listen_on(master_port))
        except OSError as error:
            hello["master_error"] = why_taken(error, master_port, "tcp")
    wire = None
    if udp_port:
        try:
            wire = bind(address, udp_port)
            hello["udp"] = udp_port
        except (OSError, OverflowError) as error:
            hello["udp_error"] = "%d %s" % (udp_port, why_taken(error, udp_port, "udp"))
    listener = Listener(servers)
    threading.Thread(target=listener.serve, daemon=True).start()
    reply(hello)
    converse(listener, wire)


if __name__ == "__main__":
    # A controller that vanished without a word (power, cable) leaves stdin open for ever.
    timer = threading.Timer(LIFETIME, os._exit, [1])
    timer.daemon = True
    timer.start()
    threading.Thread(target=live, daemon=True).start()
    start(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    os._exit(0)  # threads that serve are not waited for
