"""A healthy fleet of four, and what it answers: what the tests of this room start from."""

from __future__ import annotations

from copy import deepcopy

import pytest

from provision.preflight.mesh import Mesh
from provision.preflight.ready import Ready, Wanted

NODES = ("node1", "node2", "node3", "node4")
DIGEST = {"sha256": "ab" * 32, "files": {"config.json": "c", "w": "d"}, "count": 2, "bytes": 3000}
ANSWER = {
    "cpu_seconds": 0.001,
    "folders": [{"path": "/out", "nearest": "/", "free": 9e9, "inodes": 10**6}],
    "model": {"bytes": 1000, "dtype": "bfloat16", "hidden_size": 64, "digest": DIGEST},
    "rows": {"files": 1, "rows": 240, "problems": [], "problem_count": 0},
    "data": DIGEST,
    "ops": {"loads": True},
    "logout": {"kills": False},
    "locks": [],
}


@pytest.fixture
def wanted():
    """A run on four CPU hosts."""
    return Wanted(
        slots=dict.fromkeys(NODES, 1),
        addresses={host: f"10.0.0.{host[-1]}" for host in NODES},
        master_addr="10.0.0.1",
        master_port=29500,
        accelerator="cpu",
        lock="abc",
        proof={"name": "abc", "ops": ["cpu_adam"]},
        model="/models/m",
        data="/data/d.jsonl",
        output="/out",
    )


@pytest.fixture
def nodes(make_facts):
    """Facts of four healthy hosts; keywords replace them, on the host named or on all."""

    def make(host=None, **changes):
        def values(name):
            peers = {f"10.0.0.{other[-1]}": other for other in NODES}
            source = {"source": f"10.0.0.{name[-1]}", "interface": "eth0"}
            return {
                "environment": {"lock": "abc", "torch": "2.13.0+cpu"},
                "environments": ["abc"],
                "environment.now": {"torch": "2.13.0+cpu"},
                "shm": {"total": 8 << 30, "free": 8 << 30},
                "limits": {"nofile": {"soft": 1024}, "memlock": {"soft": 8 << 20}},
                "clock.offset": {"seconds": 0.01, "bound": 0.1},
                "memory": {"total": 64 << 30, "available": 60 << 30},
                "boot_id": f"boot-{name}",
                "routes": {peer: {"address": peer, **source} for peer in peers},
            } | (changes if host in (None, name) else {})

        return {name: make_facts(name, **values(name)) for name in NODES}

    return make


def dial(host):
    """What one host of a healthy fleet answers about its peers."""
    peer = {
        "ports": dict.fromkeys(map(str, range(33000, 58000, 5000)), 0.001),
        "exchange": {"count": 100, "median": 1e-4, "tcp": [[0, 104], [0, 102]]},
        "packets": {"up": 65536, "down": 65536, "of": 65536, "mtu": 1500},
    }
    return {
        "master": {"addresses": ["10.0.0.1"], "reached": 0.002},
        "peers": {other: deepcopy(peer) for other in NODES if other != host},
        "heard": [other for other in NODES if other != host],
    }


@pytest.fixture
def mesh():
    """What a healthy network gives."""
    hello = {"ports": [33001], "range": [32768, 60999], "own": {"addresses": ["127.0.1.1"]}}
    hello["udp"] = 29500
    return Mesh(
        hellos={h: {**hello, "network": n, "hostname": h} for n, h in enumerate(NODES)},
        dials={host: dial(host) for host in NODES},
        rates={(a, b): 1.1e9 for a in NODES for b in NODES if a != b},
    )


@pytest.fixture
def ready(mesh):
    """What healthy hosts answer."""
    return Ready(hosts={host: dict(ANSWER) for host in NODES}, mesh=mesh)
