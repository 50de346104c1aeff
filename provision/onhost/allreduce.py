"""A real all-reduce over all hosts, and the rate of every pair: one host's ranks, in its own torch.

Run by the deployed environment's Python. The order is one line of JSON on stdin:

    {"first_rank", "nproc", "world_size", "leaders": [each host's first rank], "node_rank",
     "address", "port", "backend", "environ"}

It answers between sentinels {"allreduce": {"bytes", "seconds"}, "rates": {node_rank: bytes/s}} or
{"error"}. It ends, and every rank with it, when stdin does; until then a line every few seconds
shows that it lives. Writes no file. Python 3.8 or later.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
from datetime import timedelta
from typing import Any

from provision.onhost.converse import live, reply, say

#: A collective that takes longer is a hang: the network test found all ports open before.
TIMEOUT = timedelta(seconds=90)
#: Bytes of the first all-reduce; of the largest; and of one message between two hosts.
SMALL, LARGE_CPU, LARGE_GPU = 1 << 20, 64 << 20, 512 << 20
UNIT_CPU, UNIT_GPU = 1 << 20, 32 << 20
#: Seconds that one measurement is made to take.
ALLREDUCE_SECONDS, PAIR_SECONDS = 1.5, 0.4
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def fork_ranks(count: int) -> tuple[int, list[int]]:
    """(own local rank, children): one process a rank, each of which dies with its parent."""
    children = []
    for local in range(1, count):
        child = os.fork()
        if child == 0:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            sys.stdin.close()
            return local, []
        children.append(child)
    return 0, children


def end_with_controller(children: list[int]) -> None:
    """Wait for the end of stdin; then nothing of ours stays."""
    while sys.stdin.readline():
        pass
    for child in children:
        os.kill(child, signal.SIGKILL)
    os._exit(1)


def end_with_children(children: list[int]) -> None:
    """A rank that fails leaves the others in a collective: say so instead of waiting."""
    for _ in children:
        child, status = os.wait()
        if status:
            local = children.index(child) + 1
            reply({"error": "local rank %d ended (wait status %d)" % (local, status)})
            os._exit(1)


def rounds(hosts: int) -> list[list[tuple[int, int]]]:
    """Every pair of hosts once, each host in one pair a round (the circle method)."""
    places: list[int] = list(range(hosts + hosts % 2))
    found = []
    for _ in range(len(places) - 1):
        half = len(places) // 2
        pairs = zip(places[:half], reversed(places[half:]))
        found.append([(min(p), max(p)) for p in pairs if max(p) < hosts])
        places = [places[0], places[-1], *places[1:-1]]
    return found


class Ranks:
    """This process's place among all ranks, and what it measures."""

    def __init__(self, order: dict[str, Any], local: int) -> None:
        import torch  # noqa: TID251 - this runs in the host's environment
        import torch.distributed as dist  # noqa: TID251 - likewise

        self.torch, self.dist, self.order = torch, dist, order
        self.rank = order["first_rank"] + local
        self.gpu = order["backend"] == "nccl"
        self.device = torch.device("cuda", local) if self.gpu else torch.device("cpu")
        if self.gpu:
            torch.cuda.set_device(self.device)
        dist.init_process_group(
            order["backend"],
            init_method="tcp://%s:%d" % (order["address"], order["port"]),
            rank=self.rank,
            world_size=order["world_size"],
            timeout=TIMEOUT,
        )

    def wait(self) -> None:
        """For what was only queued on a GPU."""
        if self.gpu:
            self.torch.cuda.synchronize()

    def tensor(self, count: int) -> Any:
        """Bytes to send."""
        return self.torch.ones(count // 4, dtype=self.torch.float32, device=self.device)

    def right(self) -> bool:
        """Whether the sum over all ranks is what it must be."""
        ours = self.tensor(SMALL) * (self.rank + 1)
        self.dist.all_reduce(ours)
        world = self.order["world_size"]
        return bool((ours == world * (world + 1) / 2).all().item())

    def timed(self, count: int) -> float:
        """Seconds of one all-reduce, of the rank that took longest."""
        ours = self.tensor(count)
        self.dist.barrier()
        began = time.monotonic()
        self.dist.all_reduce(ours)
        self.wait()
        longest = self.torch.tensor([time.monotonic() - began], device=self.device)
        self.dist.all_reduce(longest, op=self.dist.ReduceOp.MAX)
        return float(longest.item())

    def allreduce(self) -> dict[str, float]:
        """The rate of one that is large enough to measure, and no larger."""
        first = self.timed(SMALL)
        most = LARGE_GPU if self.gpu else LARGE_CPU
        count = SMALL
        while count * 2 <= most and first * count * 2 / SMALL < ALLREDUCE_SECONDS:
            count *= 2
        return {"bytes": count, "seconds": min(self.timed(count) for _ in range(3))}

    def send(self, peer: int) -> float:
        """Bytes a second to the rank ``peer``, which is receiving."""
        unit = self.tensor(UNIT_GPU if self.gpu else UNIT_CPU)
        size = unit.numel() * 4
        seconds = self._flow(peer, unit, 1)
        seconds = min(seconds, self._flow(peer, unit, 1))
        count = max(1, min(64, int(PAIR_SECONDS / seconds)))
        plan = self.torch.tensor([count], dtype=self.torch.int64, device=self.device)
        self.dist.send(plan, peer)
        seconds = self._flow(peer, unit, count)
        return float(count * size / seconds)

    def _flow(self, peer: int, unit: Any, count: int) -> float:
        began = time.monotonic()
        for _ in range(count):
            self.dist.send(unit, peer)
        done = self.torch.zeros(1, device=self.device)
        self.dist.recv(done, peer)
        self.wait()
        return time.monotonic() - began

    def receive(self, peer: int) -> None:
        """The other end of :meth:`send`."""
        unit = self.tensor(UNIT_GPU if self.gpu else UNIT_CPU)
        plan = self.torch.zeros(1, dtype=self.torch.int64, device=self.device)
        done = self.torch.zeros(1, device=self.device)
        for _ in range(2):
            self.dist.recv(unit, peer)
            self.dist.send(done, peer)
        self.dist.recv(plan, peer)
        for _ in range(int(plan.item())):
            self.dist.recv(unit, peer)
        self.dist.send(done, peer)

    def pairs(self) -> dict[str, float]:
        """Rates from this host to every other, between the hosts' first ranks; others just wait."""
        leaders, me = self.order["leaders"], self.order["node_rank"]
        found: dict[str, float] = {}
        planned = rounds(len(leaders))
        for number, pairs in enumerate(planned, start=1):
            if self.rank == 0:
                say("pairs of hosts, round %d of %d" % (number, len(planned)))
            self.dist.barrier()
            other = next((a if b == me else b for a, b in pairs if me in (a, b)), None)
            if other is None or self.rank != leaders[me]:
                continue
            if me < other:
                found[str(other)] = self.send(leaders[other])
                self.receive(leaders[other])
            else:
                self.receive(leaders[other])
                found[str(other)] = self.send(leaders[other])
        self.dist.barrier()
        return found


def measure(order: dict[str, Any], local: int) -> dict[str, Any]:
    """All of it; what fails becomes an error with the backend's own last words."""
    os.environ.update(order["environ"])
    try:
        ranks = Ranks(order, local)
        if not ranks.right():
            return {"error": "the sum over all ranks is wrong"}
        return {"allreduce": ranks.allreduce(), "rates": ranks.pairs()}
    except Exception as error:  # noqa: BLE001 - torch raises many types; all of them end here
        lines = [line for line in str(error).splitlines() if line.strip()]
        return {"error": "%s: %s" % (type(error).__name__, (lines or ["no reason"])[0][:300])}


if __name__ == "__main__":
    given = json.loads(sys.stdin.readline())
    own, forked = fork_ranks(given["nproc"])
    if own == 0:
        threading.Thread(target=live, daemon=True).start()
        threading.Thread(target=end_with_controller, args=(forked,), daemon=True).start()
        threading.Thread(target=end_with_children, args=(forked,), daemon=True).start()
    result = measure(given, own)
    if own == 0:
        reply(result)
    # Not through torch's own exit, which waits for peers that may have gone already.
    os._exit(1 if "error" in result else 0)
