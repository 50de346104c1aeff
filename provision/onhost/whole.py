"""Whether the environments here are what was installed: every file that their packages list.

    whole.py    hashes them; answers, environment by environment, what is not as it was

Packages list their files, with hashes, in RECORD:
https://packaging.python.org/en/latest/specifications/recording-installed-packages/
Bytecode is in no such list with a hash: Python makes it anew from a source that changed. A file
that no package lists would be imported as well, so it is named, too.

Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import base64
import csv
import glob
import hashlib
import os
import re
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from provision.onhost.converse import live, reason, reply, say
from provision.onhost.home import ENVS, in_use
from provision.onhost.usage import folders, read_known

#: What is named; the others are counted.
NAMED = 20
#: Seconds between two lines of progress.
SAY_SECONDS = 5.0
#: What install.py and uv itself put there: https://docs.astral.sh/uv/reference/cli/#uv-venv
OWN = ("zerofleet.pth", "_virtualenv.py", "_virtualenv.pth")


class Environment:
    """One environment: the files that its packages list, and what is wrong with the lists."""

    def __init__(self, name: str) -> None:
        self.name, self.folder = name, os.path.join(ENVS, name)
        self.record = read_known(os.path.join(self.folder, "complete.json"))
        self.files: dict[str, str] = {}  # path → "sha256=…", as RECORD has it
        self.versions: dict[str, str] = {}
        self.differs: list[tuple[str, str]] = []
        self.bytes = self.hashed = 0

    @property
    def sites(self) -> list[str]:
        """Where its own packages are: one folder, unless it was made by two Pythons."""
        pattern = os.path.join(glob.escape(self.folder), "lib", "python3*", "site-packages")
        return sorted(glob.glob(pattern))

    def differ(self, path: str, what: str) -> None:
        """Note down what is not as it was installed."""
        self.differs.append((os.path.relpath(path, self.folder), what))

    def read_lists(self) -> None:
        """RECORD of every package; one that is torn, or that is not there, is named."""
        for site in self.sites:
            for info in sorted(glob.glob(os.path.join(glob.escape(site), "*.dist-info"))):
                self.files[os.path.join(info, "RECORD")] = ""
                try:
                    self._read_list(site, info)
                except (OSError, ValueError, csv.Error) as error:
                    self.differ(os.path.join(info, "RECORD"), "can't be read: %s" % error)

    def _read_list(self, site: str, info: str) -> None:
        with open(os.path.join(info, "METADATA"), encoding="utf-8") as text:
            head = text.read().partition("\n\n")[0]
        said = dict(line.partition(": ")[::2] for line in head.splitlines())
        name = re.sub(r"[-_.]+", "-", said.get("Name", "")).lower()
        self.versions[name] = said.get("Version", "")
        record = os.path.join(info, "RECORD")
        with open(record, encoding="utf-8", newline="") as text:
            rows = [
                (os.path.normpath(os.path.join(site, row[0])), row[1]) for row in csv.reader(text)
            ]
        if record not in dict(rows):
            self.differ(record, "is cut off: it does not list itself")
        self.files.update(rows)

    def compare_versions(self) -> None:
        """What complete.json says was proved, beside the packages that are there."""
        wanted = self.record.get("versions") or {}
        for name in sorted(wanted):
            found = self.versions.get(name)
            if found != wanted[name]:
                what = "%s was proved, %s is there" % (wanted[name], found or "none")
                self.differs.append((name, what))

    def compare_python(self) -> None:
        """Its interpreter is a link to one of the host: is that still there, and the same?"""
        python = os.path.join(self.folder, "bin", "python")
        code = "import sys; print('%d.%d.%d' % sys.version_info[:3])"
        try:
            done = subprocess.run(
                [python, "-I", "-S", "-c", code],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
                timeout=30,
            )  # fmt: skip
            found = done.stdout.decode("utf-8", "replace").strip() or "exit %d" % done.returncode
        except (OSError, subprocess.SubprocessError) as error:
            found = getattr(error, "strerror", None) or "no answer"
        if found != self.record.get("python"):
            self.differ(python, "was Python %s: %s" % (self.record.get("python"), found))
        for site in self.record.get("sites") or ():
            if not os.path.isdir(site):
                self.differs.append((site, "is missing: it lies over that Python's packages"))

    def compare_strays(self) -> None:
        """Files beside packages that none of them lists."""
        for site in self.sites:
            for root, inner, names in os.walk(site):
                inner[:] = [name for name in inner if name != "__pycache__"]
                for path in [os.path.join(root, name) for name in names]:
                    if path not in self.files and os.path.relpath(path, site) not in OWN:
                        self.differ(path, "is of no package")

    def compare_file(self, path: str) -> tuple[str, int]:
        """("" or what is wrong with a file, its bytes)."""
        kind, _, wanted = self.files[path].partition("=")
        if not wanted:
            plain = os.path.basename(path) == "RECORD" or path.endswith(".pyc")
            return ("" if plain else "has no hash in RECORD", 0)
        try:
            sha, size = hashlib.new(kind), 0
            with open(path, "rb") as stream:
                for block in iter(lambda: stream.read(1 << 20), b""):
                    sha.update(block)
                    size += len(block)
        except FileNotFoundError:
            return "is missing", 0
        except OSError as error:
            return reason(error), 0
        except ValueError:
            return "has a hash that this Python does not know: %s" % kind, 0
        found = base64.urlsafe_b64encode(sha.digest()).decode().rstrip("=")
        return ("" if found == wanted else "%s differs" % kind, size)

    def compare_files(self) -> None:
        """Every listed file, on all cores; hashing lets the other threads go on."""
        with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
            for path, (what, size) in zip(self.files, pool.map(self.compare_file, self.files)):
                self.hashed += 1
                self.bytes += size
                if what:
                    self.differ(path, what)

    def progress(self, over: threading.Event) -> None:
        """Say every few seconds how far it is: the body of a thread."""
        while not over.wait(SAY_SECONDS):
            done = (self.name, self.hashed, len(self.files), self.bytes / 1e9)
            say("checking %s: %d of %d files, %.1f GB" % done)

    def check(self) -> dict[str, Any]:
        """All of it, as it is answered."""
        if self.record:
            over = threading.Event()
            threading.Thread(target=self.progress, args=(over,), daemon=True).start()
            try:
                self.read_lists()
                if not self.files:
                    self.differ(os.path.join(self.folder, "lib"), "holds no package")
                self.compare_versions()
                self.compare_python()
                self.compare_files()
                self.compare_strays()
            finally:
                over.set()
        return {
            "name": self.name,
            "complete": bool(self.record),
            "files": len(self.files),
            "bytes": self.bytes,
            "differing": len(self.differs),
            "differs": [{"path": path, "what": what} for path, what in self.differs[:NAMED]],
            "over": self.record.get("base"),
        }


if __name__ == "__main__":
    threading.Thread(target=live, daemon=True).start()
    names = [name for name in folders(ENVS) if not name.startswith(".")]
    names = [name for name in names if not name.endswith(".work")]
    reply({"current": in_use(), "environments": [Environment(name).check() for name in names]})
