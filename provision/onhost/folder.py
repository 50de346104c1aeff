"""What the folder of a run holds on a host, read and written.

Imported by other files of onhost/, and sent along with them. Standard library, Python 3.8.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
from typing import Any

LINES = 20  # of a log's end, kept in exit.json
WARNING = re.compile(r"^\S.*:\d+: \w*Warning: ")
#: Also tqdm's bars, of which each step leaves one: "  40%|████      | 2/5 [00:01<00:02,  1.2it/s]".
NOISE = re.compile(r"\d%\|.*\| .*\[.*\]|" + WARNING.pattern)
TAIL = 1 << 16  # bytes read from the end of a log


def read_json(path: str) -> Any:
    """The JSON in a file, or None when there is no file yet."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return None


def read_text(path: str) -> str:
    """The last TAIL bytes of a text file; empty when there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def read_lines(path: str) -> list[str]:
    """The last LINES lines that say anything; progress bars and warnings where there is no more."""
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    telling = [
        line
        for before, line in zip(["", *lines], lines)
        # Behind a warning stands its line of code: https://docs.python.org/3/library/warnings.html
        if not NOISE.search(line) and not (WARNING.search(before) and line.startswith("  "))
    ]
    return (telling or lines)[-LINES:]


def write_json(path: str, value: Any) -> None:
    """Write a file that is either complete or absent."""
    part = path + ".part"
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def read_metrics(run_dir: str) -> dict[str, Any]:
    """{"step": last, "loss": [first, last] or None} from metrics.jsonl; half a line is skipped."""
    step, loss = None, None
    path = os.path.join(run_dir, "metrics.jsonl")
    if not os.path.exists(path):
        return {"step": step, "loss": loss}
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            with contextlib.suppress(ValueError, AttributeError, KeyError):
                metric = json.loads(line)
                if metric.get("event") != "step":
                    continue  # an evaluation's loss is another loss
                step = metric["step"]
                if isinstance(metric["loss"], (int, float)):  # the trainer writes NaN as null
                    loss = [loss[0] if loss else metric["loss"], metric["loss"]]
    return {"step": step, "loss": loss}


def read_jit_compiled(run_dir: str) -> list[str]:
    """Extensions compiled during the run; torch adds a py* folder when it names the root itself."""
    root = os.path.join(run_dir, "torch_extensions")
    found = glob.glob(os.path.join(root, "*", "")) + glob.glob(os.path.join(root, "py*", "*", ""))
    names = (os.path.basename(path.rstrip("/")) for path in found)
    return sorted({name for name in names if not re.match(r"py\d", name)})
