"""Places of this machine: the checkout, and what is kept of earlier commands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from provision.errors import ConfigError

#: Where this checkout is: locks/, trainer/ and zero_configs/ are read from here.
CHECKOUT = Path(__file__).resolve().parent.parent


def cache_home(environ: Mapping[str, str]) -> Path:
    """What this user's commands keep: ``$XDG_CACHE_HOME`` or ``~/.cache``, then ``zerofleet``.

    Source: https://specifications.freedesktop.org/basedir-spec/latest/ (a relative
    XDG_CACHE_HOME is to be ignored).
    """
    base = Path(environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        if not environ.get("HOME"):
            raise ConfigError(
                "cache",
                found="neither XDG_CACHE_HOME nor HOME set",
                expected="a folder to keep builds and packages in",
                remedy="set XDG_CACHE_HOME to an absolute path",
            )
        base = Path(environ["HOME"]) / ".cache"
    return base / "zerofleet"
