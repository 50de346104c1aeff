"""The manifest of a wheel: what it is, in a JSON file beside it (``<wheel>.json``).

A wheel's file name hides what decides whether it runs on a host: the CPU level, glibc, the torch
it was compiled against. Whoever deploys reads it here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from provision.errors import ConfigError
from provision.files import apply_text

SCHEMA = 2
#: DeepSpeed's wheels in a folder; others may lie beside them (build-deepspeed --with-source).
WHEELS = "deepspeed-*.whl"


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """One installed distribution, named to the byte by the hash of its file."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class SourceOf:
    """The source a wheel was made from: a file or folder name and its hash."""

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class WheelManifest:
    """What a wheel is.

    Attributes:
        wheel: the wheel's file name.
        sha256: of the wheel file.
        size: of the wheel file, in bytes.
        deepspeed: the full version, local part included.
        accelerator: what DeepSpeed was built for.
        ops_asked: names of the ops asked for, sorted.
        ops: names of the ops in it, sorted; each was seen to load, or is in ``not_loaded``.
        not_loaded: op → why it could not be loaded where the wheel was built (no GPU driver).
        torch: ``torch.__version__`` at build time, such as "2.13.0+cpu".
        torch_dist: the version of the torch distribution that pip installed.
        torch_cuda: ``torch.version.cuda`` at build time, None for a torch without.
        python_tag: the interpreter it is for, such as "cp311".
        platform: the wheel's platform tag.
        toolkit: nvcc's version, such as "13.0.88"; None for a wheel without device code.
        arch_list: compute capabilities as asked, such as "8.0" and "9.0+PTX"; empty for cpu.
        ptx: of those, the ones whose PTX is in the wheel, as found; empty for cpu.
        archs_checked: whether the device code found in it is that of ``arch_list``.
        cpu: the CPU level its code needs.
        isa_checked: whether its instructions were seen to stay within that level.
        glibc: the oldest glibc it loads on.
        glibcxx: the oldest GLIBCXX symbol version it loads on.
        compiler: the compiler and its version.
        source: what it was made from.
        built_at: UTC, ISO 8601.
        requires: torch and everything torch pulled in, as installed for the build.
        cached: it was there already and nothing was built; not part of the file.
    """

    wheel: str
    sha256: str
    size: int
    deepspeed: str
    accelerator: str
    ops_asked: tuple[str, ...]
    ops: tuple[str, ...]
    not_loaded: Mapping[str, str]
    torch: str
    torch_dist: str
    torch_cuda: str | None
    python_tag: str
    platform: str
    toolkit: str | None
    arch_list: tuple[str, ...]
    ptx: tuple[str, ...]
    archs_checked: bool
    cpu: str
    isa_checked: bool
    glibc: str
    glibcxx: str
    compiler: str
    source: SourceOf
    built_at: str
    requires: tuple[Distribution, ...]
    cached: bool = field(default=False, compare=False)

    def as_json(self) -> dict[str, object]:
        """The file's content: a stable contract of this ``schema``."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "cached"}
        values.update({key: list(values[key]) for key in _LISTS})
        values["not_loaded"] = dict(self.not_loaded)
        values["source"] = dict(vars(self.source))
        values["requires"] = [dict(vars(one)) for one in self.requires]
        return {"schema": SCHEMA, **values}

    def __str__(self) -> str:
        return f"{self.wheel} ({self.size:,} bytes, ops {', '.join(self.ops)})"


def sidecar(wheel: Path) -> Path:
    """The path of a wheel's manifest."""
    return wheel.with_name(wheel.name + ".json")


