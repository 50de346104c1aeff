"""torchrun, imported before it is known whether there will be a run, and what it will be.

Importing torch takes seconds, as long as all checks together. So a process of the environment does
that while the checks go on, then waits: told what to run it is torchrun, with the arguments, the
environment, folder and log that a start would have given it. Where nobody tells it, it ends.

Imported by other files of onhost/, and sent along with them. Standard library, Python 3.8, Linux.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from typing import Any

from provision.onhost.processes import PR_SET_PDEATHSIG, prctl

TORCHRUN = ("-m", "torch.distributed.run")
# What torch's import registers for tensors without data, a fourth of its time. torchrun has no
# tensors; its ranks are other processes, which import all of torch. (torch/__init__.py, its end)
SPARED = ("torch._meta_registrations", "torch.distributed._meta_registrations")
# Variables that are read when a program starts or torch is imported: later ones would be too late.
AT_START = re.compile(
    r"(LD_|PYTHON|MALLOC_|GLIBC_|LOGLEVEL$|KMP_|GOMP_|OMP_(?!NUM_THREADS$)|MKL_|PYTORCH_"
    r"|TORCH_(?!ELASTIC_SHUTDOWN_TIMEOUT$|EXTENSIONS_DIR$)|TORCHINDUCTOR_)"
)
# As in launch/nodes.py: what every run sets of these.
ALWAYS = {"PYTHONUNBUFFERED": "1"}

# An eighth more: nothing that an import makes is garbage, and where a traceback's columns are read
# from every file (no_debug_ranges), few are ever shown.
QUICK = ("-X", "no_debug_ranges")
# argv[1]: the file that holds the orders, written before standard input says that they are there.
# Node 0 listens a moment later than the others would dial, and torch tries again after 0.6 s only
# (measured, torch 2.13): so they wait until it does. What keeps them waiting, torchrun reports.
WAITING = """\
# torchrun, imported before its run: its parent tells it what to run
import gc, json, os, socket, sys, time, types
gc.disable()
del sys.path[0]
for name in %r:
    sys.modules[name] = types.ModuleType(name)
try:
    from torch.distributed import run
except BaseException:
    run = None
if not sys.stdin.buffer.readline():
    os._exit(0)
with os.fdopen(int(sys.argv[1])) as file:
    file.seek(0)
    order = json.load(file)
with open("/proc/self/comm", "w") as file:
    file.write("torchrun")
os.chdir(order["cwd"])
os.environ.clear()
os.environ.update(order["environ"])
said = os.pread(1, 1 << 20, 0)
log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
null = os.open(os.devnull, os.O_RDONLY)
for source, target in ((null, 0), (log, 1), (log, 2)):
    os.dup2(source, target)
os.close(log)
os.close(null)
if run is None:
    os.execve(order["argv"][0], order["argv"], order["environ"])
if said:
    os.write(2, said)
until = time.monotonic() + 2
while order["meet"] and time.monotonic() < until:
    try:
        socket.create_connection(order["meet"], 1).close()
        break
    except OSError:
        time.sleep(0.02)
gc.enable()
sys.path.insert(0, order["cwd"])
sys.argv = [run.__file__] + order["argv"][3:]
run.main(sys.argv[1:])
""" % (SPARED,)


def bound_to(parent: int) -> None:
    """What a child does first: it gets SIGTERM should ``parent``, which forked it, die."""
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


def at_start(environ: dict[str, str]) -> dict[str, str]:
    """Those of the variables that count when a program starts."""
    return {name: value for name, value in environ.items() if AT_START.match(name)}


class Ahead:
    """A torchrun that waits. OSError where it can't be started."""

    def __init__(self, python: str, environ: dict[str, str]) -> None:
        self.python, self.environ = python, {**environ, **ALWAYS}
        self.orders, said, parent = os.memfd_create("orders"), os.memfd_create("said"), os.getpid()
        try:
            self.process = subprocess.Popen(
                [python, *QUICK, "-c", WAITING, str(self.orders)],
                env=self.environ,
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                pass_fds=[self.orders],
                start_new_session=True,
                preexec_fn=lambda: bound_to(parent),  # noqa: PLW1509 (one thread only)
            )
        except BaseException:
            os.close(self.orders)
            raise
        finally:
            os.close(said)

    def fits(self, argv: list[str], environ: dict[str, str]) -> bool:
        """Whether it lives, and is what a start of this would be."""
        same = argv[0] == self.python and tuple(argv[1:3]) == TORCHRUN
        return same and at_start(environ) == at_start(self.environ) and self.process.poll() is None

    def go(self, plan: dict[str, Any], environ: dict[str, str], folder: str) -> None:
        """Let it be torchrun, of a run's folder; OSError if it has ended meanwhile."""
        meet = [environ.get("MASTER_ADDR"), int(environ.get("MASTER_PORT", 0))]
        order = {
            "argv": plan["argv"],
            "environ": environ,
            "cwd": os.path.join(folder, "code"),
            "log": os.path.join(folder, "node.log"),
            "meet": meet if plan["node_rank"] and all(meet) else None,
        }
        with os.fdopen(self.orders, "w") as file:
            json.dump(order, file)
        assert self.process.stdin
        with self.process.stdin as pipe:
            pipe.write(b"go\n")

    def end(self) -> None:
        """It is not wanted: it has done nothing, and goes."""
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self.orders)
        if self.process.stdin:
            self.process.stdin.close()
