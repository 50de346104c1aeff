"""Many host names as few words: ``node[1-7,9]``. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

#: Fewer names than this are as short written out.
_WORTH_FOLDING = 3
_NUMBER = re.compile(r"([0-9]+)")


def fold(names: Iterable[str]) -> str:
    """The names, those that differ in one number only as one: ``node[1-7,9],gpu[08-11].lab``.

    As clush writes node sets (https://clustershell.readthedocs.io/en/latest/tools/nodeset.html):
    leading zeros are kept, and of several numbers the one that varies most is folded. An IPv6
    address stays as it is: brackets mean something else there, and its numbers are hexadecimal.
    """
    groups: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for name in dict.fromkeys(names):
        parts = (name,) if name.count(":") > 1 else tuple(_NUMBER.split(name))
        groups.setdefault(parts[::2], []).append(parts)
    return ",".join(text for group in groups.values() for text in _fold_group(group))


def _fold_group(group: Sequence[tuple[str, ...]]) -> list[str]:
    """Names of one shape: each a tuple of text, number, text, …"""
    fields = range(1, len(group[0]), 2)
    if not fields:
        return ["".join(parts) for parts in group]
    varies = Counter({field: len({parts[field] for parts in group}) for field in fields})
    field = max(fields, key=lambda f: (varies[f], f))
    rows: dict[tuple[str, str], list[str]] = {}
    for parts in group:
        around = "".join(parts[:field]), "".join(parts[field + 1 :])
        rows.setdefault(around, []).append(parts[field])
    folded = []
    for (before, after), numbers in rows.items():
        if len(numbers) < _WORTH_FOLDING:
            folded += [before + number + after for number in numbers]
        else:
            folded.append(f"{before}[{_ranges(numbers)}]{after}")
    return folded


def _ranges(numbers: Sequence[str]) -> str:
    """``1-7,9``: runs of numbers that are written alike (08, 09, 10 are; 9, 010 are not)."""
    widths = {len(number) for number in numbers if number.startswith("0") and len(number) > 1}
    # (width, number): width 0 is a number without leading zeros, where none of its length has any.
    keys = sorted((len(n) if len(n) in widths else 0, int(n)) for n in numbers)
    runs: list[list[tuple[int, int]]] = []
    for width, number in keys:
        if runs and runs[-1][-1] == (width, number - 1):
            runs[-1].append((width, number))
        else:
            runs.append([(width, number)])
    texts = []
    for run in runs:
        first, last = (str(number).zfill(width) for width, number in (run[0], run[-1]))
        texts.append(first if len(run) == 1 else f"{first}-{last}")
    return ",".join(texts)
