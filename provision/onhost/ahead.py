"""torchrun, imported before it is known whether there will be a run, and what it will be.

Importing torch takes seconds, as long as all checks together. So a process of the environment does
that while the checks go on, then waits: told what to run it is torchrun, with the arguments, the
environment, folder and log that a start would have given it. Where nobody tells it, it ends. What
it does is waiting.py; here is who starts it.

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
# Variables that are read when a program starts or torch is imported: later ones would be too late.
AT_START = re.compile(
    r"(LD_|PYTHON|MALLOC_|GLIBC_|LOGLEVEL$|KMP_|GOMP_|OMP_(?!NUM_THREADS$)|MKL_|PYTORCH_"
    r"|TORCH_(?!ELASTIC_SHUTDOWN_TIMEOUT$|EXTENSIONS_DIR$)|TORCHINDUCTOR_)"
)
# As in launch/nodes.py: what every run sets of these.
ALWAYS = {"PYTHONUNBUFFERED": "1"}

# Where a traceback's columns are read from every file, few are ever shown: with no collection of
# garbage, which waiting.py does without, an eighth of the import's time.
QUICK = ("-X", "no_debug_ranges")


def bound_to(parent: int) -> None:
    """What a child does first: it gets SIGTERM should ``parent``, which forked it, die."""
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


def at_start(environ: dict[str, str]) -> dict[str, str]:
    """Those of the variables that count when a program starts."""
    return {name: value for name, value in environ.items() if AT_START.match(name)}


class Ahead:
    """A torchrun that waits: ``program`` is waiting.py. OSError where it can't be started."""

    def __init__(self, python: str, program: str, environ: dict[str, str]) -> None:
        self.python, self.environ = python, {**environ, **ALWAYS}
        self.orders, said, parent = os.memfd_create("orders"), os.memfd_create("said"), os.getpid()
        try:
            self.process = subprocess.Popen(
                [python, *QUICK, "-c", program, str(self.orders)],
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
