"""Numbers that a user gives, each within its range."""

from __future__ import annotations

import contextlib
from typing import Any

from provision.errors import ConfigError

#: At least 1, all of them; a port is a 16-bit number.
_AT_LEAST_1 = {"connect_timeout", "answer_timeout", "workers", "master_port", "nproc"}
_AT_LEAST_1 |= {"max_new_tokens", "grace", "grace_after_failure"}
#: A supervisor asks one that is silent after 2 s (onhost/heartbeat.py): sooner, none is lost.
_LEAST = {**dict.fromkeys(_AT_LEAST_1, 1), "lost_after": 3, "start_within": 10}
_LEAST |= dict.fromkeys(("keep_last", "wait", "tail", "rank"), 0)
_AT_MOST = {"master_port": 65535}


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
