"""Supervise one node of a run: start torchrun, stop it when asked, say how it ended.

    supervise.py start RUN_DIR   become a daemon; one record line once torchrun has a pid
    supervise.py run   RUN_DIR   the same in the foreground, until the run ends
    supervise.py stop  RUN_DIR   ask for a graceful stop, and say the state
    supervise.py state RUN_DIR   say the state

Standard library only, Python >= 3.8, Linux, one self-contained file: it is sent to hosts as it is.
The answer is one line ``ZEROFLEET<<{json}>>ZEROFLEET`` on stdout, found between whatever a login
shell prints. ``start`` and ``run`` exit 0 once torchrun was started, 1 when it was not.

RUN_DIR holds ``plan.json`` before, and after: ``supervisor.log`` (its creation claims the folder:
a run folder is used once), ``record.json``, ``node.log``, ``ranks/``, ``stop`` (ask to stop) and,
written last, ``exit.json``. Exit codes are a shell's: a process ended by signal n has 128 + n,
a torchrun that could not be started 127.

How processes are ended, here: by pid and never by name, and only direct children of this
process, whose pids can't be reused before it reaps them. torchrun gives every rank a session of
its own (``start_new_session`` in torch's SubprocessHandler), so ranks outlive a torchrun that was
killed; this process is therefore their subreaper (prctl(2)): orphans become its direct children,
whatever session they are in, and are ended one generation after another.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from typing import Any, Callable

POLL = 0.2  # seconds. Nobody notices a stop 0.2 s late; five stat() a second cost nothing
GRACE = 15.0  # seconds between SIGTERM and SIGKILL, when plan.json does not say
GIVE_UP = 10.0  # seconds after SIGKILL
CANNOT_START = 127  # a shell's code for a command that is not there
LINES = 20  # of a failed rank's stderr, kept in exit.json
TAIL = 1 << 16  # bytes read from the end of a log
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h

# What another launcher, or an outer run, may have left in the environment. PET_* silently become
# torchrun's options (torch/distributed/argparse_util.py); PYTHON* puts other code before ours.
FOREIGN = re.compile(
    r"(RANK|LOCAL_RANK|NODE_RANK|GROUP_RANK|ROLE_.*|(LOCAL_|GROUP_)?WORLD_SIZE|NNODES"
    r"|NPROC_PER_NODE|MASTER_(ADDR|PORT)|TORCHELASTIC_.*|PET_.*|PYTHON(PATH|HOME)|SSH_.*)$"
)
# How a rank's end reads when another rank's end caused it (torch's gloo and NCCL messages).
SYMPTOM = re.compile(
    r"Connection (closed|reset) by peer|Broken pipe|Timed out waiting|SIGTERM"
    r"|remote server shutdown or crash"
    r"|Watchdog caught collective operation timeout|ncclRemoteError|remote process exited",
    re.IGNORECASE,
)
# One failed rank in the summary that torchrun prints (torch's errors/__init__.py).
FAILED_RANK = re.compile(
    r"^  time      : (?P<time>\S+)\n  host      : .*\n"
    r"  rank      : (?P<rank>\d+) \(local_rank: (?P<local_rank>\d+)\)\n"
    r"  exitcode  : (?P<exit>-?\d+) ",
    re.MULTILINE,
)
EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b.*")


# --- reading ---------------------------------------------------------------------------------


def read_json(path: str) -> Any:
    """The JSON in a file, or None when there is no file yet."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return None


def read_text(path: str) -> str:
    """The last TAIL bytes of a text file; empty when there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def read_lines(path: str) -> list[str]:
    """The last LINES lines that say anything."""
    return [line for line in read_text(path).splitlines() if line.strip()][-LINES:]


def read_boot_id() -> str:
    """The kernel's id of this boot: pids and start times mean nothing after another."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def read_stat(pid: int) -> tuple[str, int, int, int] | None:
    """(state, ppid, pgid, start time in clock ticks since boot) of a process, or None: proc(5)."""
    try:
        with open("/proc/%d/stat" % pid, encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[1]), int(fields[2]), int(fields[19])


