"""DeepSpeed's source: a pinned release, or the user's own tree or archive."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from packaging.version import InvalidVersion, Version

from provision.build.spec import RELEASES, BuildSpec
from provision.errors import BuildError, ConfigError
from provision.wheel.manifest import SourceOf, sha256_of

# Left behind when a source tree is hashed and copied: version control, and what builds leave.
_IGNORED_NAMES = frozenset(
    {".git", "build", "dist", "__pycache__", "git_version_info_installed.py"}
)
_IGNORED_SUFFIXES = (".egg-info", ".so", ".pyc")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source as found.

    Attributes:
        name: the archive's or folder's name.
        version: what its ``version.txt`` says.
        sha256: of the archive, or of a folder's file names and contents.
        path: where it lies; None for a release, which pip brings.
    """

    name: str
    version: str
    sha256: str
    path: Path | None = None

    @property
    def pinned(self) -> bool:
        """Whether it is a release whose hash is pinned in spec.RELEASES."""
        return self.path is None

    @property
    def origin(self) -> SourceOf:
        """What a wheel's manifest keeps of it."""
        return SourceOf(name=self.name, sha256=self.sha256)


def read_source(spec: BuildSpec) -> Source:
    """The source a spec speaks of; files are read only for ``--source``.

    Raises:
        ConfigError: there is no DeepSpeed source at the path.
    """
    if spec.source is None:
        assert spec.version is not None  # parse_build_spec: one of the two
        return Source(
            name=f"deepspeed-{spec.version}.tar.gz",
            version=spec.version,
            sha256=RELEASES[spec.version],
        )
    path = spec.source.resolve()
    if path.is_dir():
        version = _read_tree_version(path)
        return Source(name=path.name, version=version, sha256=_read_tree_sha256(path), path=path)
    if path.is_file():
        version = _read_archive_version(path)
        return Source(name=path.name, version=version, sha256=sha256_of(path), path=path)
    raise _no_source(path, "no such file or folder")


def apply_unpack(archive_or_tree: Path, target: Path) -> None:
    """Put a source tree at ``target`` (which must not exist) from an archive or another tree."""
    if archive_or_tree.is_dir():
        shutil.copytree(archive_or_tree, target, symlinks=True, ignore=_ignored)
        return
    staging = target.with_name(target.name + ".unpacked")
    with tarfile.open(archive_or_tree) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extractall(staging, filter="data")
        else:  # Python 3.11.0 to 3.11.3, Debian 12's: https://docs.python.org/3.11/library/tarfile.html
            members = _plain_members(archive, archive_or_tree.name)
            archive.extractall(staging, members=members)  # noqa: S202 - members are plain
    tops = list(staging.iterdir())
    if len(tops) != 1:
        raise BuildError(
            archive_or_tree.name,
            found=f"{len(tops)} top folders",
            expected="one",
            remedy="give a source archive as DeepSpeed publishes it",
        )
    tops[0].rename(target)
    staging.rmdir()


def _plain_members(archive: tarfile.TarFile, name: str) -> Iterator[tarfile.TarInfo]:
    """Files, folders and links that stay inside; BuildError for anything else."""
    for member in archive:
        parts = [PurePosixPath(member.name)]
        if member.issym() or member.islnk():
            parts.append(PurePosixPath(member.linkname))
        plain = member.isfile() or member.isdir() or len(parts) == 2
        if not plain or any(part.is_absolute() or ".." in part.parts for part in parts):
            raise BuildError(
                name,
                found=f"{member.name}, which leads out of the archive or is no plain file",
                expected="files, folders and links below one folder",
                remedy="give a source archive as DeepSpeed publishes it",
            )
        yield member


def _ignored(_folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name in _IGNORED_NAMES or name.endswith(_IGNORED_SUFFIXES)}


def _read_tree_version(tree: Path) -> str:
    for needed in ("setup.py", "version.txt", "op_builder"):
        if not (tree / needed).exists():
            raise _no_source(tree, f"no {needed} in it")
    return _parse_version((tree / "version.txt").read_text(encoding="utf-8"), tree)


def _read_archive_version(path: Path) -> str:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if PurePosixPath(member.name).parts[1:] == ("version.txt",):
                    file = archive.extractfile(member)
                    return _parse_version(file.read().decode() if file else "", path)
    except tarfile.TarError as error:
        raise _no_source(path, f"no archive that tar can read ({error})") from None
    raise _no_source(path, "no version.txt at its top")


def _parse_version(text: str, path: Path) -> str:
    try:
        return str(Version(text.strip()))
    except InvalidVersion:
        raise _no_source(path, f"version.txt saying {text.strip()!r}") from None


def _no_source(path: Path, found: str) -> ConfigError:
    return ConfigError(
        f"--source {path}",
        found=found,
        expected="a DeepSpeed source folder, or a .tar.gz of one",
        remedy="give the folder that holds setup.py and version.txt",
    )


def _read_tree_sha256(tree: Path) -> str:
    digest = hashlib.sha256()
    for path in _walk(tree):
        digest.update(f"{path.relative_to(tree).as_posix()}\0".encode())
        if path.is_symlink():
            digest.update(f"-> {path.readlink().as_posix()}\0".encode())
        else:
            digest.update(bytes.fromhex(sha256_of(path)))
    return digest.hexdigest()


def _walk(tree: Path) -> Iterator[Path]:
    """Files and links of a tree in a fixed order; a link to a folder is a leaf."""
    for folder, folders, files in os.walk(tree):
        dropped = _ignored(folder, [*folders, *files])
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        folders[:] = sorted(set(folders) - dropped - set(links))
        for name in sorted({*files, *links} - dropped):
            yield Path(folder) / name
