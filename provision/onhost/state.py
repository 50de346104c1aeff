"""How a run's node stands on this host: the words for it, and how they are decided.

From the run's folder and the process that its record names: exit.json has the last word; without
one the node runs as long as its supervisor does. Who asks: supervise.py, runs.py, follow.py.

Imported by other files of onhost/, and sent along with them. Standard library, Python 3.8, Linux.
"""

from __future__ import annotations

import os
from typing import Any

from provision.onhost.folder import read_json
from provision.onhost.processes import is_alive, read_boot_id

# The controller's: provision/launch/states.py. A rank's state is one of ENDED, too.
RUNNING, FINISHED, FAILED, STOPPED = "running", "finished", "failed", "stopped"
LOST, NEVER_STARTED = "lost", "never started"
#: How a node ends by its own word; LOST: its supervisor is gone without one.
ENDED = (FINISHED, FAILED, STOPPED)


def read_gone(record: dict[str, Any]) -> str:
    """Why the supervisor that a record names does not run any more; empty when it does."""
    if record["boot_id"] != read_boot_id():
        return "the host was restarted during the run"
    if is_alive(record["supervisor"], record["boot_id"]):
        return ""
    return "the supervisor (pid %d) died before the run ended" % record["supervisor"]["pid"]


def read_state(run_dir: str) -> dict[str, Any]:
    """{"state", "why" (it is lost; else empty), "record", "exit"} of a node, by its run's folder.

    ``record`` and ``exit`` are record.json and exit.json, None where they are not there (yet).
    """
    record = read_json(os.path.join(run_dir, "record.json"))
    # The record first, then the process, then exit.json: a run that ends in between is ended.
    why = read_gone(record) if record else ""
    ended = read_json(os.path.join(run_dir, "exit.json"))
    if ended:
        state, why = ended["state"], ""
    elif record:
        state = LOST if why else RUNNING
    else:
        state = NEVER_STARTED
    return {"state": state, "why": why, "record": record, "exit": ended}
