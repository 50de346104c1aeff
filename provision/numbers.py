"""Numbers that a user gives, each within its range."""

from __future__ import annotations

import contextlib
import re
from typing import Any

from provision.errors import ConfigError

#: At least 1, all of them; a port is a 16-bit number.
_AT_LEAST_1 = {"connect_timeout", "answer_timeout", "workers", "master_port", "nproc"}
_AT_LEAST_1 |= {"max_new_tokens", "grace", "grace_after_failure"}
#: A supervisor asks one that is silent after 2 s (onhost/heartbeat.py): sooner, none is lost.
_LEAST = {**dict.fromkeys(_AT_LEAST_1, 1), "lost_after": 3, "start_within": 10}
_LEAST |= dict.fromkeys(("keep_last", "wait", "tail", "rank"), 0)
_AT_MOST = {"master_port": 65535}
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)b?(?:/s)?", re.IGNORECASE)


def parse_number(key: str, value: Any) -> int:
    """The setting ``key`` as a number; ConfigError, with the flag's name, if it can't be that."""
    least, most = _LEAST.get(key), _AT_MOST.get(key)
    with contextlib.suppress(TypeError, ValueError):
        number = int(value)
        if (least is None or number >= least) and (most is None or number <= most):
            return number
    wanted = "a number" if least is None else f"a number, {least} or more"
    wanted = f"a number from {least} to {most}" if most else wanted
    option = f"--{key.replace('_', '-')}"
    raise ConfigError(option, found=repr(value), expected=wanted, remedy="correct it")


def parse_rate(text: str | None) -> float:
    """``--limit`` in bytes/s: "50MB/s", "1.5G", "800k" (powers of ten); 0 where none is given.

    Raises ConfigError for anything else, zero included.
    """
    if text is None:
        return 0.0
    found = _RATE.fullmatch(text.strip())
    rate = float(found[1]) * _UNITS[found[2].lower()] if found else 0.0
    if rate <= 0:
        raise ConfigError(
            "--limit", found=repr(text), expected="bytes a second", remedy="as in --limit 50MB/s"
        )
    return rate
