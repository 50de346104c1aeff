"""Start torchrun on one node of a run, with the environment of its plan.

Imported by other files of onhost/, and sent along with them. Standard library, Python 3.8, Linux.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import subprocess
import time
from typing import Any

from provision.onhost.ahead import Ahead, bound_to
from provision.onhost.folder import read_json, write_json
from provision.onhost.processes import read_boot_id, read_identity

SECRETS = "secrets.json"  # variables that may stand in no plan

# What another launcher, or an outer run, may have left in the environment. PET_* silently become
# torchrun's options (torch/distributed/argparse_util.py); PYTHON* puts other code before ours.
FOREIGN = re.compile(
    r"(RANK|LOCAL_RANK|NODE_RANK|GROUP_RANK|ROLE_.*|(LOCAL_|GROUP_)?WORLD_SIZE|NNODES"
    r"|NPROC_PER_NODE|MASTER_(ADDR|PORT)|TORCHELASTIC_.*|PET_.*|PYTHON(PATH|HOME)|SSH_.*)$"
)


def take_plan(run_dir: str) -> dict[str, Any]:
    """The plan, its heartbeat's secret in no file any more: plan.json is collected and shown."""
    path = os.path.join(run_dir, "plan.json")
    plan: dict[str, Any] = read_json(path)
    if plan.get("peers"):
        shown = {key: value for key, value in plan["peers"].items() if key != "secret"}
        write_json(path, {**plan, "peers": shown})
    return plan


def take_secrets(run_dir: str) -> dict[str, str]:
    """Variables that may stand in no plan; their file is gone once they were read."""
    path = os.path.join(run_dir, SECRETS)
    secrets: dict[str, str] = read_json(path) or {}
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return secrets


def node_environ(plan: dict[str, Any], secrets: dict[str, str]) -> dict[str, str]:
    """The environment of torchrun: this one without foreign variables, then the plan's."""
    environ = {k: v for k, v in os.environ.items() if not FOREIGN.match(k)}
    # Tools of the environment, ninja for one, stand beside its python.
    tools = os.path.dirname(plan["argv"][0])
    environ["PATH"] = os.pathsep.join(filter(None, [tools, environ.get("PATH", os.defpath)]))
    return {**environ, **plan["environ"], **secrets}


def spawn_torchrun(
    run_dir: str, plan: dict[str, Any], secrets: dict[str, str], ahead: Ahead | None = None
) -> subprocess.Popen[bytes]:
    """Start torchrun in its own session; it gets SIGTERM should this process die.

    ``ahead``: one that was started before, to be used if it would be the same.
    """
    supervisor, environ = os.getpid(), node_environ(plan, secrets)
    if ahead and ahead.fits(plan["argv"], environ):
        ahead.go(plan, environ, run_dir)
        return ahead.process
    if ahead:
        ahead.end()
    log = os.open(os.path.join(run_dir, "node.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        return subprocess.Popen(
            plan["argv"],
            cwd=os.path.join(run_dir, "code"),
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: bound_to(supervisor),  # noqa: PLW1509 (one thread only)
        )
    finally:
        os.close(log)


def read_taken(plan: dict[str, Any]) -> str:
    """What keeps torchrun's rendezvous from listening here; empty if nothing does."""
    port = plan["environ"].get("MASTER_PORT", "")
    if plan["node_rank"] != 0 or not port.isdigit():
        return ""
    for family, where in ((socket.AF_INET6, "::"), (socket.AF_INET, "")):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((where, int(port)))
                return ""
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return "master_port %s is taken here by another process: choose another" % port
    return ""


def begin(
    run_dir: str, plan: dict[str, Any], secrets: dict[str, str], ahead: Ahead | None = None
) -> subprocess.Popen[bytes] | str:
    """Start torchrun and write the record; why not, also in node.log, when it can't be started."""
    record = {
        "run": plan["run"],
        "node_rank": plan["node_rank"],
        "started_at": time.time(),
        "boot_id": read_boot_id(),
        "hostname": socket.gethostname(),  # homes may be shared (usage.py)
        "supervisor": read_identity(os.getpid()),
        "torchrun": None,
    }
    path = os.path.join(run_dir, "record.json")
    write_json(path, record)
    problem = read_taken(plan)
    if not problem:
        try:
            torchrun = spawn_torchrun(run_dir, plan, secrets, ahead)
        except (OSError, subprocess.SubprocessError) as error:
            problem = "torchrun: %s: %s" % (type(error).__name__, error)
    if problem:
        log_lines(run_dir, [problem])
        return problem
    write_json(path, {**record, "torchrun": read_identity(torchrun.pid)})
    return torchrun


def log_lines(run_dir: str, lines: list[str]) -> None:
    """Lines of the supervisor's own in the log that everybody reads."""
    path = os.path.join(run_dir, "node.log")
    with contextlib.suppress(OSError), open(path, "a", encoding="utf-8") as log:
        log.writelines("[zerofleet] %s\n" % line for line in lines)
