"""How one node of a run ended: exit.json, from torchrun's own word, error files and logs.

Imported by other files of onhost/, and sent along with them. Standard library, Python 3.8.
"""

from __future__ import annotations

import glob
import os
import re
import signal
import time
from typing import Any

from provision.onhost.folder import (
    read_jit_compiled,
    read_json,
    read_lines,
    read_metrics,
    read_text,
)
from provision.onhost.kernel import gpu_failed, xids
from provision.onhost.state import FAILED, FINISHED, STOPPED
from provision.onhost.symptoms import exit_reason, is_symptom, is_symptomatic_end

# One failed rank in the summary that torchrun prints (torch's errors/__init__.py).
FAILED_RANK = re.compile(
    r"^  time      : (?P<time>\S+)\n  host      : .*\n"
    r"  rank      : (?P<rank>\d+) \(local_rank: (?P<local_rank>\d+)\)\n"
    r"  exitcode  : (?P<exit>-?\d+) ",
    re.MULTILINE,
)
# SIGKILL, as torchrun, a shell, DeepSpeed's launcher (sys.exit(-9)) and a DataLoader tell of it.
KILLED = re.compile(r"killed by signal(: Killed| 9\b)|exit code (137|247)\b")


def read_oom_kills() -> int | None:
    """How often this host's kernel has ended a process for want of memory, since boot."""
    match = re.search(r"^oom_kill (\d+)$", read_text("/proc/vmstat"), re.MULTILINE)
    return int(match.group(1)) if match else None


def shell_code(code: int) -> int:
    """A wait status as a shell says it: 128 + n for signal n."""
    return 128 - code if code < 0 else code


def read_error_file(folder: str) -> tuple[float, str] | None:
    """(when, message) of a rank's error.json, written by torch's @record; None without one.

    Its timestamp has whole seconds; the file's own time is finer, and used when they agree.
    """
    path = os.path.join(folder, "error.json")
    try:
        message = read_json(path)["message"]
        said = float(message["extraInfo"]["timestamp"]) if isinstance(message, dict) else 0.0
        text = message["message"] if isinstance(message, dict) else str(message)
        written = os.stat(path).st_mtime
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (written if not said or said <= written < said + 2 else said), text


def read_failure(
    run_dir: str, local_rank: int, block: re.Match[str] | None, root: bool
) -> dict[str, Any] | None:
    """One rank's failure, from its error file or its block in torchrun's summary; None without.

    A rank that torchrun itself ended with SIGTERM, after another failed, did not fail.
    """
    folders = glob.glob(os.path.join(run_dir, "ranks", "*", "attempt_*", str(local_rank)))
    folder = max(folders, key=os.path.getmtime) if folders else os.devnull
    lines = read_lines(os.path.join(folder, "stderr.log")) if folders else []
    error = read_error_file(folder) if folders else None
    code = int(block.group("exit")) if block else None
    if error:
        at, reason = error
    elif block and code is not None and (root or code != -signal.SIGTERM):
        at = time.mktime(time.strptime(block.group("time"), "%Y-%m-%d_%H:%M:%S"))
        at += 0.0 if root else 0.999  # whole seconds; and torchrun says that this was not the first
        reason = exit_reason(code, lines)
    else:
        return None
    if error or code is None:
        symptom = is_symptom(reason)
    else:
        said = read_text(os.path.join(folder, "stderr.log")).splitlines() if folders else []
        symptom = is_symptomatic_end(code, reason, said)
    return {"at": at, "reason": reason, "lines": lines, "exit": code, "symptom": symptom}