def parse_manifest(text: str, *, name: str = "manifest") -> WheelManifest:
    """A manifest's JSON text → WheelManifest; ``name`` is how errors call it.

    Raises:
        ConfigError: not JSON, another schema, or a key that is missing, extra or of another type.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise _broken(name, f"no JSON ({error})") from None
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        found = values.get("schema") if isinstance(values, dict) else type(values).__name__
        raise _broken(name, f"schema {found}")
    expected = {f.name for f in fields(WheelManifest)} - {"cached"} | {"schema"}
    if odd := expected ^ values.keys():
        raise _broken(name, f"missing or unknown keys {', '.join(sorted(odd))}")
    del values["schema"]
    try:
        return _from_values(values)
    except (TypeError, ValueError) as error:
        raise _broken(name, str(error)) from None


def _from_values(values: Mapping[str, Any]) -> WheelManifest:
    wrong = sorted(key for key, value in values.items() if not _TYPES[key](value))
    if wrong:
        raise ValueError(f"values of another type: {', '.join(wrong)}")
    tuples = {key: tuple(values[key]) for key in _LISTS}
    return WheelManifest(
        **{
            **values,
            **tuples,
            "source": SourceOf(**values["source"]),
            "requires": tuple(Distribution(**one) for one in values["requires"]),
        }
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: object) -> bool:
    return isinstance(value, str | None)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_text_by_text(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


_LISTS = ("ops_asked", "ops", "arch_list", "ptx")
#: Key → whether a value is of its type; ``source`` and ``requires`` are judged by their classes.
_TYPES: Mapping[str, Callable[[object], bool]] = MappingProxyType(
    {
        **{f.name: _is_text for f in fields(WheelManifest) if f.name != "cached"},
        **dict.fromkeys(_LISTS, _is_texts),
        **dict.fromkeys(("torch_cuda", "toolkit"), _is_text_or_none),
        **dict.fromkeys(("isa_checked", "archs_checked"), lambda value: type(value) is bool),
        "size": lambda value: type(value) is int,
        "not_loaded": _is_text_by_text,
        "source": lambda _value: True,
        "requires": lambda _value: True,
    }
)


def _broken(name: str, found: str) -> ConfigError:
    return ConfigError(
        name,
        found=found,
        expected=f"a wheel manifest of schema {SCHEMA}",
        remedy="build the wheel again (build-deepspeed writes both files)",
    )


def read_manifest(wheel: Path) -> WheelManifest:
    """The manifest of this wheel file, after the file was seen to be the one it speaks of.

    Raises:
        ConfigError: wheel or manifest is missing or broken, or they don't belong together.
    """
    if not wheel.is_file():
        raise ConfigError(
            str(wheel), found="no such file", expected="a wheel", remedy="build it, or name another"
        )
    beside = sidecar(wheel)
    if not beside.is_file():
        raise ConfigError(
            str(wheel),
            found="no manifest beside it",
            expected=beside.name,
            remedy="copy both files, or build the wheel again",
        )
    manifest = parse_manifest(beside.read_text(encoding="utf-8"), name=str(beside))
    _require_same(manifest, wheel)
    return manifest


def _require_same(manifest: WheelManifest, wheel: Path) -> None:
    try:
        parse_wheel_filename(wheel.name)
    except InvalidWheelFilename as error:
        raise ConfigError(
            str(wheel), found=str(error), expected="a wheel's file name", remedy="rename it back"
        ) from None
    facts = (
        ("name", wheel.name, manifest.wheel),
        ("size", wheel.stat().st_size, manifest.size),
        ("sha256", sha256_of(wheel), manifest.sha256),
    )
    for what, found, expected in facts:
        if found != expected:
            raise ConfigError(
                f"{wheel}: {what}",
                found=found,
                expected=f"{expected} (its manifest)",
                remedy="copy both files again, or build the wheel again",
            )


def read_wheel_paths(folder: Path) -> tuple[Path, ...]:
    """The DeepSpeed wheels of a folder, by file name; ConfigError if that is a file."""
    if folder.is_file():
        raise ConfigError(
            "--wheels",
            found=f"a file, {folder}",
            expected="a folder",
            remedy="name the one it is in",
        )
    return tuple(sorted(folder.glob(WHEELS)))


def read_wheels(folder: Path) -> tuple[WheelManifest, ...]:
    """The manifests of all wheels in a folder, by file name; each is checked as in read_manifest.

    A folder that does not exist holds no wheels.
    """
    return tuple(read_manifest(wheel) for wheel in read_wheel_paths(folder))


def read_wheel(folder: Path, name: str | None = None) -> WheelManifest:
    """The manifest of the folder's one wheel, or of the one that is named.

    Raises:
        ConfigError: none, or several and no name, or as in read_manifest.
    """
    if name is not None:
        return read_manifest(folder / name)
    names = [path.name for path in read_wheel_paths(folder)]
    if len(names) != 1:
        raise ConfigError(
            f"{folder}/",
            found=f"{len(names)} wheels: {', '.join(names)}" if names else "no wheel",
            expected="one wheel",
            remedy="say which with --wheel" if names else "run build-deepspeed first",
        )
    return read_manifest(folder / names[0])


def apply_manifest(manifest: WheelManifest, folder: Path) -> Path:
    """Write a manifest beside its wheel in ``folder``; whole or not at all. Returns its path."""
    path = sidecar(folder / manifest.wheel)
    text = json.dumps(manifest.as_json(), indent=2) + "\n"
    apply_text(path, text, remedy="name a folder that you may write to: --wheels")
    return path


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
