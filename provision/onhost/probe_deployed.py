"""The Pythons of a host, and what was deployed to it: its environments, its store.

Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
from functools import partial
from typing import Any

from provision.onhost.probe_read import COMMAND, first_match, output, read_file, side_by_side

PYTHONS = ["python3", "python"] + ["python3.%d" % minor for minor in range(8, 16)]
ASK_PYTHON = (
    "import sys,importlib.util as u;print(sys.executable,'%d.%d.%d'%sys.version_info[:3],"
    "int(bool(u.find_spec('venv') and u.find_spec('ensurepip'))),sys.implementation.name,sep='|')"
)


def read_pythons() -> object:
    """Every CPython on PATH that runs, and the one below what is deployed: path, version, and
    whether it can make a venv.
    """
    names: dict[str, str] = {}
    base = [(read_environment() or {}).get("base")]  # on no PATH where it is a venv's or conda's
    for name in [*PYTHONS, *filter(None, base)]:
        path = shutil.which(name)
        if path:
            # Links to one file are one interpreter, except where a pyvenv.cfg stands beside one.
            folder = os.path.dirname(path)
            own = os.path.exists(os.path.join(os.path.dirname(folder), "pyvenv.cfg"))
            names.setdefault(path if own else os.path.realpath(path), path)
    ask = ["-I", "-S", "-c", ASK_PYTHON]
    asked = {path: partial(output, [path, *ask]) for path in names.values()}
    found: dict[str, dict[str, object]] = {}
    for out in side_by_side(asked, COMMAND).values():
        if isinstance(out, Exception) or out.count("|") != 3:
            continue  # a shim of a version that is not there, a Windows stub
        path, version, venv, implementation = out.split("|")
        if implementation == "cpython":
            found.setdefault(path, {"path": path, "version": version, "venv": venv == "1"})
    return list(found.values())


def read_environment() -> Any:
    """The environment that ~/.zerofleet/current names: its record, absent if there is none."""
    current = os.path.expanduser("~/.zerofleet/current")
    text = read_file(os.path.join(current, "complete.json"))
    if text is None:
        return None
    record = json.loads(text)
    record["path"] = os.path.realpath(current)
    return record


def read_environment_now() -> object:
    """What that environment's folder holds now, whatever its record says."""
    pattern = os.path.expanduser("~/.zerofleet/current/lib/python3*/site-packages")
    sites = glob.glob(pattern)
    if not sites:
        return None
    sites += (read_environment() or {}).get("sites") or []  # those of the user's own Python

    def version(name: str) -> str | None:
        for site in map(glob.escape, sites):
            found = glob.glob(os.path.join(site, name + "-[0-9]*.dist-info"))
            if found:
                return os.path.basename(found[0])[: -len(".dist-info")].split("-")[1]
        return None

    files = (read_file(os.path.join(site, "torch", "version.py")) for site in sites)
    torch = next(filter(None, files), None)
    return {
        "torch": first_match(r"^__version__ *= *['\"]([^'\"]+)", torch),
        "torch_cuda": first_match(r"^cuda\b[^=]*= *['\"]([^'\"]+)", torch),
        "nccl": version("nvidia_nccl_cu*[0-9]"),
        "deepspeed": version("deepspeed"),
    }


def read_environments() -> object:
    """Lock names of the complete environments on this host."""
    pattern = os.path.expanduser("~/.zerofleet/envs/*/complete.json")
    return sorted(os.path.basename(os.path.dirname(path)) for path in glob.glob(pattern))


def read_store() -> object:
    """What ~/.zerofleet/store holds: sha256/name."""
    root = os.path.expanduser("~/.zerofleet/store")
    return sorted(
        os.path.relpath(path, root)
        for path in glob.glob(os.path.join(root, "*", "*"))
        if not path.endswith(".partial")
    )
