"""A failed build's log → the line that says why.

A parallel build goes on for a while after the first error, and Python tracebacks follow: the
cause is the *first* error, never the last lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# In order of worth: a line of the earlier kind, wherever it is, beats one of a later kind.
_CAUSES = (
    # A compiler killed by the kernel shows no error of its own but this.
    re.compile(r"fatal error: Killed signal terminated program"),
    # gcc: file:line[:column]: [fatal ]error: …
    re.compile(r"^\S.*?:\d+(?::\d+)?: (?:fatal )?error: "),
    # gcc and the tools it starts, without a place in a file
    re.compile(
        r"^(?:\S*/)?(?:[\w-]*g\+\+|gcc|cc1plus|collect2|as|ld)(?:\.\w+)?: (?:fatal )?error: "
    ),
    # the linker
    re.compile(r"(?:^|/)ld(?:\.\w+)?: (?!warning)"),
    # pip's own errors
    re.compile(r"^ERROR: "),
    # the innermost Python exception
    re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception)\b.*: "),
)

_NOISE = ("distutils.errors.", "setuptools.errors.", "RuntimeError: Error compiling objects")


def first_error(log: Iterable[str]) -> str:
    """The first real error in a build's log, or "" when no line looks like one."""
    firsts: dict[int, str] = {}
    for line in log:
        text = line.strip()
        if text.startswith(_NOISE):
            continue
        for rank, cause in enumerate(_CAUSES):
            if rank not in firsts and cause.search(text):
                firsts[rank] = text
    return firsts[min(firsts)] if firsts else ""