def read_identity(pid: int) -> dict[str, int] | None:
    """What names a process for ever: pid and start time (and the boot, see the record)."""
    stat = read_stat(pid)
    return stat and {"pid": pid, "pgid": stat[2], "start_time": stat[3]}


def is_alive(identity: dict[str, int] | None, boot_id: str) -> bool:
    """Whether the very process that a record names still runs."""
    if not identity or boot_id != read_boot_id():
        return False
    stat = read_stat(identity["pid"])
    return stat is not None and stat[0] not in "ZX" and stat[3] == identity["start_time"]


def read_children() -> list[int]:
    """Pids of this process's direct children, adopted ones included."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    stats = ((pid, read_stat(pid)) for pid in pids)
    own = os.getpid()
    return [pid for pid, stat in stats if stat and stat[1] == own]


def read_metrics(run_dir: str) -> dict[str, Any]:
    """{"step": last, "loss": [first, last] or None} from metrics.jsonl; half a line is skipped."""
    step, loss = None, None
    path = os.path.join(run_dir, "metrics.jsonl")
    if not os.path.exists(path):
        return {"step": step, "loss": loss}
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            with contextlib.suppress(ValueError, AttributeError, KeyError):
                metric = json.loads(line)
                if metric.get("event") != "step":
                    continue  # an evaluation's loss is another loss
                step = metric["step"]
                if metric["loss"] is not None:  # the trainer's way to write NaN
                    loss = [loss[0] if loss else metric["loss"], metric["loss"]]
    return {"step": step, "loss": loss}


def read_jit_compiled(run_dir: str) -> list[str]:
    """Extensions compiled during the run; torch adds a py* folder when it names the root itself."""
    root = os.path.join(run_dir, "torch_extensions")
    found = glob.glob(os.path.join(root, "*", "")) + glob.glob(os.path.join(root, "py*", "*", ""))
    names = (os.path.basename(path.rstrip("/")) for path in found)
    return sorted({name for name in names if not re.match(r"py\d", name)})


def read_oom_kills() -> int | None:
    """How often this host's kernel has ended a process for want of memory, since boot."""
    match = re.search(r"^oom_kill (\d+)$", read_text("/proc/vmstat"), re.MULTILINE)
    return int(match.group(1)) if match else None


# --- how the run ended -----------------------------------------------------------------------


def shell_code(code: int) -> int:
    """A wait status as a shell says it: 128 + n for signal n."""
    return 128 - code if code < 0 else code


def exit_reason(code: int, lines: list[str]) -> str:
    """Why a rank without an error file ended: its signal, or its last exception line."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return "killed by signal %d (%s)" % (-code, signal.Signals(-code).name)
        return "killed by signal %d" % -code
    raised = [line for line in lines if EXCEPTION.match(line)]
    return "exit code %d%s" % (code, ": " + raised[-1] if raised else "")


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
        reason = exit_reason(code, lines)
    else:
        return None
    evidence = [reason] if error else [reason, *lines]
    symptom = any(SYMPTOM.search(text) for text in evidence)
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
    reason = "torchrun: " + exit_reason(code, lines)
    return {
        "rank": None,
        "local_rank": None,
        "at": at,
        "reason": reason,
        "lines": lines,
        "symptom": bool(SYMPTOM.search(reason)),
        "exit": code,
    }


def rank_states(
    plan: dict[str, Any], code: int, failures: dict[int, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Every rank of this node with its state; ``exit`` is None where nobody could read it."""
    ranks = []
    for local_rank in range(plan["nproc_per_node"]):
        state, rank_code = ("finished", 0) if code == 0 else ("stopped", None)
        if local_rank in failures:
            state, rank_code = "failed", failures[local_rank]["exit"]
        ranks.append(
            {
                "local_rank": local_rank,
                "rank": plan["first_rank"] + local_rank,
                "state": state,
                "exit": None if rank_code is None else shell_code(rank_code),
            }
        )
    return ranks


