"""How a Slurm job's attempt ended: every node's exit.json, and which rank failed first.

    job_end.py ATTEMPT RANKS STATUS    ATTEMPT/node<k>/ has node.log and ranks/; RANKS a node

Exit 0; or 75 when ranks only saw others go, and no node says why: one of them was lost. Sent along
with the files that it imports. Standard library, Python 3.8 or later.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from provision.onhost.ending import node_exit, own_failure
from provision.onhost.folder import read_metrics, write_json
from provision.onhost.symptoms import EXCEPTION

#: sysexits.h calls it EX_TEMPFAIL: try again.
NODE_LOST = 75


def node_end(status: int, began: float) -> dict[str, Any]:
    """What a supervisor would have seen of a node, from srun's exit status."""
    return {
        "code": status,
        "error": None,
        "started_at": began,
        "torchrun_ended_at": time.time(),
        "stopped_at": None,
        "oom_kills": None,
        "left": [],
    }


def read_names(attempt: str) -> list[str]:
    """The nodes of the attempt, in the order of their node ranks."""
    with open(os.path.join(attempt, "nodes"), encoding="utf-8") as file:
        return file.read().split()


def read_exit(attempt: str, node_rank: int, ranks: int, status: int) -> dict[str, Any]:
    """exit.json of one node."""
    folder = os.path.join(attempt, "node%d" % node_rank)
    run_dir = os.path.dirname(attempt)
    plan = {
        "run": os.path.basename(run_dir),
        "node_rank": node_rank,
        "nproc_per_node": ranks,
        "first_rank": node_rank * ranks,
    }
    end = node_end(status, os.stat(os.path.join(attempt, "nodes")).st_mtime)
    failure = own_failure(folder, plan, end)
    if failure is not None and failure["rank"] is None and not is_own(failure):
        # No rank of it failed: torchrun was ended, by srun or with its node.
        end["cause"] = {"kind": "asked", "reason": "srun", "at": time.time()}
        end["stopped_at"] = time.time()
    found = node_exit(folder, plan, end)
    return {**found, "loss": read_metrics(run_dir)["loss"] if node_rank == 0 else found["loss"]}


def is_own(failure: dict[str, Any]) -> bool:
    """Whether torchrun itself says that something went wrong: a taken port, a bad option."""
    raised = any(EXCEPTION.match(line) for line in failure["lines"])
    return raised and not failure["symptom"]


def first_failure(exits: dict[str, dict[str, Any]]) -> tuple[str, dict[str, Any]] | None:
    """(node's name, failure): the earliest that no other rank's end explains, else the earliest."""
    found = [(name, e["first_failure"]) for name, e in exits.items() if e["first_failure"]]
    return min(found, key=lambda item: (item[1]["symptom"], item[1]["at"]), default=None)


def main(attempt: str, ranks: int, status: int) -> int:
    """Write every node's exit.json, say what came first."""
    exits = {}
    for node_rank, name in enumerate(read_names(attempt)):
        exits[name] = read_exit(attempt, node_rank, ranks, status)
        write_json(os.path.join(attempt, "node%d" % node_rank, "exit.json"), exits[name])
    if status == 0:
        return 0
    for name, ended in exits.items():
        bad = ["%d" % rank["rank"] for rank in ended["ranks"] if rank["state"] == "failed"]
        print("%s: %s" % (name, ended["state"]) + (": rank " + ", ".join(bad) if bad else ""))
    first = first_failure(exits)
    if first is None:
        print("no rank says why: Slurm ended the job (its time, its memory, a node, scancel)")
        return 0
    name, failure = first
    rank = "" if failure["rank"] is None else "rank %(rank)d (local_rank %(local_rank)d): "
    print("first failure: %s: %s%s" % (name, rank % failure, failure["reason"]))
    for line in failure["lines"]:
        print("    | " + line)
    if failure["symptom"]:
        print("that is only a consequence: no rank of a node that answers is to blame")
        return NODE_LOST
    return 0


if __name__ == "__main__":
    sys.exit(main(os.path.abspath(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
