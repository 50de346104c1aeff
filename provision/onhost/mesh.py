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

import json
import os
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from provision.onhost.converse import live, reason, reply
from provision.onhost.datagrams import bind, hear
from provision.onhost.mesh_dial import Dialler, attempt, dial_peer
from provision.onhost.mesh_listen import Listener
from provision.onhost.mesh_ports import listen_on, port_range, sample_ports, why_taken

LIFETIME = 600.0


def resolve(name: str) -> dict[str, object]:
    """The addresses that a name has on this host."""
    try:
        return {"addresses": sorted({str(i[4][0]) for i in socket.getaddrinfo(name, 0)})}
    except OSError as error:
        return {"error": reason(error)}


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
            hello["udp_error"] = "%d %s" % (udp_port, why_taken(error, udp_port, "udp", address))
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
