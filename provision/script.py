"""How a script of onhost/ reaches a host: inside the command itself, in one round trip.

No file is left behind and nothing has to be installed. The script travels compressed, in base64,
so the line survives every login shell (csh expands ``!`` even inside single quotes, fish has its
own escapes). A host without Python >= 3.8 answers ``NO_PYTHON`` and what it has, said by ``sh``.

An answer stands between sentinels, because login shells print noise of their own.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import resources

from provision.errors import ConfigError, HostError

NO_PYTHON = "ZEROFLEET-NO-PYTHON"
#: What a line of progress begins with: the rest is for a person.
_SAY = "ZEROFLEET-SAY "
_ANSWER = re.compile(r"ZEROFLEET<<(.*?)>>ZEROFLEET", re.DOTALL)

# Linux caps one argument, and so the whole command line that sshd hands to `sh -c`, at 128 KiB:
# MAX_ARG_STRLEN, https://man7.org/linux/man-pages/man2/execve.2.html
_MAX_COMMAND = 128 * 1024 - 1024

#: Not the same inside quotes in every shell: https://fishshell.com/docs/current/language.html#quotes
#: (backslash), csh(1) (history substitution).
_NOT_IN_EVERY_SHELL = "\\!"
#: What the boot line ends with under a Python that is too old; sh then tries the next one.
_TOO_OLD = 86
_BOOT = (
    f"import sys;sys.version_info<(3,8)and sys.exit({_TOO_OLD});"
    "import zlib,base64,json;a=sys.argv;"
    "sys.argv=json.loads(base64.b64decode(a[4]));"
    "exec(compile(zlib.decompress(base64.b64decode(a[1])),a[2],a[3]))"
)
# Only where no Python will do is it worth looking what there is, on PATH and off it.
_ANY_PYTHON = (
    "for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8"
    " python; do command -v $p >/dev/null 2>&1 || continue;"
    f' $p -c "{_BOOT}" "$@"; r=$?; test $r -eq 126 -o $r -eq 127 -o $r -eq {_TOO_OLD} || exit $r;'
    ' o="$o $p=$($p -c "import sys;print(sys.version.split()[0])" 2>/dev/null)"; done;'
    " for p in /opt/conda/bin/python3 $HOME/miniconda3/bin/python3 $HOME/anaconda3/bin/python3"
    " $HOME/miniforge3/bin/python3 /usr/local/bin/python3 /usr/libexec/platform-python;"
    ' do test -x $p && o="$o $p"; done;'
    f" echo {NO_PYTHON}$o."
)
# -E: an environment's Python, as a run has it, without the PYTHONPATH that a login may set.
_THIS_PYTHON = f'p="$1"; shift; exec "$p" -E -c "{_BOOT}" "$@"'


# A script may be written as several files: each travels as the module that it is imported as.
_PARTS = """\
import sys, types
for name in ("provision", "provision.onhost"):
    sys.modules[name] = types.ModuleType(name)
for name, text in {parts!r}:
    part = types.ModuleType("provision.onhost." + name)
    sys.modules[part.__name__] = part
    setattr(sys.modules["provision.onhost"], name, part)
    exec(compile(text, name + ".py", "exec"), part.__dict__)
exec(compile({text!r}, {name!r}, "exec"))
"""
_IMPORT = re.compile(r"^from provision\.onhost(?:\.(\w+) import|\s+import (.+))", re.MULTILINE)


@lru_cache(maxsize=32)
def read_onhost(name: str) -> str:
    """The program ``provision/onhost/<name>.py``, with the files of onhost/ that it imports."""
    parts: dict[str, str] = {}

    def read(part: str) -> str:
        files = resources.files("provision.onhost")
        text = files.joinpath(f"{part}.py").read_text(encoding="utf-8")
        for one, several in _IMPORT.findall(text):
            for imported in [one] if one else re.split(r",\s*", several):
                if imported not in parts:
                    inner = read(imported)  # first what it imports, then itself
                    parts[imported] = inner
        return text

    text = read(name)
    return _PARTS.format(parts=list(parts.items()), text=text, name=f"{name}.py") if parts else text


@lru_cache(maxsize=32)
def _packed(text: str) -> str:
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def text_argv(text: str, name: str, args: Sequence[str], python: str = "") -> tuple[str, ...]:
    """Argv that runs the Python program ``text`` on a host with ``sys.argv[1:] == args``.

    ``python`` names the interpreter on the host; without it the first ``python3`` there that is
    3.8 or later. ``__name__`` is ``__main__``, as for any script.

    Raises ValueError if program and arguments exceed what one command line can hold, ConfigError
    for an interpreter whose path not every login shell takes as it is.
    """
    if odd := sorted(c for c in set(python) if c in _NOT_IN_EVERY_SHELL or not c.isprintable()):
        raise ConfigError(
            "path of a Python on a host",
            found=ascii(python),
            expected=f"no {' '.join(map(ascii, odd))} in it: fish and csh read them even in quotes",
            remedy="use a home or an interpreter with a plain path",
        )
    blob = _packed(text)
    argv = base64.b64encode(json.dumps([name, *args]).encode()).decode()
    if len(blob) + len(argv) > _MAX_COMMAND:
        raise ValueError(f"{name}: {len(blob) + len(argv)} bytes exceed one command line")
    if python:
        return ("sh", "-c", _THIS_PYTHON, "zerofleet", python, blob, name, "exec", argv)
    return ("sh", "-c", _ANY_PYTHON, "zerofleet", blob, name, "exec", argv)


def script_argv(name: str, args: Sequence[str], python: str = "") -> tuple[str, ...]:
    """Argv that runs ``provision/onhost/<name>.py`` on a host; see :func:`text_argv`."""
    return text_argv(read_onhost(name), f"{name}.py", args, python)


def said(line: str) -> str | None:
    """What a line of a script's output says to a person; None for any other line."""
    return line.removeprefix(_SAY) if line.startswith(_SAY) else None


def passing_on(host: str, say: Callable[[str], None]) -> Callable[[str], None]:
    """A taker of a script's lines: what they say goes to ``say``, with the host before it."""

    def on_line(line: str) -> None:
        if (text := said(line)) is not None:
            say(f"[{host}] {text}")

    return on_line


def parse_answer(host: str, stdout: str, stderr: str = "") -> dict[str, object]:
    """The JSON object between the sentinels of a script's output.

    Raises HostError if the host has no usable Python, or answered anything else.
    """
    found = _ANSWER.findall(stdout)
    if found:
        try:
            answer = json.loads(found[-1])
        except ValueError:
            answer = None
        if isinstance(answer, dict):
            return answer
    if NO_PYTHON in stdout:
        there = stdout.rpartition(NO_PYTHON)[2].partition(".\n")[0].strip()
        raise HostError(
            f"{host}: python",
            found=f"none that will do on PATH, but {there}" if there else "none",
            expected="Python 3.8 or later on the PATH of a login without a terminal",
            remedy="install python3 there, or put the one that is there on that PATH",
        )
    tail = (stderr.strip() or stdout.strip() or "nothing").splitlines()[-1][:200]
    raise HostError(
        f"{host}: answer", found=tail, expected="an answer", remedy="run the command again"
    )
