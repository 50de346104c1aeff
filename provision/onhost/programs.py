"""What other Python programs say here: the trainer's reader of rows, and the prover of ops.

Imported by ready.py, and sent along with it. Standard library, Python 3.8.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import subprocess
import sys

from provision.onhost.converse import reason
from provision.onhost.seen import recall, remember

ROWS_SECONDS, PROVE_SECONDS = 3600, 120


def ask(argv: list[str], text: str, seconds: float) -> dict[str, object]:
    """The answer between sentinels of a Python program, given over stdin or in its argv."""
    try:
        done = subprocess.run(
            argv, input=text.encode(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            timeout=seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": "no answer in %d s" % seconds}
    except OSError as error:
        return {"error": "%s: %s" % (argv[0], reason(error))}
    found = re.findall(r"ZEROFLEET<<(.*?)>>ZEROFLEET", done.stdout.decode("utf-8", "replace"))
    if found:
        answer = json.loads(found[-1])
        return dict(answer)
    said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no answer"]
    return {"error": said[-1][:300]}


def ask_reader(
    asked: str, data: str, objective: str, program: str, python: str
) -> dict[str, object]:
    """What trainer/rows.py, which is ``program``, says of the data: ``asked`` is rows or files."""
    # The environment's Python reads .parquet too; before there is one, the host's own will do.
    python = os.path.expanduser(python)
    python = python if os.access(python, os.X_OK) else sys.executable
    paths = [path.strip() for path in data.split(",")]
    return ask([python, "-", asked, objective or "sft", *paths], program, ROWS_SECONDS)


def libraries(python: str) -> list[list[object]]:
    """The files of an environment that decide whether ops load: a change of one shows here."""
    root = os.path.dirname(os.path.dirname(python))
    sites = [os.path.join(glob.escape(root), "lib", "python*", "site-packages")]
    with contextlib.suppress(OSError, ValueError), open(root + "/complete.json") as stream:
        # It may lie over a Python of the user's own, which has the torch.
        sites += map(glob.escape, json.load(stream).get("sites") or [])
    found: list[list[object]] = []
    for pattern in ("torch/version.py", "torch/lib/*", "deepspeed/*.py", "deepspeed/**/*.so"):
        for site in sites:
            for name in sorted(glob.glob(os.path.join(site, pattern), recursive=True)):
                stat = os.stat(name)
                found.append([os.path.relpath(name, root), stat.st_size, stat.st_mtime_ns])
    return found


def prove(program: str, python: str, wanted: dict[str, object]) -> dict[str, object]:
    """Whether the wheel's ops load in the environment with JIT compilation off."""
    python = os.path.expanduser(python)
    try:
        key = [wanted, libraries(python), os.confstr("CS_GNU_LIBC_VERSION")]
    except (OSError, ValueError) as error:
        return {"error": str(error)}
    name = "ops-" + hashlib.sha256(python.encode()).hexdigest()[:32]
    if recall(name, key):
        return {"loads": True, "seen": True}
    asked = json.dumps({**wanted, "record": False})  # what the deploy noted down stays as it is
    answer = ask([python, "-c", program, asked], "", PROVE_SECONDS)
    if "error" in answer:
        return answer
    remember(name, key, True)
    return {"loads": True}