def node_exit(run_dir: str, plan: dict[str, Any], end: dict[str, Any]) -> dict[str, Any]:
    """exit.json: what became of this node.

    ``end`` is what the supervisor saw: ``code`` (torchrun's wait status), ``started_at``,
    ``torchrun_ended_at``, ``stopped_at`` (None unless asked to stop), ``oom_kills`` of the host
    meanwhile (None: unknown), ``left`` (pids that SIGKILL did not end).
    """
    code, stopped_at = end["code"], end["stopped_at"]
    # What fails after the request to stop, or after torchrun's own end, fails because of it.
    until = end["torchrun_ended_at"] if stopped_at is None else stopped_at
    failures = {} if code == 0 else read_failures(run_dir, plan, until)
    failure = first_failure(failures, plan)
    state = "finished" if code == 0 else "failed"
    if code != 0 and failure is None:
        if stopped_at is None:
            failure = launcher_failure(run_dir, code, until)
        else:
            state = "stopped"
    if failure and failure["exit"] == -signal.SIGKILL and end["oom_kills"]:
        failure["reason"] += "; meanwhile the kernel ended %d process(es) here for want of memory"
        failure["reason"] %= end["oom_kills"]
    shown = ("rank", "local_rank", "at", "reason", "lines", "symptom")
    return {
        "run": plan["run"],
        "node_rank": plan["node_rank"],
        "state": state,
        "exit": shell_code(code),
        "started_at": end["started_at"],
        "ended_at": time.time(),
        "ranks": rank_states(plan, code, failures),
        "first_failure": failure and {key: failure[key] for key in shown},
        "jit_compiled": read_jit_compiled(run_dir),
        "loss": read_metrics(run_dir)["loss"],
        "left": end["left"],
    }


def node_state(run_dir: str) -> dict[str, Any]:
    """The state of a run folder, from its files and the processes that its record names."""
    record = read_json(os.path.join(run_dir, "record.json"))
    # The record first, then the process, then exit.json: a run that ends in between is ended.
    alive = bool(record) and is_alive(record["supervisor"], record["boot_id"])
    ended = read_json(os.path.join(run_dir, "exit.json"))
    if ended:
        state = ended["state"]
    elif alive:
        state = "running"
    else:
        state = "lost" if record else "absent"
    metrics = read_metrics(run_dir)
    return {
        "state": state,
        "stopping": state == "running" and os.path.exists(os.path.join(run_dir, "stop")),
        "record": record,
        "exit": ended,
        "step": metrics["step"],
        "loss": metrics["loss"],
        "jit_compiled": read_jit_compiled(run_dir),
    }


# --- acting ----------------------------------------------------------------------------------


def write_json(path: str, value: Any) -> None:
    """Write a file that is either complete or absent."""
    part = path + ".part"
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process; OSError where the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(%d)" % option)


def node_environ(plan: dict[str, Any]) -> dict[str, str]:
    """The environment of torchrun: this one without foreign variables, then the plan's."""
    environ = {k: v for k, v in os.environ.items() if not FOREIGN.match(k)}
    # Tools of the environment, ninja for one, stand beside its python.
    tools = os.path.dirname(plan["argv"][0])
    environ["PATH"] = os.pathsep.join(filter(None, [tools, environ.get("PATH", os.defpath)]))
    return {**environ, **plan["environ"]}


