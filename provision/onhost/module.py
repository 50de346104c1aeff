"""Run a module of the trainer here, in an environment's Python, and pass on what it says.

The controller and this script speak JSON lines; what the controller says comes over stdin:

    {"archive": BASE64, "sha256": …, "python": "~/…/python"}   the code, and who runs it
    → {"folder": F}                 a working folder with code/ in it, private, gone when this ends
    {"module": "trainer.merge", "args": […]}                   start it; F/result is its to fill
    → {"said": {…}}                 each JSON line that it writes to stdout
    → {"exit": 0, "last": "…", "files": [{"path", "size", "sha256"}]}   what is in F/result
    {…}                             any other line goes to the module's stdin

Its stderr is progress. When stdin ends, here and with it the module ends, and F is removed: a
broken connection leaves nothing behind. Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from typing import Any

from provision.onhost import collect, unpack
from provision.onhost.converse import answer_line, live, write
from provision.onhost.home import make_root

#: Seconds that a module has to end after SIGTERM.
GRACE = 5.0
#: No bars, and no word about what is no error: each line is shown to a person.
QUIET = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore::FutureWarning",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}


def tell(line: str) -> None:
    """One whole line to the controller. Where it has gone, stdin ends, and that ends this."""
    with contextlib.suppress(OSError):
        write(line)


def reply(**found: Any) -> None:
    """One answer."""
    tell(answer_line(found))


def start(folder: str, python: str, order: dict[str, Any]) -> subprocess.Popen[str]:
    """The module as a child, its code in the working folder."""
    return subprocess.Popen(
        [python, "-m", order["module"], *order["args"]],
        cwd=os.path.join(folder, "code"),
        env={**os.environ, **QUIET},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )


def pass_on(child: subprocess.Popen[str], folder: str) -> None:
    """Everything that it says, then how it ended: the body of a thread."""
    last = [""]

    def errors() -> None:
        assert child.stderr
        for line in child.stderr:
            if line.strip():
                last[0] = line.rstrip()
                tell("ZEROFLEET-SAY " + last[0])

    reader = threading.Thread(target=errors, daemon=True)
    reader.start()
    assert child.stdout
    for line in child.stdout:
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if isinstance(said, dict):
            reply(said=said)
        elif line.strip():
            tell("ZEROFLEET-SAY " + line.rstrip())
    reader.join()
    code = child.wait()
    paths = collect.below(os.path.join(folder, "result"), True) if code == 0 else ()
    files = [file for file in map(collect.read_file, paths) if file]
    reply(exit=code, last=last[0], files=files)


def end(child: subprocess.Popen[str]) -> None:
    """Stop the module, politely first."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def prepare(folder: str, first: dict[str, Any]) -> str:
    """Unpack the code; the interpreter's path. ValueError where there is none."""
    archive = os.path.join(folder, "code.tar.gz")
    with open(archive, "wb") as stream:
        stream.write(base64.b64decode(first["archive"]))
    unpack.unpack(archive, first["sha256"], os.path.join(folder, "code"))
    python: str = os.path.expanduser(first["python"])
    if not os.access(python, os.X_OK):
        raise ValueError("no interpreter %s: deploy an environment first" % python)
    return python


def converse(folder: str) -> None:
    """One module, from the first order to the end of stdin."""
    python = prepare(folder, json.loads(sys.stdin.readline()))
    reply(folder=folder)
    child = None
    try:
        for line in iter(sys.stdin.readline, ""):
            if child is None:
                child = start(folder, python, json.loads(line))
                threading.Thread(target=pass_on, args=(child, folder), daemon=True).start()
                continue
            with contextlib.suppress(OSError):  # it has ended, which pass_on tells
                assert child.stdin
                child.stdin.write(line)
                child.stdin.flush()
    finally:
        if child is not None:
            end(child)


def main() -> None:
    """Work in a folder of our own, and leave nothing."""
    root = os.path.expanduser("~/.zerofleet/asked")
    make_root(os.path.dirname(root))
    os.makedirs(root, mode=0o700, exist_ok=True)
    folder = tempfile.mkdtemp(dir=root)
    threading.Thread(target=live, args=(tell,), daemon=True).start()
    try:
        converse(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # others are at work there
            os.rmdir(root)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.stderr.write("%s\n" % error)
        sys.exit(1)
