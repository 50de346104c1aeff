"""torchrun, imported before its run: its parent tells it what to run.

    waiting.py ORDERS

ORDERS is a file descriptor. A line on standard input says that orders lie there, ahead.py's; where
there is none, nothing is run. Run by a deployed environment's Python, which has torch; otherwise
standard library, Python 3.8, Linux. It imports no other file: it is sent as one program.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import time
import types
import warnings
from typing import Any

# What torch's import registers for tensors without data, a fourth of its time, and NumPy, a tenth.
# torchrun has no tensors; its ranks are other processes, which import all of it. (The end of
# torch/__init__.py; torch works without NumPy, and says so once: torch/csrc/utils/tensor_numpy.cpp)
SPARED = ("torch._meta_registrations", "torch.distributed._meta_registrations")
# Node 0 listens a moment later than the others would dial, and torch tries again after 0.6 s only
# (measured, torch 2.13): so they wait until it does. What keeps them waiting, torchrun reports.
MEET_SECONDS = 2.0


def import_torchrun() -> Any:
    """torch.distributed.run; None where it can't be imported, which its own start will say."""
    for name in SPARED:
        sys.modules[name] = types.ModuleType(name)
    sys.modules["numpy"] = None  # type: ignore[assignment]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Failed to initialize NumPy")
            from torch.distributed import run  # noqa: TID251 (see above)
    except BaseException:  # noqa: BLE001 (a library that is not whole may raise anything)
        run = None
    del sys.modules["numpy"]
    return run


def take_orders(descriptor: int) -> dict[str, Any]:
    """What is to be run, once the parent has said so; no return where it never does."""
    if not sys.stdin.buffer.readline():
        os._exit(0)
    with os.fdopen(descriptor) as file:
        file.seek(0)
        order: dict[str, Any] = json.load(file)
    return order


def become(order: dict[str, Any]) -> bytes:
    """Be as the process of a start: its name, folder, environment and log; what was said so far."""
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
    return said


def meet(address: list[Any] | None) -> None:
    """Wait until node 0 listens, unless this is node 0."""
    until = time.monotonic() + MEET_SECONDS
    while address and time.monotonic() < until:
        try:
            socket.create_connection(tuple(address), 1).close()
            return
        except OSError:
            time.sleep(0.02)


def main(descriptor: int) -> None:
    """Import, wait, run."""
    gc.disable()  # nothing that an import makes is garbage
    del sys.path[0]
    run = import_torchrun()
    order = take_orders(descriptor)
    said = become(order)
    if run is None:
        os.execve(order["argv"][0], order["argv"], order["environ"])  # noqa: S606 (no shell is meant)
    os.write(2, said)
    meet(order["meet"])
    gc.enable()
    sys.path.insert(0, order["cwd"])
    sys.argv = [run.__file__, *order["argv"][3:]]
    run.main(sys.argv[1:])


if __name__ == "__main__":
    main(int(sys.argv[1]))