def spawn_torchrun(run_dir: str, plan: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start torchrun in its own session; it gets SIGTERM should this process die."""
    supervisor = os.getpid()

    def bind() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != supervisor:
            os._exit(1)

    log = os.open(os.path.join(run_dir, "node.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        return subprocess.Popen(
            plan["argv"],
            cwd=os.path.join(run_dir, "code"),
            env=node_environ(plan),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=bind,  # noqa: PLW1509 (one thread only)
        )
    finally:
        os.close(log)


def listen(run_dir: str) -> Callable[[], bool]:
    """Tells, when called, whether a stop was asked for: by the stop file or by a signal."""
    stop_file, signals = os.path.join(run_dir, "stop"), []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: signals.append(number))
    return lambda: bool(signals) or os.path.exists(stop_file)


def watch(
    torchrun: subprocess.Popen[bytes], asked: Callable[[], bool], grace: float
) -> tuple[int, float | None]:
    """Wait for torchrun's end; (wait status, time of the request to stop or None)."""
    stopped_at = deadline = None
    while torchrun.poll() is None:
        if stopped_at is None and asked():
            stopped_at, deadline = time.time(), time.monotonic() + grace
            os.killpg(torchrun.pid, signal.SIGTERM)
        elif deadline is not None and time.monotonic() > deadline:
            # The group is torchrun's alone: its ranks are ended by end_children.
            os.killpg(torchrun.pid, signal.SIGKILL)
            deadline = None
        time.sleep(POLL)
    return torchrun.returncode, stopped_at


def end_children(grace: float) -> list[int]:
    """End every process that is left of the run, orphans of any depth; reap them all.

    SIGTERM first; SIGKILL for what is left after ``grace`` seconds. A process that not even
    SIGKILL ends within GIVE_UP more (stuck in a driver or on a dead file system, or no longer
    ours to signal) is left, and its pid returned, so that exit.json is written all the same.
    """
    deadline, asked = time.monotonic() + grace, set()
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        children = read_children()
        if not children or time.monotonic() > deadline + GIVE_UP:
            return children
        late = time.monotonic() > deadline
        for pid in children:
            if late or pid not in asked:
                with contextlib.suppress(PermissionError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        asked = set(children)
        time.sleep(POLL / 4)


def begin(run_dir: str, plan: dict[str, Any]) -> subprocess.Popen[bytes] | None:
    """Start torchrun and write the record; None, and why in node.log, when it can't be started."""
    record = {
        "run": plan["run"],
        "node_rank": plan["node_rank"],
        "started_at": time.time(),
        "boot_id": read_boot_id(),
        "supervisor": read_identity(os.getpid()),
        "torchrun": None,
    }
    path = os.path.join(run_dir, "record.json")
    write_json(path, record)
    try:
        torchrun = spawn_torchrun(run_dir, plan)
    except (OSError, subprocess.SubprocessError) as error:
        with open(os.path.join(run_dir, "node.log"), "a", encoding="utf-8") as log:
            log.write("%s: %s\n" % (type(error).__name__, error))
        return None
    write_json(path, {**record, "torchrun": read_identity(torchrun.pid)})
    return torchrun


def supervise(run_dir: str, begun: Callable[[], None]) -> dict[str, Any]:
    """One node of a run from start to end: its exit.json.

    ``begun()`` is called once torchrun has a pid, or exit.json says why it has none.
    """
    plan = read_json(os.path.join(run_dir, "plan.json"))
    grace = float(plan.get("limits", {}).get("grace", GRACE))
    asked = listen(run_dir)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    end: dict[str, Any] = {"started_at": time.time(), "stopped_at": None, "code": CANNOT_START}
    oom_before = read_oom_kills()
    torchrun = begin(run_dir, plan)
    if torchrun:
        begun()
        end["code"], end["stopped_at"] = watch(torchrun, asked, grace)
    end["torchrun_ended_at"] = time.time()
    end["left"] = end_children(grace)
    oom_after = read_oom_kills()
    end["oom_kills"] = None
    if oom_before is not None and oom_after is not None:
        end["oom_kills"] = oom_after - oom_before
    ended = node_exit(run_dir, plan, end)
    write_json(os.path.join(run_dir, "exit.json"), ended)
    if not torchrun:
        begun()
    return ended


# --- commands --------------------------------------------------------------------------------


def say(value: dict[str, Any]) -> None:
    """The answer, findable in whatever else a login shell prints; an error also for people."""
    if "error" in value:
        sys.stderr.write("%s\n" % value["error"])
    sys.stdout.write("ZEROFLEET<<%s>>ZEROFLEET\n" % json.dumps(value))
    sys.stdout.flush()


def claim(run_dir: str) -> int | None:
    """Take a run folder for this supervisor: the log it will write, or None when it is taken."""
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND
        return os.open(os.path.join(run_dir, "supervisor.log"), flags, 0o600)
    except FileExistsError:
        return None


def refuse(run_dir: str) -> int:
    """Say why a run can't be started here (again)."""
    now = node_state(run_dir)
    why = {
        "running": "this run is already running on this host",
        "absent": "a supervisor is starting this run, or died before it wrote its record",
        "lost": "this run's supervisor died; a run folder is used once: start a new run",
    }.get(now["state"], "this run has ended (%s): start a new run" % now["state"])
    say({**now, "error": why})
    return 1


def daemonise(log: int, tell: int) -> bool:
    """Leave the SSH session for good; False in the process that stays behind.

    The daemon keeps the log as its output and ``tell``, and nothing else that was open: a pipe
    kept by accident would keep the SSH command from ending.
    """
    if os.fork():
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    os.setpgid(0, 0)  # a group of its own: a signal to it reaches nothing else
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != tell:
            with contextlib.suppress(OSError):  # the listing's own, closed by now
                os.close(int(name))
    return True


def supervise_detached(run_dir: str, tell: int) -> None:
    """The daemon's whole life; never returns. Closing ``tell`` lets ``start`` answer."""
    status = 1
    try:
        supervise(run_dir, lambda: os.close(tell))
        status = 0
    except BaseException:  # noqa: BLE001 (nothing may get past os._exit; the log has it)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def start(run_dir: str) -> int:
    """Start a daemon that supervises the run; wait until torchrun has a pid or could not start."""
    log = claim(run_dir)
    if log is None:
        return refuse(run_dir)
    answer, tell = os.pipe()
    sys.stdout.flush()
    if daemonise(log, tell):
        supervise_detached(run_dir, tell)
    os.close(tell)
    os.read(answer, 1)  # returns when the daemon closes its end, or dies
    now = node_state(run_dir)
    started = bool(now["record"] and now["record"]["torchrun"])
    if not started and now["exit"]:
        now["error"] = now["exit"]["first_failure"]["reason"]
    elif not started:
        log_lines = read_lines(os.path.join(run_dir, "supervisor.log"))
        now["error"] = log_lines[-1] if log_lines else "the supervisor died without a word"
    say(now)
    return 0 if started else 1


def run(run_dir: str) -> int:
    """Supervise in the foreground."""
    log = claim(run_dir)
    if log is None:
        return refuse(run_dir)
    os.close(log)
    ended = supervise(run_dir, lambda: None)
    say(node_state(run_dir))
    return 0 if ended["state"] == "finished" else 1


def stop(run_dir: str) -> int:
    """Ask for a graceful stop; ask torchrun itself should only its supervisor be dead."""
    os.close(os.open(os.path.join(run_dir, "stop"), os.O_WRONLY | os.O_CREAT, 0o600))
    now = node_state(run_dir)
    record = now["record"]
    if now["state"] == "lost" and is_alive(record["torchrun"], record["boot_id"]):
        os.kill(record["torchrun"]["pid"], signal.SIGTERM)
    say(now)
    return 0


def state(run_dir: str) -> int:
    """Say the state."""
    say(node_state(run_dir))
    return 0


COMMANDS = {"start": start, "run": run, "stop": stop, "state": state}


def main(arguments: list[str]) -> int:
    """The exit code; 2 for bad usage."""
    if len(arguments) != 2 or arguments[0] not in COMMANDS:
        sys.stderr.write("usage: supervise.py start|run|stop|state RUN_DIR\n")
        return 2
    run_dir = os.path.abspath(os.path.expanduser(arguments[1]))
    if not os.path.isdir(run_dir):
        say({"state": "absent", "error": "no such run folder: %s" % run_dir})
        return 1
    return COMMANDS[arguments[0]](run_dir)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
