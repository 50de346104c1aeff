"""The trainer's own reader of rows, as one program that hosts run on the data before a run."""

from __future__ import annotations

from pathlib import Path

#: Files of trainer/ in the order that they need one another; the last one is run.
PARTS = ("formats", "tables", "rows")

# Each travels as the module that it is imported as.
_PROGRAM = """\
import sys, types
sys.modules["trainer"] = types.ModuleType("trainer")
for name, text in {parts!r}:
    part = types.ModuleType("trainer." + name)
    sys.modules[part.__name__] = part
    exec(compile(text, name + ".py", "exec"), part.__dict__)
exec(compile({text!r}, "rows.py", "exec"))
"""


def read_rows_program(checkout: Path) -> str:
    """The program of ``python3 - rows|files OBJECTIVE PATH...``; see trainer/rows.py."""
    texts = [(n, (checkout / "trainer" / f"{n}.py").read_text(encoding="utf-8")) for n in PARTS]
    return _PROGRAM.format(parts=texts[:-1], text=texts[-1][1])
