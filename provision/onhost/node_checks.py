"""May this job start? Every node of a Slurm job runs this, before any rank is started.

    node_checks.py RANKS ACCELERATOR [PATH ...]

Run by the environment's own Python. Each node looks at itself: the versions of that environment,
its GPUs, and the PATHs that the run reads. Node 0 listens at MASTER_ADDR and MASTER_PORT, where the
ranks are to meet; all others dial it, and tell. It holds them against itself, and answers. Exit 1
on every node that does not fit, with a line that says why. Standard library, Python 3.8.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import sys
import time
from importlib import metadata
from typing import Any

#: Every rank imports these; other versions on one node are other results, or a hang.
PACKAGES = ("torch", "deepspeed", "transformers")
#: Seconds that nodes may take until the last of them is there: a cold file system is slow.
PATIENCE = float(os.environ.get("ZEROFLEET_CHECK_SECONDS", "120"))
#: Seconds before the first node is dialled again.
PAUSE = 0.5


def read_versions() -> dict[str, str | None]:
    """The environment's Python and packages; None for one that it lacks."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def read_gpus(accelerator: str) -> tuple[int | None, str]:
    """How many GPUs torch may use here, and why none; None where no GPU is asked for."""
    if accelerator == "cpu":
        return None, ""
    try:
        import torch  # noqa: TID251 - this runs in the host's environment

        return torch.cuda.device_count(), ""
    except (ImportError, OSError, RuntimeError) as error:
        return 0, "torch: %s" % (str(error).strip().splitlines() or [type(error).__name__])[0]


def read_node(ranks: int, accelerator: str, paths: list[str]) -> dict[str, Any]:
    """What this node is, and what is wrong with it."""
    gpus, why = read_gpus(accelerator)
    problems = []
    if gpus is not None and gpus < ranks:
        why = why or "the job did not get them, or the driver shows fewer"
        problems.append("%d GPUs for %d ranks (%s)" % (gpus, ranks, why))
    problems += ["%s is not there" % path for path in paths if not os.path.exists(path)]
    return {
        "node": int(os.environ["SLURM_NODEID"]),
        "name": platform.node(),
        "versions": read_versions(),
        "gpus": gpus,
        "problems": problems,
    }


def differences(mine: dict[str, Any], others: dict[str, Any]) -> list[str]:
    """How another node's environment differs from the first one's. Pure."""
    return [
        "%s %s, on node 0 it is %s" % (name, others.get(name), version)
        for name, version in mine.items()
        if others.get(name) != version
    ]


def gather_nodes(own: dict[str, Any], port: int, nnodes: int) -> list[dict[str, Any]]:
    """Node 0: every node's word, or what is wrong with those that gave none."""
    heard = {0: own}
    over = time.monotonic() + PATIENCE
    with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if door.family == socket.AF_INET6:
            door.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            door.bind(("", port))
        except OSError as error:
            own["problems"].append("port %d can't be used: %s" % (port, error.strerror))
            return [own]
        door.listen(nnodes)
        while len(heard) < nnodes and time.monotonic() < over:
            door.settimeout(max(0.1, over - time.monotonic()))
            with contextlib.suppress(OSError, ValueError, KeyError):
                line, _ = door.accept()
                with line:
                    node = hear(line, own)
                    heard[node["node"]] = node
    silent = [str(node) for node in range(nnodes) if node not in heard]
    if silent:
        text = (
            "node %s did not come to this port within %.0f s: see its own line, a firewall, or the"
        )
        text += " address that %s stands for there"
        own["problems"].append(text % (", ".join(silent), PATIENCE, os.environ["MASTER_ADDR"]))
    return [heard[node] for node in sorted(heard)]


def hear(line: socket.socket, own: dict[str, Any]) -> dict[str, Any]:
    """One node's word, and the answer to it."""
    line.settimeout(10)
    with line.makefile("rw", encoding="utf-8") as stream:
        node: dict[str, Any] = json.loads(stream.readline())
        if node.get("job") != os.environ["SLURM_JOB_ID"]:
            raise ValueError("somebody else")
        node["problems"] += differences(own["versions"], node["versions"])
        stream.write(json.dumps(node["problems"]) + "\n")
        stream.flush()
        stream.readline()  # it hangs up first: a port that this end closed would rest for a minute
    return node


def tell(own: dict[str, Any], address: str, port: int) -> list[str]:
    """Another node: dial node 0 until it listens; what it finds wrong."""
    over, last = time.monotonic() + PATIENCE, "nothing tried"
    while time.monotonic() < over:
        try:
            with socket.create_connection((address, port), timeout=10) as line:
                line.settimeout(PATIENCE)
                with line.makefile("rw", encoding="utf-8") as stream:
                    job = {"job": os.environ["SLURM_JOB_ID"]}
                    stream.write(json.dumps({**own, **job}) + "\n")
                    stream.flush()
                    found: list[str] = json.loads(stream.readline())
                    return found
        except (OSError, ValueError) as error:
            last = str(error)
            time.sleep(PAUSE)
    return [*own["problems"], "node 0 can't be reached at %s port %d: %s" % (address, port, last)]


def main(ranks: int, accelerator: str, paths: list[str]) -> int:
    """Check this node; its exit code."""
    own = read_node(ranks, accelerator, paths)
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    nnodes = int(os.environ["SLURM_JOB_NUM_NODES"])
    if own["node"] == 0:
        nodes = gather_nodes(own, port, nnodes)
        problems = own["problems"]
        versions = ", ".join("%s %s" % item for item in own["versions"].items())
        wrong = sum(1 for node in nodes if node["problems"])
        said = "%d of them do not fit" % wrong if wrong else "all reach port %d" % port
        print("checks: %d of %d nodes: %s; %s" % (len(nodes), nnodes, versions, said), flush=True)
    else:
        problems = tell(own, address, port)
    for problem in problems:
        print("checks: %s (node %d): %s" % (own["name"], own["node"], problem), file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