def read_failures(run_dir: str, plan: dict[str, Any], until: float) -> dict[int, dict[str, Any]]:
    """{local rank: failure} of this node's ranks that failed before ``until``."""
    # torchrun prints the root cause last, and one block for every other rank that ended badly.
    blocks = list(FAILED_RANK.finditer(read_text(os.path.join(run_dir, "node.log"))))
    by_rank = {int(block.group("local_rank")): block for block in blocks}
    failures = {}
    for local_rank in range(plan["nproc_per_node"]):
        block = by_rank.get(local_rank)
        root = block is not None and block is blocks[-1]
        failure = read_failure(run_dir, local_rank, block, root)
        if failure and failure["at"] < until:
            failures[local_rank] = failure
    return failures


def first_failure(
    failures: dict[int, dict[str, Any]], plan: dict[str, Any]
) -> dict[str, Any] | None:
    """The earliest failure that no other rank's end explains, or else the earliest; or None."""
    if not failures:
        return None
    local_rank = min(failures, key=lambda k: (failures[k]["symptom"], failures[k]["at"]))
    rank = plan["first_rank"] + local_rank
    return {"rank": rank, "local_rank": local_rank, **failures[local_rank]}


def launcher_failure(run_dir: str, code: int, at: float) -> dict[str, Any]:
    """The failure of torchrun itself (a taken port, a bad option): no rank is to blame."""
    lines = read_lines(os.path.join(run_dir, "node.log"))
    failure = node_failure("torchrun: " + exit_reason(code, lines), at, lines)
    return {**failure, "symptom": is_symptomatic_end(code, failure["reason"], lines)}


def node_failure(reason: str, at: float, lines: list[str]) -> dict[str, Any]:
    """A failure that is no rank's."""
    return {
        "rank": None,
        "local_rank": None,
        "at": at,
        "reason": reason,
        "lines": lines,
        "symptom": is_symptom(reason),
        "exit": 1,
    }


def cause_failure(cause: dict[str, Any]) -> dict[str, Any]:
    """What the supervisor itself found wrong; ``host`` says where, if it was not here."""
    failure = node_failure(cause["reason"], cause["at"], cause.get("lines", []))
    rank = {key: cause.get(key) for key in ("rank", "local_rank")}
    symptom = bool(cause.get("symptom"))
    found = {"host": cause["host"], "symptom": symptom, "kind": cause["kind"]}
    return {**failure, **rank, **found}


def rank_states(
    plan: dict[str, Any], code: int, failures: dict[int, dict[str, Any]], well: str
) -> list[dict[str, Any]]:
    """Every rank of this node with its state; ``exit`` is None where nobody could read it.

    ``well``: the state of ranks that all ended with 0.
    """
    ranks = []
    for local_rank in range(plan["nproc_per_node"]):
        state, rank_code = (well, 0) if code == 0 else (STOPPED, None)
        if local_rank in failures:
            state, rank_code = FAILED, failures[local_rank]["exit"]
        ranks.append(
            {
                "local_rank": local_rank,
                "rank": plan["first_rank"] + local_rank,
                "state": state,
                "exit": None if rank_code is None else shell_code(rank_code),
            }
        )
    return ranks


def blame_until(end: dict[str, Any]) -> float:
    """What fails after the request to stop, or after torchrun's own end, fails because of it.

    A file's time is the last tick of the kernel's clock, up to 10 ms (HZ=100) before its writing:
    https://man7.org/linux/man-pages/man2/clock_getres.2.html (CLOCK_REALTIME_COARSE).
    """
    stopped_at = end["stopped_at"]
    return float(end["torchrun_ended_at"] if stopped_at is None else stopped_at - 0.01)


def own_failure(run_dir: str, plan: dict[str, Any], end: dict[str, Any]) -> dict[str, Any] | None:
    """What went wrong on this node; None if nothing did, or only because it was stopped.

    ``end`` as for node_exit.
    """
    code, stopped_at = end["code"], end["stopped_at"]
    if code == 0:
        return None
    if end.get("error"):
        return node_failure(end["error"], end["torchrun_ended_at"], [])
    until = blame_until(end)
    failure = first_failure(read_failures(run_dir, plan, until), plan)
    if failure is None and stopped_at is None:
        failure = launcher_failure(run_dir, code, until)
    if failure and KILLED.search(failure["reason"]) and end["oom_kills"]:
        failure["reason"] += "; meanwhile the kernel ended %d process(es) here for want of memory"
        failure["reason"] %= end["oom_kills"]
    return failure and with_kernel(failure, end.get("kernel") or [])


