"""What a Python of this host's own user is, and what it has: it is asked, and nothing is written.

    existing.py JSON    {"python": PATH}

The answer: {"path", "version", "implementation", "abi", "sites": folders that it imports packages
from, "versions": {distribution: version}, "torch", "torch_cuda"}, or {"error": why not}.

Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from provision.onhost.converse import reason, reply

SECONDS = 60
# Run by that Python. torch says what it is in a file of its own, which takes no second to read.
ASK = """
import json, os, re, sys, sysconfig
from importlib import metadata
sites = [p for p in sys.path if os.path.basename(p) in ("site-packages", "dist-packages")]
versions = {}
for one in metadata.distributions():
    name = one.metadata["Name"]
    if name:
        versions.setdefault(re.sub(r"[-_.]+", "-", name).lower(), one.version)
torch = {}
for path in sys.path:
    path = os.path.join(path, "torch", "version.py")
    if os.path.isfile(path):
        with open(path, encoding="utf-8") as stream:
            exec(compile(stream.read(), path, "exec"), torch)
        break
print("ZEROFLEET-ASKED " + json.dumps({
    "path": sys.executable,
    "version": "%d.%d.%d" % sys.version_info[:3],
    "implementation": sys.implementation.name,
    "abi": getattr(sys, "abiflags", ""),
    "sites": [os.path.realpath(p) for p in sites if os.path.isdir(p)],
    "versions": versions,
    "torch": torch.get("__version__") and str(torch["__version__"]),
    "torch_cuda": torch.get("cuda"),
}))
"""


def look(python: str) -> dict[str, Any]:
    """Ask an interpreter; why not, where it gives no answer."""
    path = os.path.expanduser(python)
    misleading = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environ = {k: v for k, v in os.environ.items() if k not in misleading}
    try:
        done = subprocess.run(
            [path, "-B", "-c", ASK],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return {"error": "%s gave no answer in %d s" % (path, SECONDS)}
    except OSError as error:
        return {"error": "%s: %s" % (path, reason(error))}
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        if line.startswith("ZEROFLEET-ASKED "):
            # The way to it as it was named: what it resolves to may not know its packages.
            return dict(json.loads(line[len("ZEROFLEET-ASKED ") :]), path=path)
    said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no answer"]
    return {"error": "%s: %s" % (path, said[-1][:200])}


if __name__ == "__main__":
    reply(look(json.loads(sys.argv[1])["python"]))
