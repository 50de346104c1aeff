"""A folder as one archive with one hash: the same bytes whenever the files are the same."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

#: What of a checkout its commands need: nothing else is sent to a host that builds.
CONTROLLER = ("locks", "provision", "tasks.py", "zf")
_LEFT_OUT = frozenset({"__pycache__", ".git"})
_LEFT_OUT_SUFFIXES = (".pyc", ".egg-info")
#: What builds leave, but only at a project's top: packages may have parts of these names.
_LEFT_OUT_AT_TOP = frozenset({"build", "dist"})


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """Files, packed. ``name`` is the archive's file name; ``sha256`` is of its bytes."""

    name: str
    content: bytes = field(repr=False)

    @property
    def sha256(self) -> str:
        """What names it on a host."""
        return hashlib.sha256(self.content).hexdigest()


def read_controller(checkout: Path) -> Bundle:
    """This checkout's own commands, as ``controller.tar.gz`` (without a top folder)."""
    files = [
        path
        for name in CONTROLLER
        for path in ([checkout / name] if (checkout / name).is_file() else _walk(checkout / name))
    ]
    return Bundle(name="controller.tar.gz", content=_pack(checkout, files))


def read_folder(folder: Path) -> Bundle:
    """A source folder, with itself as the top one; what git and builds leave behind stays here."""
    files = _walk(folder, _LEFT_OUT_AT_TOP)
    return Bundle(name=f"{folder.name}.tar.gz", content=_pack(folder.parent, files))


def _walk(root: Path, at_top: frozenset[str] = frozenset()) -> list[Path]:
    """Files and links below ``root`` in a fixed order; ``at_top`` is left out there only."""
    found = []
    for folder, folders, files in os.walk(root):
        left_out = _LEFT_OUT | (at_top if Path(folder) == root else frozenset())
        here = [name for name in (*folders, *files) if name not in left_out]
        here = [name for name in here if not name.endswith(_LEFT_OUT_SUFFIXES)]
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        folders[:] = sorted(set(folders).intersection(here) - set(links))
        found += [Path(folder) / name for name in here if name in files or name in links]
    return sorted(found)


def _pack(root: Path, files: Iterable[Path]) -> bytes:
    packed = io.BytesIO()
    # Times and owners are left at zero: they say nothing about the files' content.
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1, mtime=0, filename="") as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in files:
            entry = tarfile.TarInfo(path.relative_to(root).as_posix())
            if path.is_symlink():
                entry.type, entry.linkname = tarfile.SYMTYPE, path.readlink().as_posix()
                archive.addfile(entry)
                continue
            content = path.read_bytes()
            entry.size = len(content)
            entry.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
