"""What a wheel file holds, as far as it can be said without running any of it."""

from __future__ import annotations

import ast
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from provision.errors import ConfigError
from provision.wheel.ops import OPS

#: Written by DeepSpeed's setup.py; what DeepSpeed itself goes by at run time.
_INSTALLED = "deepspeed/git_version_info_installed.py"


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A DeepSpeed wheel's file name, its modules, and what DeepSpeed's own record says of it.

    Attributes:
        version: of the file name.
        tags: of the file name, such as "cp311-cp311-linux_x86_64".
        modules: compiled modules: op (our name, else DeepSpeed's) → path in the wheel.
        installed_ops: the ops that DeepSpeed calls installed, sorted.
        accelerator: the accelerator that DeepSpeed was built for; "" where it does not say.
        torch: major.minor of the torch it was built against; "" where it does not say.
        torch_cuda: that torch's CUDA, None for a torch without.
    """

    version: str
    tags: tuple[str, ...]
    modules: Mapping[str, str]
    installed_ops: tuple[str, ...]
    accelerator: str
    torch: str
    torch_cuda: str | None


@contextmanager
def opened_wheel(wheel: Path) -> Iterator[zipfile.ZipFile]:
    """A wheel's archive, every file of it as it was packed.

    Raises:
        ConfigError: no such file, no archive, or a damaged one.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            damaged = archive.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"{damaged} is damaged")
            yield archive
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        found = error.strerror if isinstance(error, OSError) else str(error)
        raise _no_wheel(wheel, found or type(error).__name__, "copy or build it again") from None


def read_contents(wheel: Path) -> Contents:
    """Look into a wheel file; nothing of it is run or imported.

    Raises:
        ConfigError: it can't be read, or is no DeepSpeed wheel.
    """
    name, version, tags = _parse_name(wheel)
    with opened_wheel(wheel) as archive:
        names = archive.namelist()
        text = archive.read(_INSTALLED).decode(errors="replace") if _INSTALLED in names else None
    if name != "deepspeed" or text is None:
        found = f"a wheel of {name}" if name != "deepspeed" else f"no {_INSTALLED} in it"
        raise _no_wheel(wheel, found, "name a wheel of DeepSpeed")
    try:
        values = parse_assignments(text)
    except (SyntaxError, ValueError) as error:
        found = f"{_INSTALLED} that can't be read ({error})"
        raise _no_wheel(wheel, found, "name another wheel") from None
    return make_contents(version, tags, names, values)


def make_contents(
    version: str, tags: tuple[str, ...], names: list[str], values: Mapping[str, Any]
) -> Contents:
    """A file's name and list, and DeepSpeed's record → Contents."""
    modules = [name for name in names if name.startswith("deepspeed/") and name.endswith(".so")]
    ops, torch = values.get("installed_ops"), values.get("torch_info") or {}
    cuda = str(torch.get("cuda_version", "0.0"))
    return Contents(
        version=version,
        tags=tags,
        modules={_op_of(name): name for name in sorted(modules)},
        installed_ops=tuple(sorted(_our_name(key) for key, on in (ops or {}).items() if on)),
        accelerator=str(values.get("accelerator_name", "")),
        torch=str(torch.get("version", "")),
        torch_cuda=None if cuda == "0.0" else cuda,
    )


def _op_of(module: str) -> str:
    """The op of a module in a wheel: a name of ours, else what its file is called."""
    path = module.split(".", 1)[0]
    names = (op.name for op in OPS.values() if op.module_path == path)
    return next(names, path.rpartition("/")[2].removesuffix("_op"))


def _our_name(installed: str) -> str:
    """DeepSpeed's name of an op → ours."""
    return next((op.name for op in OPS.values() if op.installed_name == installed), installed)


def parse_assignments(text: str) -> dict[str, Any]:
    """``name = literal`` lines of a Python file → values; other lines are passed over.

    Raises SyntaxError or ValueError for what is no Python, or no literal.
    """
    values = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values[node.targets[0].id] = ast.literal_eval(node.value)
    return values


def read_places(wheel: Path, paths: tuple[str, ...]) -> dict[str, str]:
    """Files of a wheel that hold one of these paths: file → path."""
    found = {}
    with opened_wheel(wheel) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            for path in paths:
                if path.encode() in content:
                    found[name] = path
    return found


def _parse_name(wheel: Path) -> tuple[str, str, tuple[str, ...]]:
    try:
        name, version, _build, tags = parse_wheel_filename(wheel.name)
    except InvalidWheelFilename as error:
        raise _no_wheel(wheel, str(error), "name a .whl file by its full name") from None
    return str(name), str(version), tuple(sorted(str(tag) for tag in tags))


def _no_wheel(wheel: Path, found: str, remedy: str) -> ConfigError:
    return ConfigError(str(wheel), found=found, expected="a DeepSpeed wheel", remedy=remedy)