def with_kernel(failure: dict[str, Any], said: list[str]) -> dict[str, Any]:
    """The failure with what the kernel said meanwhile: of a GPU that failed in the reason, too.

    A GPU that failed is the cause, however the rank that had it then ended.
    """
    symptom = failure["symptom"] and not gpu_failed(said)
    reason = failure["reason"]
    if xids(said) and not symptom:
        reason += "; meanwhile the GPU's driver said %s" % xids(said)[0]
    lines = [*failure["lines"], *["kernel: " + line for line in said]]
    return {**failure, "reason": reason, "lines": lines, "symptom": symptom}


def silent_failure(cause: dict[str, Any] | None, said: list[str]) -> dict[str, Any] | None:
    """Why others saw a consequence, where no rank of this node could say: its GPU failed."""
    worst = gpu_failed(said)
    if not worst or cause is None or not cause.get("symptom"):
        return None
    reason = "its ranks had not ended, but the GPU's driver said " + worst
    return node_failure(reason, cause["at"], ["kernel: " + line for line in said])


def judge_end(
    failure: dict[str, Any] | None, cause: dict[str, Any] | None, *, own: bool
) -> tuple[str, dict[str, Any] | None]:
    """(state, failure) of a node that did not finish.

    ``cause`` is why the run ends, as the supervisors know it, and ``own`` whether it was found
    here. Where it explains a failure that reads as a consequence, it takes its place.
    """
    if cause and (failure is None or failure["symptom"]):
        if cause["kind"] == "asked":
            return STOPPED, None
        # Of a rank that failed while torchrun lived, and of which nothing is known beside.
        if own and (failure is None or cause["kind"] != "failed"):
            return FAILED, cause_failure(cause)
    return (FAILED if failure else STOPPED), failure


def node_exit(run_dir: str, plan: dict[str, Any], end: dict[str, Any]) -> dict[str, Any]:
    """exit.json: what became of this node.

    ``end`` is what the supervisor saw: ``code`` (torchrun's wait status), ``error`` (why torchrun
    was not even started), ``started_at``, ``torchrun_ended_at``, ``stopped_at`` (None unless the
    supervisor stopped it), ``cause`` and ``own`` (why the run ends: heartbeat.py), ``oom_kills`` of
    the host meanwhile (None: unknown), ``kernel`` (what kernel.py found), ``left`` (pids that
    SIGKILL did not end), ``saved_step`` (None unless a stop had all ranks save, and end).
    """
    code, cause, until = end["code"], end.get("cause"), blame_until(end)
    saved = end.get("saved_step")
    state, failure = FINISHED if saved is None else STOPPED, None
    well = state
    if code != 0:
        failure = own_failure(run_dir, plan, end) or silent_failure(cause, end.get("kernel") or [])
        state, failure = judge_end(failure, cause, own=end.get("own", False))
    failures = {} if code == 0 or end.get("error") else read_failures(run_dir, plan, until)
    shown = ("rank", "local_rank", "at", "reason", "lines", "symptom", "host", "kind")
    return {
        "run": plan["run"],
        "node_rank": plan["node_rank"],
        "state": state,
        "exit": shell_code(code),
        "started_at": end["started_at"],
        "ended_at": time.time(),
        "ranks": rank_states(plan, code, failures, well),
        "first_failure": failure and {key: failure[key] for key in shown if key in failure},
        "stopped_by": None if state == FINISHED or end.get("own") else cause,
        "jit_compiled": read_jit_compiled(run_dir),
        "loss": read_metrics(run_dir)["loss"],
        "left": end["left"],
        "saved_step": saved,
    }
