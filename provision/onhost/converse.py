"""What a script tells the controller while it works: lines, that it lives, and its answers.

Other files of onhost/ import it; it is sent along with them. provision/talk.py is the other end.
Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Callable, Mapping, NoReturn

ALIVE_SECONDS = 5.0
_SPEAKING = threading.Lock()


def write(line: str) -> None:
    """One whole line to the controller; OSError if it is gone."""
    with _SPEAKING:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def tell(line: str) -> None:
    """One whole line to the controller; if it is gone, so are we."""
    try:
        write(line)
    except OSError:
        os._exit(1)


def say(text: str) -> None:
    """A line of progress."""
    tell("ZEROFLEET-SAY " + text)


def answer_line(found: Mapping[str, object]) -> str:
    """An answer, between the sentinels that tell it from a login shell's noise."""
    return "ZEROFLEET<<%s>>ZEROFLEET" % json.dumps(found)


def reply(found: Mapping[str, object]) -> None:
    """One answer."""
    tell(answer_line(found))


def fail(text: str) -> NoReturn:
    """End with the line that the controller shows."""
    print(text, file=sys.stderr)
    raise SystemExit(1)


def reason(error: OSError) -> str:
    """Why, in the system's words."""
    return error.strerror or str(error)


def live(speak: Callable[[str], None] = tell) -> None:
    """Show every few seconds that this host is still there: the body of a daemon thread."""
    while True:
        time.sleep(ALIVE_SECONDS)
        speak("ZEROFLEET-ALIVE")
