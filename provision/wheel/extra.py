"""Extra wheels: projects that take the place of a locked package, built from the user's source.

They lie in the folder of wheels beside DeepSpeed's, each with its own manifest. Pure Python only:
compiled code would need all the proof that DeepSpeed's has.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from provision.errors import ConfigError
from provision.wheel.manifest import SourceOf, read_wheel_paths, sha256_of, sidecar

SCHEMA = 1
KIND = "extra"


@dataclass(frozen=True, kw_only=True)
class ExtraWheel:
    """What an extra wheel is.

    Attributes:
        wheel: its file name.
        sha256: of the wheel file.
        size: of the wheel file, in bytes.
        name: the distribution's name, canonical: the locked package that it takes the place of.
        version: its version.
        requires: its ``Requires-Dist`` lines.
        source: what it was made from.
        key: a name for everything that decides its content.
        cached: it was there already; not part of the file.
    """

    wheel: str
    sha256: str
    size: int
    name: str
    version: str
    requires: tuple[str, ...]
    source: SourceOf
    key: str
    cached: bool = field(default=False, compare=False)

    def as_json(self) -> dict[str, object]:
        """The file's content: a stable contract of this ``schema``."""
        values = asdict(self)
        del values["cached"]
        return {"schema": SCHEMA, "kind": KIND, **values, "requires": list(self.requires)}

    def __str__(self) -> str:
        return f"{self.name} {self.version} from {self.source.name}"


def parse_extra(values: Any, *, name: str) -> ExtraWheel:
    """The object of a manifest → ExtraWheel; ``name`` is how errors call it.

    Raises:
        ConfigError: it is no manifest of an extra wheel.
    """
    expected = {f.name for f in fields(ExtraWheel)} - {"cached"}
    try:
        own = {key: values[key] for key in expected}
        if (values["schema"], values["kind"]) != (SCHEMA, KIND) or type(own["size"]) is not int:
            raise ValueError
        for text in own["requires"]:
            Requirement(text)
        own["requires"] = tuple(own["requires"])
        return ExtraWheel(**{**own, "source": SourceOf(**own["source"])})
    except (InvalidRequirement, KeyError, TypeError, ValueError):
        raise ConfigError(
            name,
            found="no manifest of an extra wheel",
            expected=f"one of kind {KIND!r}, schema {SCHEMA}",
            remedy="build the wheel again: build-deepspeed --with-source …",
        ) from None


def read_extras(folder: Path) -> tuple[ExtraWheel, ...]:
    """The extra wheels of a folder, by name; each file is seen to be the one it was built as.

    Raises:
        ConfigError: a wheel that is neither DeepSpeed's nor built here, one that was changed, or
            two of one distribution.
    """
    own = set(read_wheel_paths(folder))
    found = [_read_extra(path) for path in sorted(folder.glob("*.whl")) if path not in own]
    for name, count in Counter(extra.name for extra in found).items():
        if count > 1:
            raise ConfigError(
                f"{folder}/",
                found=", ".join(extra.wheel for extra in found if extra.name == name),
                expected=f"one wheel of {name}",
                remedy="move the others away",
            )
    return tuple(sorted(found, key=lambda extra: extra.name))


def _read_extra(wheel: Path) -> ExtraWheel:
    beside = sidecar(wheel)
    try:
        values = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ConfigError(
            str(wheel),
            found="a wheel without a manifest",
            expected="DeepSpeed's, or one of build-deepspeed --with-source",
            remedy="move it out of that folder: deploy installs only what it can name to the byte",
        ) from None
    extra = parse_extra(values, name=str(beside))
    facts = (wheel.name, wheel.stat().st_size, sha256_of(wheel))
    if facts != (extra.wheel, extra.size, extra.sha256):
        raise ConfigError(
            str(wheel),
            found=f"sha256 {facts[2][:12]}…, {facts[1]} bytes",
            expected=f"{extra.sha256[:12]}…, {extra.size} bytes (its manifest)",
            remedy="build the wheel again: build-deepspeed --with-source …",
        )
    return extra


def apply_publish(extra: ExtraWheel, wheel: Path, out: Path) -> tuple[str, ...]:
    """Put a wheel file and its manifest into ``out``, each whole or not at all.

    Returns the names of the wheels it replaces there: older ones of the same distribution, built
    here as well, which are removed.
    """
    out.mkdir(parents=True, exist_ok=True)
    for suffix, content in (
        ("", wheel.read_bytes()),
        (".json", (json.dumps(extra.as_json(), indent=2) + "\n").encode()),
    ):
        temporary = out / f".{extra.wheel}{suffix}.{os.getpid()}"
        temporary.write_bytes(content)
        temporary.replace(out / (extra.wheel + suffix))
    replaced = [path for path in sorted(out.glob("*.whl")) if _is_older(path, extra)]
    for path in replaced:
        path.unlink()
        sidecar(path).unlink()
    return tuple(path.name for path in replaced)


def _is_older(wheel: Path, extra: ExtraWheel) -> bool:
    """Whether a wheel is one of ours, of the same distribution under another file name."""
    beside = sidecar(wheel)
    if wheel.name == extra.wheel or not beside.is_file():
        return False
    try:
        values = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return values.get("kind") == KIND and canonicalize_name(values["name"]) == extra.name
