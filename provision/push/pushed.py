"""A local file or folder, as the hosts' stores will have it: under the digest of what is in it.

A folder's digest is that of its manifest, which lists its files as ``sha256sum`` does: the same
content has the same digest, whatever the order, times or modes of the files. Empty folders and
modes do not travel; links to files do, as files.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from provision.errors import ConfigError
from provision.steps import Put

Say = Callable[[str], None]

STORE = ".zerofleet/store/"
#: A file that was written so lately may be written again without its times changing.
_SETTLED_NS = 2 * 10**9


@dataclass(frozen=True, kw_only=True)
class LocalFile:
    """A file of what is pushed; ``path`` is relative to its folder, with slashes."""

    path: str
    source: Path
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What is pushed, to the byte. ``manifest`` is "" for a single file."""

    name: str
    digest: str
    files: tuple[LocalFile, ...]
    manifest: str = ""

    @property
    def path(self) -> str:
        """Where it is on every host that has it."""
        return f"~/{STORE}{self.digest}/{self.name}"

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.size for file in self.files)

    @property
    def puts(self) -> tuple[Put, ...]:
        """Its files and the manifest, each content once; nobody may write to them later."""
        puts = {
            file.sha256: Put(
                target=f"{STORE}{file.sha256}/{file.source.name}",
                sha256=file.sha256,
                size=file.size,
                source=file.source,
                mode=0o444,
            )
            for file in self.files
        }
        if self.manifest:
            text = self.manifest.encode()
            puts[self.digest] = Put(
                target=f"{STORE}{self.digest}/manifest",
                sha256=self.digest,
                size=len(text),
                content=text,
                mode=0o444,
            )
        return tuple(puts.values())


def make_pushed(name: str, files: Sequence[LocalFile], *, folder: bool) -> Pushed:
    """The value of files that were read."""
    if not folder:
        return Pushed(name=name, digest=files[0].sha256, files=tuple(files))
    ordered = tuple(sorted(files, key=lambda file: file.path.encode()))
    manifest = "".join(f"{file.sha256}  {file.path}\n" for file in ordered)
    digest = hashlib.sha256(manifest.encode()).hexdigest()
    return Pushed(name=name, digest=digest, files=ordered, manifest=manifest)


def read_pushed(path: Path, cache: Path, say: Say) -> Pushed:
    """A file or folder of this machine; what was hashed before and is unchanged since is not again.

    Raises ConfigError for what can't be pushed: nothing there, no files, other than files, names
    that are no text.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would lose a link's own name
    found = {path.name: path} if path.is_file() else _files_of(path)
    for name, source in found.items():
        _require_plain(name, source)
    known = _read_known(cache, path)
    keys = {source: _key(source) for source in found.values()}
    fresh = [source for source in keys if keys[source] not in known]
    if sum(source.stat().st_size for source in fresh) > 1e9:
        say(f"hashing {len(fresh)} files of {path}")
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        hashed = dict(zip(fresh, pool.map(_read_sha256, fresh), strict=True))
    digests = {source: hashed.get(source) or known[keys[source]] for source in keys}
    settled = time.time_ns() - _SETTLED_NS
    kept = {keys[s]: digest for s, digest in digests.items() if s.stat().st_ctime_ns < settled}
    _write_known(cache, path, kept)
    files = [
        LocalFile(path=name, source=source, size=source.stat().st_size, sha256=digests[source])
        for name, source in found.items()
    ]
    return make_pushed(path.name, files, folder=path.is_dir())


def _files_of(folder: Path) -> dict[str, Path]:
    """Every file of a folder, by its path in it."""
    found: dict[str, Path] = {}
    for root, folders, names in os.walk(folder):
        for name in [*names, *(f for f in folders if (Path(root) / f).is_symlink())]:
            path = Path(root) / name
            found[path.relative_to(folder).as_posix()] = path
    if not found:
        raise ConfigError(
            str(folder),
            found="an empty folder" if folder.is_dir() else "no such file or folder here",
            expected="a file or folder of this machine to push",
            remedy="correct the path",
        )
    return found


def _require_plain(name: str, source: Path) -> None:
    """Only files, or links to files, whose names every host can have and the manifest can list."""
    if name.isprintable() and "\\" not in name and source.is_file() and os.access(source, os.R_OK):
        return
    is_link = source.is_symlink() and source.is_dir()
    found = "a link to a folder" if is_link else "no file that can be read"
    if not name.isprintable() or "\\" in name:
        found = "a name with control characters, a backslash, or not in UTF-8"
    raise ConfigError(
        ascii(str(source))[1:-1], found=found, expected="a plain file", remedy="remove or rename it"
    )


def _read_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _key(path: Path) -> str:
    """What changes when a file does."""
    s = path.stat()
    return json.dumps([s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns])


def _known_path(cache: Path, path: Path) -> Path:
    return cache / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"


def _read_known(cache: Path, path: Path) -> Mapping[str, str]:
    """Digests found before; none where the file is missing or not ours."""
    try:
        known = json.loads(_known_path(cache, path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write_known(cache: Path, path: Path, known: Mapping[str, str]) -> None:
    """Keep digests for the next time; a cache that can't be written only costs that time."""
    target = _known_path(cache, path)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial.write_text(json.dumps(known), encoding="utf-8")
        partial.replace(target)
    except OSError:
        partial.unlink(missing_ok=True)
