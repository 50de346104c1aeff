"""Build and download output → progress: pure parsers of one line each."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

_EXTENSION = re.compile(r"^building '(?P<module>[\w.]+)' extension")
_NINJA = re.compile(r"^\[(?P<done>\d+)/(?P<total>\d+)\] ")
_SOURCE = re.compile(r" -c (?P<path>\S+\.(?:cpp|cc|c|cu))\b")
_RAW = re.compile(r"^Progress (?P<done>\d+) of (?P<total>\d+)$")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the compilation is: the extension module at work, and its files.

    ``total`` is 0 until ninja has said how many files there are.
    """

    module: str = ""
    done: int = 0
    total: int = 0
    file: str = ""

    def __str__(self) -> str:
        name = self.module.rpartition(".")[2].removesuffix("_op").removeprefix("deepspeed_")
        if not self.total:
            return f"compiling {name}"
        return f"compiled {name} {self.done}/{self.total}" + (f": {self.file}" * bool(self.file))


def advance(progress: Progress, line: str) -> Progress:
    """Progress after one more line of the build's output; the same value when it says nothing."""
    extension = _EXTENSION.match(line)
    if extension:
        return Progress(module=extension["module"])
    ninja = _NINJA.match(line)
    if ninja and progress.module:
        source = _SOURCE.search(line)
        return replace(
            progress,
            done=int(ninja["done"]),
            total=int(ninja["total"]),
            file=source["path"].rpartition("/")[2] if source else "",
        )
    return progress


def pip_news(line: str) -> str:
    """What a line of pip's output tells a person who waits, or ""."""
    text = line.strip()
    if text.startswith("Downloading "):
        # "Downloading torch-2.13.0-….whl (900.1 MB)", maybe with an address in front
        words = text.removeprefix("Downloading ").split(" ", 1)
        return f"downloading {' '.join([words[0].rpartition('/')[2], *words[1:]])}"
    if text.startswith("Installing collected packages: "):
        return f"installing {text.count(',') + 1} packages"
    return ""


def pip_percent(line: str) -> int | None:
    """The percentage in a line of ``pip --progress-bar raw``, or None. 0 to 100."""
    raw = _RAW.match(line.strip())
    if not raw or not int(raw["total"]):
        return None
    return min(100, 100 * int(raw["done"]) // int(raw["total"]))
