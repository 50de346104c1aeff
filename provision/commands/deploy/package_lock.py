"""Which lock of packages counts: the project's own, or the one that ships."""

from __future__ import annotations

from pathlib import Path

from provision.places import CHECKOUT
from provision.settings import Settings

#: The lock of a project, beside its hosts file; without one it is the one that ships.
LOCK_NAME = "zerofleet.env.lock"
#: The tested set of packages, made from locks/train.in.
SHIPPED_LOCK = CHECKOUT / "locks" / "train.lock"


def own_lock(s: Settings) -> Path:
    """Where a project's own lock of packages is, or would be."""
    return s.env_lock or s.hosts.parent / LOCK_NAME


def read_lock_path(s: Settings) -> Path:
    """The lock that counts: the one that is named, else the project's own, else the checkout's."""
    own = own_lock(s)
    return own if s.env_lock or own.exists() else SHIPPED_LOCK
