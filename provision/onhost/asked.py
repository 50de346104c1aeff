"""Whether somebody asks a supervisor to stop its node.

Imported by other files of onhost/, and sent along with them. Standard library, Python 3.8, Linux.
"""

from __future__ import annotations

import os
import signal
from typing import Callable

NOW = 2  # how a stop is asked for that waits for nothing


def listen(run_dir: str) -> Callable[[], int]:
    """Tells, when called, whether a stop was asked for: by the stop file or by a signal.

    0: no; 1: yes; NOW: at once, by what the file says or by a second signal.
    """
    stop_file, signals = os.path.join(run_dir, "stop"), []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: signals.append(number))

    def asked() -> int:
        try:
            by_file = NOW if os.stat(stop_file).st_size else 1
        except FileNotFoundError:
            by_file = 0
        return min(NOW, max(by_file, len(signals)))

    return asked
