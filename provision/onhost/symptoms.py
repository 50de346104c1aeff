"""Why a rank ended, from its wait status and last lines; whether another's end explains that.

Imported by other files of onhost/, and sent along with them. Standard library, Python 3.8.
"""

from __future__ import annotations

import contextlib
import re
import signal

# Since 2.3, torch puts the rank before each line of a traceback.
EXCEPTION = re.compile(
    r"^(?:\[rank\d+\]: )?(?P<said>[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b.*)"
)
# What Python says of a thread or a destructor: the process went on.
_NOT_FATAL = re.compile(r"^(?:\[rank\d+\]: )?Exception (ignored in|in thread)\b")
# The exceptions in which torch and NCCL say that a collective, or the store, has failed. A user's
# own "Connection reset by peer", of a download or a logger, has another type.
_RAISED = re.compile(
    r"(torchrun: )?(exit code \d+: )?([\w.]+\.)?"
    r"(RuntimeError|Dist\w*Error|nccl\w+Error|SignalException)\b"
)
# How a rank's end reads when another's end caused it: gloo's, NCCL's and the TCPStore's messages
# (gloo/transport/tcp, ProcessGroupNCCL.cpp, nccl/src/misc/socket.cc, TCPStoreLibUvBackend.cpp).
_SAID = re.compile(
    r"Connection (was )?(likely )?(closed|reset) by (remote )?peer|Broken pipe"
    r"|Connection was likely closed|Remote peer closed the connection"
    r"|Application timeout caused pair closure|Timed out waiting|failed to pass monitoredBarrier"
    r"|Timed out after \d+ seconds waiting for clients|wait timeout after|failed to recv, got 0"
    r"|client socket has (timed out|failed to connect)|remote server shutdown or crash"
    r"|Watchdog caught collective operation timeout|NCCL communicator was aborted"
    r"|ncclRemoteError|remote process exited|SIGTERM",
    re.IGNORECASE,
)
# What libstdc++ says where a process that exits takes down a thread that still runs, as gloo's may:
# https://en.cppreference.com/w/cpp/thread/thread/~thread
_TAKEN_DOWN = "terminate called without an active exception"
# A line of C++: its source and line, or what a thread says as it takes the process down.
_CPP = re.compile(r"\w\.(cpp|cc|cu|hpp|h):\d+|^\s*what\(\):")


def raised_last(lines: list[str]) -> str:
    """The exception that a process ended by: its traceback's last line; empty if none is seen."""
    said, fatal = "", True
    for line in lines:
        found = EXCEPTION.match(line)
        if _NOT_FATAL.match(line):
            fatal = False
        elif found:
            said, fatal = (found.group("said") if fatal else said), True
    return said


def exit_reason(code: int, lines: list[str]) -> str:
    """Why a rank without an error file ended: its signal, or its last exception line.

    An exit that an exception began may end by SIGABRT: the exception is why.
    """
    raised = raised_last(lines)
    if code >= 0:
        return "exit code %d%s" % (code, ": " + raised if raised else "")
    ended = "killed by signal %d" % -code
    with contextlib.suppress(ValueError):
        ended += " (%s)" % signal.Signals(-code).name
    if raised and code == -signal.SIGABRT and any(_TAKEN_DOWN in line for line in lines):
        return "%s; as it exited, %s" % (raised, ended)
    return ended


def is_symptom(reason: str) -> bool:
    """Whether an exception reads as another rank's end would make it read."""
    return bool(_RAISED.match(reason) and _SAID.search(reason))


def is_symptomatic_end(code: int, reason: str, lines: list[str]) -> bool:
    """The same of a rank that wrote no error file. ``code``: its wait status.

    torch's watchdog takes a process down by SIGABRT, and torchrun ends by SIGTERM: every other
    signal has come from outside, or from an error of the process's own, whatever it logged before.
    """
    if code == -signal.SIGABRT:
        return is_symptom(reason) or any(_CPP.search(line) and _SAID.search(line) for line in lines)
    return code == -signal.SIGTERM or (code > 0 and is_symptom(reason))
