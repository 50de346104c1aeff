"""Numbers that a user gives, each within its range; and bytes as a person reads them."""

from __future__ import annotations

import contextlib
import re
from typing import Any

from provision.errors import ConfigError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)b?(?:/s)?", re.IGNORECASE)


def parse_number(key: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """The setting ``key`` as a number from ``least`` to ``most`` (None: no bound).

    ConfigError, with the flag's name, if it can't be that.
    """
    with contextlib.suppress(TypeError, ValueError):
        number = int(value)
        if (least is None or number >= least) and (most is None or number <= most):
            return number
    wanted = "a number" if least is None else f"a number, {least} or more"
    wanted = f"a number from {least} to {most}" if most else wanted
    option = f"--{key.replace('_', '-')}"
    remedy = "write such a number, or leave it out"
    raise ConfigError(option, found=repr(value), expected=wanted, remedy=remedy)


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


def size(count: float) -> str:
    """Bytes for a person, in powers of ten: "13.2 GB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count:.0f} bytes"
