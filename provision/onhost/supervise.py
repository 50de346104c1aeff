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
written last, ``exit.json``. Exit codes are a shell's: a process ended by signal n has 128 + n.

How processes are ended, here: by pid and never by name, and only direct children of this
process, whose pids can't be reused before it reaps them. torchrun gives every rank a session of
its own (``start_new_session`` in torch's SubprocessHandler), so ranks outlive a torchrun that was
killed; this process is therefore their subreaper (prctl(2)): orphans become its direct children,
whatever session they are in, and are ended one generation after another.
"""

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

POLL = 0.2  # seconds. Nobody notices a stop 0.2 s late; five stat() a second cost nothing
GRACE = 15.0  # seconds between SIGTERM and SIGKILL, when plan.json does not say
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
EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Interrupt|Warning|Exit)\b.*")


# --- reading ---------------------------------------------------------------------------------


def read_json(path):
    """The JSON in a file, or None when there is no file yet."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return None


def read_text(path):
    """The last TAIL bytes of a text file; empty when there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def read_lines(path):
    """The last LINES lines that say anything."""
    return [line for line in read_text(path).splitlines() if line.strip()][-LINES:]


def read_boot_id():
    """The kernel's id of this boot: pids and start times mean nothing after another."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def read_stat(pid):
    """(state, ppid, pgid, start time in clock ticks since boot) of a process, or None: proc(5)."""
    try:
        with open("/proc/%d/stat" % pid, encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[1]), int(fields[2]), int(fields[19])


def read_identity(pid):
    """What names a process for ever: pid and start time (and the boot, see the record)."""
    stat = read_stat(pid)
    return stat and {"pid": pid, "pgid": stat[2], "start_time": stat[3]}


def is_alive(identity, boot_id):
    """Whether the very process that a record names still runs."""
    if not identity or boot_id != read_boot_id():
        return False
    stat = read_stat(identity["pid"])
    return stat is not None and stat[0] not in "ZX" and stat[3] == identity["start_time"]


def read_children():
    """Pids of this process's direct children, adopted ones included."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    stats = ((pid, read_stat(pid)) for pid in pids)
    return [pid for pid, stat in stats if stat and stat[1] == os.getpid()]


def read_metrics(run_dir):
    """{"step": last, "loss": [first, last] or None} from metrics.jsonl; half a line is skipped."""
    step, losses = None, []
    with contextlib.suppress(FileNotFoundError):
        with open(os.path.join(run_dir, "metrics.jsonl"), encoding="utf-8", errors="replace") as f:
            for line in f:
                with contextlib.suppress(ValueError, AttributeError):
                    metric = json.loads(line)
                    step = metric.get("step", step)
                    if isinstance(metric.get("loss"), (int, float)):
                        losses = [losses[0] if losses else metric["loss"], metric["loss"]]
    return {"step": step, "loss": losses or None}


def read_jit_compiled(run_dir):
    """Extensions compiled during the run; torch adds a py* folder when it names the root itself."""
    root = os.path.join(run_dir, "torch_extensions")
    found = glob.glob(os.path.join(root, "*", "")) + glob.glob(os.path.join(root, "py*", "*", ""))
    names = (os.path.basename(path.rstrip("/")) for path in found)
    return sorted({name for name in names if not re.match(r"py\d", name)})


def read_oom_kills():
    """How often this host's kernel has ended a process for want of memory, since boot."""
    match = re.search(r"^oom_kill (\d+)$", read_text("/proc/vmstat"), re.MULTILINE)
    return int(match.group(1)) if match else None


# --- how the run ended -----------------------------------------------------------------------


def shell_code(code):
    """A wait status as a shell says it: 128 + n for signal n."""
    return 128 - code if code < 0 else code


def exit_reason(code, lines):
    """Why a rank without an error file ended: its signal, or its last exception line."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return "killed by signal %d (%s)" % (-code, signal.Signals(-code).name)
        return "killed by signal %d" % -code
    raised = [line for line in lines if EXCEPTION.match(line)]
    return "exit code %d%s" % (code, ": " + raised[-1] if raised else "")


def read_error_file(folder):
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


def read_failures(run_dir, plan):
    """{local rank: failure} of this node's ranks that failed, from error files and the summary.

    A rank that torchrun itself ended with SIGTERM, after another failed, did not fail.
    """
    failures = {}
    blocks = list(FAILED_RANK.finditer(read_text(os.path.join(run_dir, "node.log"))))
    for local_rank in range(plan["nproc_per_node"]):
        folders = glob.glob(os.path.join(run_dir, "ranks", "*", "attempt_*", str(local_rank)))
        folder = max(folders, key=os.path.getmtime) if folders else ""
        lines = read_lines(os.path.join(folder, "stderr.log")) if folder else []
        error = read_error_file(folder) if folder else None
        # torchrun prints the root cause last.
        block = next((b for b in blocks if int(b.group("local_rank")) == local_rank), None)
        code = int(block.group("exit")) if block else None
        if error:
            at, reason = error
        elif block and not (code == -signal.SIGTERM and block is not blocks[-1]):
            at = time.mktime(time.strptime(block.group("time"), "%Y-%m-%d_%H:%M:%S"))
            reason = exit_reason(code, lines)
        else:
            continue
        evidence = [reason] if error else [reason] + lines
        failures[local_rank] = {
            "rank": plan["first_rank"] + local_rank,
            "local_rank": local_rank,
            "at": at,
            "reason": reason,
            "lines": lines,
            "exit": code,
            "symptom": any(SYMPTOM.search(text) for text in evidence),
        }
    return failures


def launcher_failure(run_dir, code):
    """The failure of torchrun itself (a taken port, a bad option): no rank is to blame."""
    lines = read_lines(os.path.join(run_dir, "node.log"))
    return {
        "rank": None,
        "local_rank": None,
        "at": time.time(),
        "reason": "torchrun: " + exit_reason(code, lines),
        "lines": lines,
    }


def first_failure(failures, oom_kills):
    """The earliest failure that no other rank's end explains, or the earliest of all; or None."""
    if not failures:
        return None
    chosen = dict(min(failures.values(), key=lambda f: (f["symptom"], f["at"])))
    if chosen.pop("exit") == -signal.SIGKILL and oom_kills:
        chosen["reason"] += "; the kernel ended %d process(es) for want of memory" % oom_kills
    del chosen["symptom"]
    return chosen


def node_exit(run_dir, plan, code, started_at, stopped_at, oom_kills):
    """exit.json: what became of this node, for the controller and for people."""
    failures = {} if code == 0 else read_failures(run_dir, plan)
    # What fails after the request to stop fails because of it.
    before = {k: f for k, f in failures.items() if stopped_at is None or f["at"] < stopped_at}
    failure = first_failure(before, oom_kills)
    if code == 0:
        state = "finished"
    elif stopped_at is not None and failure is None:
        state = "stopped"
    else:
        state = "failed"
        failure = failure or launcher_failure(run_dir, code)
    ranks = []
    for local_rank in range(plan["nproc_per_node"]):
        failed = before.get(local_rank)
        exit_code = 0 if code == 0 else failed and failed["exit"]
        ranks.append(
            {
                "local_rank": local_rank,
                "rank": plan["first_rank"] + local_rank,
                "state": "finished" if code == 0 else "failed" if failed else "stopped",
                "exit": None if exit_code is None else shell_code(exit_code),
            }
        )
    return {
        "run": plan["run"],
        "node_rank": plan["node_rank"],
        "state": state,
        "exit": shell_code(code),
        "started_at": started_at,
        "ended_at": time.time(),
        "ranks": ranks,
        "first_failure": failure,
        "jit_compiled": read_jit_compiled(run_dir),
        "loss": read_metrics(run_dir)["loss"],
    }


def node_state(run_dir):
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


def write_json(path, value):
    """Write a file that is either complete or absent."""
    part = path + ".part"
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def prctl(option, value):
    """prctl(2); OSError where the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(%d)" % option)


def node_environ(plan):
    """The environment of torchrun: this one without foreign variables, then the plan's."""
    environ = {k: v for k, v in os.environ.items() if not FOREIGN.match(k)}
    # Tools of the environment, ninja for one, stand beside its python.
    tools = os.path.dirname(plan["argv"][0])
    environ["PATH"] = os.pathsep.join(filter(None, [tools, environ.get("PATH", os.defpath)]))
    return {**environ, **plan["environ"]}


def spawn_torchrun(run_dir, plan):
    """Start torchrun in its own session; it gets SIGTERM should this process die."""
    supervisor = os.getpid()

    def bind():
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != supervisor:
            os._exit(1)

    log = os.open(
        os.path.join(run_dir, "node.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644
    )
    try:
        return subprocess.Popen(
            plan["argv"],
            cwd=os.path.join(run_dir, "code"),
            env=node_environ(plan),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=bind,
        )
    finally:
        os.close(log)


class Asked:
    """Whether a stop was asked for: by the stop file, or by a signal to this process."""

    def __init__(self, run_dir):
        self.stop_file = os.path.join(run_dir, "stop")
        self.signalled = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self.on_signal)

    def on_signal(self, number, frame):
        self.signalled = True

    def __bool__(self):
        return self.signalled or os.path.exists(self.stop_file)


def watch(torchrun, asked, grace):
    """Wait for torchrun's end; (wait status, time of the request to stop or None)."""
    stopped_at = deadline = None
    while torchrun.poll() is None:
        if stopped_at is None and asked:
            stopped_at, deadline = time.time(), time.monotonic() + grace
            os.killpg(torchrun.pid, signal.SIGTERM)
        elif deadline is not None and time.monotonic() > deadline:
            # The group is torchrun's alone: its ranks are ended by end_children.
            os.killpg(torchrun.pid, signal.SIGKILL)
            deadline = None
        time.sleep(POLL)
    return torchrun.returncode, stopped_at


def end_children(grace):
    """End every process that is left of the run, orphans of any depth; reap them all.

    SIGTERM first, and SIGKILL for what is left after ``grace`` seconds.
    """
    deadline, asked = time.monotonic() + grace, set()
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        children = read_children()
        if not children:
            return
        late = time.monotonic() > deadline
        for pid in children:
            if late or pid not in asked:
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        asked = set(children)
        time.sleep(POLL / 4)


def supervise(run_dir, started):
    """One node of a run from start to end; ``started(record)`` is called once it is known."""
    plan = read_json(os.path.join(run_dir, "plan.json"))
    grace = float(plan.get("limits", {}).get("grace", GRACE))
    asked = Asked(run_dir)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    started_at, oom_before = time.time(), read_oom_kills()
    record = {
        "run": plan["run"],
        "node_rank": plan["node_rank"],
        "started_at": started_at,
        "boot_id": read_boot_id(),
        "supervisor": read_identity(os.getpid()),
        "torchrun": None,
    }
    write_json(os.path.join(run_dir, "record.json"), record)
    try:
        torchrun = spawn_torchrun(run_dir, plan)
    except (OSError, subprocess.SubprocessError) as error:
        with open(os.path.join(run_dir, "node.log"), "a", encoding="utf-8") as log:
            log.write("%s: %s\n" % (type(error).__name__, error))
        ended = node_exit(run_dir, plan, 127, started_at, None, None)
        write_json(os.path.join(run_dir, "exit.json"), ended)
        started(record)
        return ended
    record["torchrun"] = read_identity(torchrun.pid)
    write_json(os.path.join(run_dir, "record.json"), record)
    started(record)
    code, stopped_at = watch(torchrun, asked, grace)
    end_children(grace)
    oom_after = read_oom_kills()
    oom_kills = oom_after - oom_before if None not in (oom_before, oom_after) else None
    ended = node_exit(run_dir, plan, code, started_at, stopped_at, oom_kills)
    write_json(os.path.join(run_dir, "exit.json"), ended)
    return ended


# --- commands --------------------------------------------------------------------------------


def say(value):
    """The answer, findable in whatever else a login shell prints."""
    sys.stdout.write("ZEROFLEET<<%s>>ZEROFLEET\n" % json.dumps(value))
    sys.stdout.flush()


def claim(run_dir):
    """Take a run folder for this supervisor: the log it will write, or None when it is taken."""
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND
        return os.open(os.path.join(run_dir, "supervisor.log"), flags, 0o600)
    except FileExistsError:
        return None


def refuse(run_dir):
    """Say why a run can't be started here (again)."""
    state = node_state(run_dir)
    why = {
        "running": "this run is already running on this host",
        "absent": "a supervisor is starting this run, or died before it wrote its record",
        "lost": "this run's supervisor died; a run folder is used once: start a new run",
    }.get(state["state"], "this run has ended (%s): start a new run" % state["state"])
    say({**state, "error": why})
    return 1


def daemonise(log):
    """Leave the SSH session and its process group; False in the process that stays behind."""
    if os.fork():
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    return True


def start(run_dir):
    """Start a daemon that supervises the run; wait until torchrun has a pid or could not start."""
    log = claim(run_dir)
    if log is None:
        return refuse(run_dir)
    answer, tell = os.pipe()
    sys.stdout.flush()
    if daemonise(log):
        status = 1
        try:
            os.close(answer)
            os.setpgid(0, 0)  # its own group: a signal to it reaches nothing else
            supervise(run_dir, lambda record: os.close(tell))
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(tell)
    os.read(answer, 1)  # ends when the daemon closes its end, or dies
    state = node_state(run_dir)
    started = bool(state["record"] and state["record"]["torchrun"])
    if not started:
        state["error"] = " | ".join(read_lines(os.path.join(run_dir, "supervisor.log"))) or (
            state["exit"]["first_failure"]["reason"] if state["exit"] else "the supervisor died"
        )
    say(state)
    return 0 if started else 1


def run(run_dir):
    """Supervise in the foreground."""
    log = claim(run_dir)
    if log is None:
        return refuse(run_dir)
    os.close(log)
    ended = supervise(run_dir, lambda record: None)
    say(node_state(run_dir))
    return 0 if ended["state"] == "finished" else 1


def stop(run_dir):
    """Ask for a graceful stop. Should only the supervisor be dead, ask its torchrun directly."""
    os.close(os.open(os.path.join(run_dir, "stop"), os.O_WRONLY | os.O_CREAT, 0o600))
    state = node_state(run_dir)
    if state["state"] == "lost" and is_alive(state["record"]["torchrun"], read_boot_id()):
        os.kill(state["record"]["torchrun"]["pid"], signal.SIGTERM)
    say(state)
    return 0


def state(run_dir):
    """Say the state."""
    say(node_state(run_dir))
    return 0


COMMANDS = {"start": start, "run": run, "stop": stop, "state": state}


def main(arguments):
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
