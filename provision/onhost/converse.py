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
from typing import Mapping

ALIVE_SECONDS = 5.0
_SPEAKING = threading.Lock()


def tell(line: str) -> None:
    """One whole line to the controller; if it is gone, so are we."""
    with _SPEAKING:
        try:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        except OSError:
            os._exit(1)


def say(text: str) -> None:
    """A line of progress."""
    tell("ZEROFLEET-SAY " + text)


def reply(found: Mapping[str, object]) -> None:
    """One answer."""
    tell("ZEROFLEET<<%s>>ZEROFLEET" % json.dumps(found))


def live() -> None:
    """Show every few seconds that this host is still there: the body of a daemon thread."""
    while True:
        time.sleep(ALIVE_SECONDS)
        tell("ZEROFLEET-ALIVE")
