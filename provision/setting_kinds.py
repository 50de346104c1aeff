"""What a setting is: its kind, which says how it is read, its default, and its help."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any


class Kind(Enum):
    """How a value is read, from a flag and from invoke.yaml."""

    #: As it is given: who uses it parses it.
    TEXT = auto()
    #: A flag without a value; in invoke.yaml true or false.
    SWITCH = auto()
    #: A whole number, within the setting's range.
    NUMBER = auto()
    #: Of this machine: a relative one starts from the current folder.
    PATH = auto()
    #: A list in invoke.yaml, in one text with commas.
    COMMAS = auto()
    #: A list in invoke.yaml, in one text with spaces.
    WORDS = auto()
    #: Bytes a second.
    RATE = auto()
    #: A list in invoke.yaml, and a flag that may be repeated.
    REPEATED = auto()
    #: A mapping in invoke.yaml, and a flag NAME=VALUE that may be repeated.
    PAIRS = auto()
    #: A flag that may stand alone or have a value.
    OPTIONAL = auto()


#: Kinds whose default is nothing.
_NO_DEFAULT = (Kind.SWITCH, Kind.REPEATED, Kind.PAIRS)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting. ``default`` None: must be given where it is needed.

    ``help`` is empty where no command has a flag for it: invoke.yaml alone sets it. ``position``:
    its flag may be given by position, and has to be given. ``short``: a letter for it.
    """

    kind: Kind
    help: str = ""
    default: Any = None
    least: int | None = None
    most: int | None = None
    position: bool = False
    short: str = ""

    @property
    def described(self) -> str:
        """What ``--help`` says: its help with its default, unless the help itself names that."""
        if self.default is None or self.kind in _NO_DEFAULT or "(default" in self.help:
            return self.help
        return f"{self.help} (default {self.default})"


#: A setting of each kind: ``number(help="seconds to wait", default=3)``.
text = partial(Setting, kind=Kind.TEXT)
switch = partial(Setting, kind=Kind.SWITCH, default=False)
number = partial(Setting, kind=Kind.NUMBER)
path = partial(Setting, kind=Kind.PATH)
commas = partial(Setting, kind=Kind.COMMAS)
words = partial(Setting, kind=Kind.WORDS)
rate = partial(Setting, kind=Kind.RATE)
repeated = partial(Setting, kind=Kind.REPEATED, default=())
pairs = partial(Setting, kind=Kind.PAIRS, default={})
optional = partial(Setting, kind=Kind.OPTIONAL)
