"""The code of a run: our trainers, or the user's own folder, as one archive named by its sha256.

Every host unpacks the same bytes into the run's own folder, so a later edit changes no run. What
travels of a user's folder is what git would: tracked files, and untracked ones that are not
ignored.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from provision.errors import ConfigError
from provision.numbers import size

#: Bytes and files of a code folder. More is data or a model, which has better ways to the hosts.
MAX_BYTES, MAX_FILES = 64 << 20, 10_000
#: The name of a DeepSpeed configuration of the user's own, on hosts.
OWN = "own.json"
#: Folders that are no code, where git does not say so itself.
_NO_CODE = frozenset(
    {".git", ".hg", ".svn", ".venv", "venv", "__pycache__", "node_modules", "outputs", "output"}
    | {"runs", "wandb", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints"}
)


@dataclass(frozen=True, kw_only=True)
class CodeFile:
    """A file of the run's ``code/``. ``target`` is relative to that."""

    target: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Code:
    """What every host runs: the files, and the archive (tar, gzip) that holds them."""

    files: tuple[CodeFile, ...]
    archive: bytes = field(repr=False)

    @property
    def sha256(self) -> str:
        """Of the archive: equal for equal names, contents and modes."""
        return hashlib.sha256(self.archive).hexdigest()

    def __contains__(self, target: object) -> bool:
        return any(file.target == target for file in self.files)

    def text(self, target: str) -> str:
        """What a text file of the archive says; KeyError for one that is not in it."""
        with tarfile.open(fileobj=io.BytesIO(self.archive), mode="r:gz") as tar:
            member = tar.extractfile(target)
            assert member  # a regular file, as read_archive made it
            return member.read().decode()

    def __str__(self) -> str:
        size = sum(file.size for file in self.files)
        return f"{len(self.files)} files, {size:,} bytes, sha256 {self.sha256[:12]}…"


def read_trainer_code(checkout: Path, own: Path | None = None) -> Code:
    """Our trainers: trainer/*.py and zero_configs/*.json of a checkout.

    ``own``: a DeepSpeed configuration of the user's, which travels as zero_configs/own.json.
    """
    paths = sorted([*checkout.glob("trainer/*.py"), *checkout.glob("zero_configs/*.json")])
    files = {path.relative_to(checkout).as_posix(): path for path in paths}
    return read_archive({**files, **({f"zero_configs/{OWN}": own} if own else {})})


def read_own_code(folder: Path, script: Path) -> tuple[Code, str]:
    """The user's folder, and where in it the script is.

    Raises ConfigError for a script that is no file of the folder, a folder that is too large or
    can't be read, and where git refuses to say what belongs to it.
    """
    if not script.is_file():
        raise ConfigError(
            "--script",
            found=f"no file {script}",
            expected="a Python file",
            remedy="name one that is there, from the folder you are in",
        )
    target = os.path.relpath(script.absolute(), folder.absolute())
    if target.startswith(".."):
        raise ConfigError(
            "--script",
            found=f"{script}, outside {folder}",
            expected="a file in the code folder",
            remedy="name the folder that travels with it: --code FOLDER",
        )
    paths = {name: folder / name for name in sorted(read_names(folder))}
    if target not in paths:
        raise ConfigError(
            "--script",
            found=f"{target}, which git ignores",
            expected="a file that travels",
            remedy="take it out of .gitignore",
        )
    _require_small(folder, paths)
    return read_archive(paths), target


def _require_small(folder: Path, paths: Mapping[str, Path]) -> None:
    sizes = {name: path.lstat().st_size for name, path in paths.items()}
    total = sum(sizes.values())
    if total <= MAX_BYTES and len(sizes) <= MAX_FILES:
        return
    largest = max(sizes, key=lambda name: sizes[name])
    raise ConfigError(
        f"code folder {folder}",
        found=f"{size(total)} in {len(sizes):,} files, the largest {largest} "
        f"({size(sizes[largest])})",
        expected=f"code: {size(MAX_BYTES)} and {MAX_FILES:,} files at most",
        remedy="ignore in .gitignore what is no code, or name a smaller folder with --code",
    )


def read_names(folder: Path) -> tuple[str, ...]:
    """What travels of a folder, relative to it: what git has or would add, else all but no code."""
    if not any((parent / ".git").exists() for parent in (folder, *folder.absolute().parents)):
        return tuple(_walk(folder))
    listed = _git(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if listed.returncode:
        lines = listed.stderr.decode(errors="replace").strip().splitlines()
        raise _git_error(folder, lines[0] if lines else f"exit {listed.returncode}")
    if not listed.stdout and not _git(folder, "check-ignore", "--quiet", ".").returncode:
        return tuple(_walk(folder))  # a scratch folder in somebody's repository: not of it
    names: list[str] = []
    for name in dict.fromkeys(os.fsdecode(raw) for raw in listed.stdout.split(b"\0") if raw):
        path = folder / name
        if path.is_dir() and not path.is_symlink():  # a submodule, or a repository of its own
            names += [f"{name.rstrip('/')}/{inner}" for inner in read_names(path)]
        elif path.is_symlink() or path.is_file():  # not what was deleted but is still in the index
            names.append(name)
    return tuple(names)


def _git(folder: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, check=False)
    except OSError as error:
        raise _git_error(folder, error.strerror or str(error)) from None


def _git_error(folder: Path, said: str) -> ConfigError:
    return ConfigError(
        f"code folder {folder}",
        found=f"a git repository, and git ls-files: {said}",
        expected="git to say which files belong to it",
        remedy="make that command work there, or name another folder with --code",
    )


def _walk(folder: Path) -> Iterator[str]:
    """Files and links below a folder without git."""
    for root, folders, names in os.walk(folder):
        here = Path(root)
        linked = [name for name in folders if (here / name).is_symlink()]
        folders[:] = [
            name
            for name in folders
            if name not in (*_NO_CODE, *linked) and not (here / name / "pyvenv.cfg").exists()
        ]
        for name in (*names, *linked):
            path = here / name
            if path.is_symlink() or (path.is_file() and path.suffix != ".pyc"):
                yield path.relative_to(folder).as_posix()


def read_archive(paths: Mapping[str, Path]) -> Code:
    """The archive of these files (name in it → file here); links stay links.

    The same bytes for the same content: no times, no owners, names in order.
    """
    files: list[CodeFile] = []
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, path in sorted(paths.items()):
            member = tarfile.TarInfo(name)
            if path.is_symlink():
                member.type, member.linkname = tarfile.SYMTYPE, str(path.readlink())
                tar.addfile(member)
            else:
                content = path.read_bytes()
                member.size = len(content)
                member.mode = 0o755 if os.access(path, os.X_OK) else 0o644
                tar.addfile(member, io.BytesIO(content))
            files.append(CodeFile(target=name, size=member.size))
    return Code(files=tuple(files), archive=gzip.compress(stream.getvalue(), mtime=0))


def read_script_args(argv: Sequence[str]) -> tuple[str, ...]:
    """What stands behind ``--`` on a command line, word for word.

    Invoke joins these words with spaces (ParseResult.remainder), which loses where each ended.
    """
    return tuple(argv[argv.index("--") + 1 :]) if "--" in argv else ()
