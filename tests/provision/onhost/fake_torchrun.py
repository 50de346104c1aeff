"""A stand-in for torchrun in the tests of the supervisor: real processes, torchrun's habits.

    fake_torchrun.py RANKS_DIR MODE MODE ...      one mode per local rank

Like torchrun: every rank in a session of its own with its output in RANKS_DIR, SIGTERM passed on
to the ranks' groups, the other ranks ended when one fails, a summary like torchrun's.

It says so when it begins to end ranks, and waits 30 s for them, as torchrun does.

Modes: ok · raise (as torch's @record does) · exit3 · kill (SIGKILL to itself) · hang · deaf
(ignores SIGTERM, and its child does too) · sore (hangs, and fails by raising when it gets SIGTERM)
· stuck (writes its error, and doesn't end) · saver (hangs, and saves when it is asked to pause: it
takes its time, moving bytes) · deafsaver (never looks whether it is asked).
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

RANK = """
import json, os, signal, subprocess, sys, time
folder, mode = sys.argv[1:3]
sys.stderr.write("rank output\\n" * 25 + "mode " + mode + "\\n")
def fail(message):
    sys.stderr.write(message + "\\n")
    extra = {"py_callstack": "", "timestamp": str(int(time.time()))}
    json.dump({"message": {"message": message, "extraInfo": extra}},
              open(os.path.join(folder, "error.json"), "w"))
    sys.exit(1)
if mode == "stuck":
    try:
        fail("ValueError: boom")
    except SystemExit:
        pass
if mode == "raise":
    fail("ValueError: boom")
if mode == "exit3":
    sys.exit(3)
if mode == "kill":
    os.kill(os.getpid(), 9)
if mode == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import signal,time; "
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); "
        "time.sleep(60)"], stdout=subprocess.PIPE, start_new_session=True)
    child.stdout.readline()
    open(os.path.join(folder, "child"), "w").write(str(child.pid))
if mode == "sore":
    signal.signal(signal.SIGTERM, lambda *_: fail("RuntimeError: interrupted while saving"))
if mode in ("saver", "deafsaver"):
    run = os.path.dirname(os.environ["ZEROFLEET_PAUSE_FILE"])
    open(os.path.join(run, "metrics.jsonl"), "w").close()
if mode in ("hang", "deaf", "sore", "stuck", "deafsaver"):
    open(os.path.join(folder, "ready"), "w").close()
    time.sleep(60)
if mode == "saver":
    pause = os.environ["ZEROFLEET_PAUSE_FILE"]
    open(os.path.join(folder, "ready"), "w").close()
    while not os.path.exists(pause):
        time.sleep(0.01)
    open(pause, "w").write("saving step 7\\n")
    until = time.monotonic() + 5
    with open(os.path.join(folder, "shard"), "wb") as file:
        while time.monotonic() < until:
            file.write(bytes(1 << 20))
            file.seek(0)
            time.sleep(0.05)
    open(pause, "w").write("step 7\\n")
"""

SUMMARY = """  time      : {time}
  host      : fake
  rank      : {rank} (local_rank: {rank})
  exitcode  : {exit} (pid: {pid})
"""


def start(folder: Path, mode: str) -> "subprocess.Popen[bytes]":
    folder.mkdir(parents=True)
    environ = {**os.environ, "RANK": str(4 + int(folder.name)), "LOCAL_RANK": folder.name}
    with (folder / "stderr.log").open("w") as stderr:
        argv = [sys.executable, "-c", RANK, str(folder), mode]
        return subprocess.Popen(
            argv, stdout=stderr, stderr=stderr, env=environ, start_new_session=True
        )


def end(ranks: "list[subprocess.Popen[bytes]]", patience: float) -> None:
    for rank in ranks:
        if rank.poll() is None:
            print("W1 1 api.py:1] Sending process %d closing signal SIGTERM" % rank.pid, flush=True)
            os.killpg(rank.pid, signal.SIGTERM)
    for rank in ranks:
        try:
            rank.wait(patience)
        except subprocess.TimeoutExpired:
            os.killpg(rank.pid, signal.SIGKILL)
            rank.wait()


def main() -> int:
    ranks_dir, modes = sys.argv[1], sys.argv[2:]
    print("environ", json.dumps({k: os.environ.get(k) for k in ("RANK", "PET_NNODES", "ASKED")}))
    sys.stdout.flush()
    attempt = Path(ranks_dir) / "none_x" / "attempt_0"
    ranks = [start(attempt / str(i), mode) for i, mode in enumerate(modes)]

    def on_term(number: int, frame: object) -> None:
        end(ranks, 30)
        sys.exit(1)

    signal.signal(signal.SIGTERM, on_term)
    while any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks):
        time.sleep(0.01)
    first = next((i for i, rank in enumerate(ranks) if rank.poll()), None)
    if first is None:
        return 0
    noticed = time.strftime("%Y-%m-%d_%H:%M:%S")
    end(ranks, 30)
    failed = [i for i, rank in enumerate(ranks) if rank.returncode and i != first]
    for i in [*failed, first]:
        when = noticed if i == first else time.strftime("%Y-%m-%d_%H:%M:%S")
        code, pid = ranks[i].returncode, ranks[i].pid
        print(SUMMARY.format(time=when, rank=i, exit=code, pid=pid), end="")
    return 1


if __name__ == "__main__":
    sys.exit(main())
