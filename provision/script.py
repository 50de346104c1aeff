"""How a script of onhost/ reaches a host: inside the command itself, in one round trip.

No file is left behind and nothing has to be installed. The script travels compressed, in base64,
so the line survives every login shell (csh expands ``!`` even inside single quotes, fish has its
own escapes). A host without Python >= 3.8 answers ``NO_PYTHON``, said by ``sh`` alone.

An answer stands between sentinels, because login shells print noise of their own.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Sequence
from importlib import resources

from provision.errors import HostError

NO_PYTHON = "ZEROFLEET-NO-PYTHON"
_ANSWER = re.compile(r"ZEROFLEET<<(.*?)>>ZEROFLEET", re.DOTALL)

# Linux caps one argument, and so the whole command line that sshd hands to `sh -c`, at 128 KiB:
# MAX_ARG_STRLEN, https://man7.org/linux/man-pages/man2/execve.2.html
_MAX_COMMAND = 128 * 1024 - 1024

_BOOT = (
    "import sys,zlib,base64,json;a=sys.argv;"
    "sys.argv=json.loads(base64.b64decode(a[4]));"
    "exec(compile(zlib.decompress(base64.b64decode(a[1])),a[2],a[3]))"
)
_ANY_PYTHON = (
    "for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8"
    ' python; do if $p -c "import sys; sys.exit(sys.version_info < (3, 8))" >/dev/null 2>&1;'
    f' then exec $p -c "{_BOOT}" "$@"; fi; done; echo {NO_PYTHON}'
)
_THIS_PYTHON = f'p="$1"; shift; exec "$p" -c "{_BOOT}" "$@"'


def read_onhost(name: str) -> str:
    """Text of ``provision/onhost/<name>.py``."""
    return resources.files("provision.onhost").joinpath(f"{name}.py").read_text(encoding="utf-8")


def text_argv(text: str, name: str, args: Sequence[str], python: str = "") -> tuple[str, ...]:
    """Argv that runs the Python program ``text`` on a host with ``sys.argv[1:] == args``.

    ``python`` names the interpreter on the host; without it the first ``python3`` there that is
    3.8 or later. ``__name__`` is ``__main__``, as for any script.

    Raises ValueError if program and arguments exceed what one command line can hold.
    """
    blob = base64.b64encode(zlib.compress(text.encode(), 9)).decode()
    argv = base64.b64encode(json.dumps([name, *args]).encode()).decode()
    if len(blob) + len(argv) > _MAX_COMMAND:
        raise ValueError(f"{name}: {len(blob) + len(argv)} bytes exceed one command line")
    if python:
        return ("sh", "-c", _THIS_PYTHON, "zerofleet", python, blob, name, "exec", argv)
    return ("sh", "-c", _ANY_PYTHON, "zerofleet", blob, name, "exec", argv)


def script_argv(name: str, args: Sequence[str], python: str = "") -> tuple[str, ...]:
    """Argv that runs ``provision/onhost/<name>.py`` on a host; see :func:`text_argv`."""
    return text_argv(read_onhost(name), f"{name}.py", args, python)


def parse_answer(host: str, stdout: str, stderr: str = "") -> dict[str, object]:
    """The JSON object between the sentinels of a script's output.

    Raises HostError if the host has no usable Python, or answered anything else.
    """
    found = _ANSWER.findall(stdout)
    if found:
        answer = json.loads(found[-1])
        if isinstance(answer, dict):
            return answer
    if NO_PYTHON in stdout:
        raise HostError(
            f"{host}: python",
            found="no Python 3.8 or later on PATH",
            expected="one, to read what this host is",
            remedy="install python3 there",
        )
    tail = (stderr.strip() or stdout.strip() or "nothing").splitlines()[-1][:200]
    raise HostError(
        f"{host}: answer", found=tail, expected="an answer", remedy="run the command again"
    )
