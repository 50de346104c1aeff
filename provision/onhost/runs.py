"""What runs there are on this host, and how one of them is doing.

    runs.py list [FOLDER]       every run below FOLDER (default ~/.zerofleet/runs), in few words
    runs.py show RUN [FOLDER]   one run, with the processes of its ranks

Standard library only, Python 3.8 or later, Linux. Answers
``{"user": …, "now": …, "runs": […]}``; what can't be known is null. A run's ``state``: state.py.
"""

from __future__ import annotations

import json
import os
import pwd
import sys
import time
from typing import Any

from provision.onhost.command import read_command
from provision.onhost.converse import reply
from provision.onhost.folder import read_json
from provision.onhost.follow import read_pace
from provision.onhost.processes import read_rank
from provision.onhost.state import RUNNING, read_state

PIECE = 1 << 16  # bytes read from each end of metrics.jsonl: hundreds of steps
NVIDIA_SMI_SECONDS = 10  # it can hang on a broken GPU
PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


def read_ends(path: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The events in the first and in the last PIECE of a metrics.jsonl; whole lines only."""
    try:
        with open(path, "rb") as file:
            head = file.read(PIECE)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - PIECE))
            tail = file.read()
    except FileNotFoundError:
        return [], []
    return parse_events(head), parse_events(tail)


def parse_events(data: bytes) -> list[dict[str, Any]]:
    """The JSON objects among the lines; the first or last may be cut, or still be written."""
    found = []
    for line in data.split(b"\n"):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and is_whole(event):
            found.append(event)
    return found


def is_whole(event: dict[str, Any]) -> bool:
    """Whether an event has what is read of it here; a user's own script may write anything."""
    needed = {"begin": ("total_steps",), "step": ("step", "total_steps", "at")}
    numbers = [event.get(key) for key in needed.get(str(event.get("event")), ())]
    maybe = [event[key] for key in ("loss", "tokens") if event.get(key) is not None]
    whole = event.get("event") != "step" or "loss" in event
    return whole and all(isinstance(number, (int, float)) for number in numbers + maybe)


def progress(head: list[dict[str, Any]], tail: list[dict[str, Any]]) -> dict[str, Any]:
    """Where training is, from its events; the rate is that of the last steps."""
    begins = [event for event in head if event.get("event") == "begin"]
    first = [event for event in head if event.get("event") == "step"][:1]
    steps = [event for event in tail if event.get("event") == "step"] or first
    if not steps:
        return {"step": None, "total_steps": begins[0].get("total_steps") if begins else None}
    last, since = steps[-1], steps[0]
    seconds, made = last["at"] - since["at"], last["step"] - since["step"]
    left = per_second = None
    if seconds > 0 and made > 0:
        left = (last["total_steps"] - last["step"]) * seconds / made
        if last.get("tokens") is not None and since.get("tokens") is not None:
            per_second = (last["tokens"] - since["tokens"]) / seconds
    return {
        "step": last["step"],
        "total_steps": last["total_steps"],
        "loss": [first[0]["loss"] if first else None, last["loss"]],
        "step_at": last["at"],
        "tokens_per_second": per_second,
        "seconds_left": left,
    }


def what(argv: list[str], environ: dict[str, str]) -> dict[str, Any]:
    """What a launcher's argv runs: the module or script, its ZeRO configuration, model, output."""
    words = argv[3:] if argv[1:2] == ["-m"] else argv[1:]
    module = words[words.index("-m") + 1] if "-m" in words else None
    script = next((os.path.basename(word) for word in words if word.endswith(".py")), None)

    def flag(name: str) -> str | None:
        return words[words.index(name) + 1] if name in words[:-1] else None

    return {
        "what": module or script,
        "deepspeed": os.path.basename(flag("--deepspeed") or "") or None,
        "model": flag("--model_name_or_path"),
        "output": environ.get("ZEROFLEET_OUTPUT_DIR") or flag("--output_dir"),
    }


def read_standing(run_dir: str) -> dict[str, Any]:
    """How the run stands (state.py), and whether it is being stopped."""
    now = read_state(run_dir)
    try:
        asked: float | None = os.stat(os.path.join(run_dir, "stop")).st_mtime
    except FileNotFoundError:
        asked = None
    running = now["state"] == RUNNING
    stopping = {"stopping": running and asked is not None, "stop_asked_at": asked}
    # Before it stops, it may save: pausing.py.
    saving = running and os.path.exists(os.path.join(run_dir, "pause"))
    return {**now, **stopping, "saving": saving}


def read_run(run_dir: str) -> dict[str, Any] | None:
    """One run in few words; None for a folder that holds none (yet)."""
    try:
        plan = read_json(os.path.join(run_dir, "plan.json"))
        owner = os.stat(run_dir).st_uid
        made = os.stat(os.path.join(run_dir, "plan.json")).st_mtime if plan else 0.0
        state = read_standing(run_dir)
    except (OSError, ValueError):
        return None
    if not isinstance(plan, dict) or "argv" not in plan:
        return None
    record = state.pop("record")
    return {
        **{key: plan.get(key) for key in ("run", "node_rank", "nnodes", "nproc_per_node")},
        **what(plan["argv"], plan.get("environ", {})),
        **state,
        "first_rank": plan["first_rank"],
        "limits": plan.get("limits") or {},
        "asked": plan.get("asked") or {},
        "argv": plan["argv"],
        "run_dir": run_dir,
        "by": user_name(owner),
        "started_at": record["started_at"] if record else made,
        "progress": progress(*read_ends(os.path.join(run_dir, "metrics.jsonl"))),
    }


def user_name(uid: int) -> str:
    """A user's name, or the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


# --- ranks -----------------------------------------------------------------------------------


def read_process(pid: int) -> dict[str, Any] | None:
    """A process: its parent, state letter, CPU seconds and resident bytes; None if it is gone."""
    try:
        with open("/proc/%d/stat" % pid, encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return {
        "pid": pid,
        "parent": int(fields[1]),
        "letter": fields[0],  # proc(5): R S D Z T …
        "cpu_seconds": (int(fields[11]) + int(fields[12])) / TICKS,
        "resident_bytes": int(fields[21]) * PAGE,
    }


def read_gpu_bytes() -> dict[int, int] | None:
    """Bytes of GPU memory by pid; None where the driver does not say."""
    argv = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    said = read_command(argv, NVIDIA_SMI_SECONDS)
    if said is None:
        return None
    used: dict[int, int] = {}
    for line in said.splitlines():
        pid, _, mebibytes = line.partition(",")
        if pid.strip().isdigit() and mebibytes.strip().isdigit():
            used[int(pid)] = used.get(int(pid), 0) + int(mebibytes) * 1024 * 1024
    return used


def read_ranks(run: dict[str, Any], torchrun: int | None) -> list[dict[str, Any]]:
    """The processes of a running run's ranks: the launcher's children that have a LOCAL_RANK."""
    if run["state"] != RUNNING or not torchrun:
        return []
    processes = [read_process(int(name)) for name in os.listdir("/proc") if name.isdigit()]
    gpu, ranks = read_gpu_bytes(), []
    for process in processes:
        if process is None or process.pop("parent") != torchrun:
            continue
        local_rank = read_rank(process["pid"]).get("local_rank")
        if local_rank is not None:
            rank = {"rank": run["first_rank"] + local_rank, "local_rank": local_rank}
            used = None if gpu is None else gpu.get(process["pid"])
            ranks.append({**rank, **process, "gpu_bytes": used})
    return sorted(ranks, key=lambda rank: int(rank["rank"]))


def read_shown(run_dir: str) -> dict[str, Any] | None:
    """One run, with its ranks."""
    run = read_run(run_dir)
    if run is None:
        return None
    record = read_json(os.path.join(run_dir, "record.json"))
    torchrun = record.get("torchrun") if record else None
    processes = read_ranks(run, torchrun and torchrun["pid"])
    return {**run, "processes": processes, "pace": read_pace(run_dir)}


def read_list(folder: str) -> list[dict[str, Any]]:
    """Every run below a folder, by name."""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    runs = (read_run(os.path.join(folder, name)) for name in names)
    return [run for run in runs if run]


def main(arguments: list[str]) -> int:
    """The exit code; 2 for bad usage."""
    command, rest = arguments[:1], arguments[1:]
    if command == ["list"] and len(rest) <= 1:
        runs = read_list(os.path.expanduser((rest or ["~/.zerofleet/runs"])[0]))
    elif command == ["show"] and len(rest) in (1, 2):
        folder = os.path.expanduser((rest[1:] or ["~/.zerofleet/runs"])[0])
        shown = read_shown(os.path.join(folder, os.path.basename(rest[0])))
        runs = [shown] if shown else []
    else:
        sys.stderr.write("usage: runs.py list [FOLDER] | show RUN [FOLDER]\n")
        return 2
    reply({"user": user_name(os.getuid()), "now": time.time(), "runs": runs})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
