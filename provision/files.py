"""A text file of this machine, written whole or left as it was."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from provision.errors import ConfigError


def apply_text(path: Path, text: str, *, remedy: str) -> None:
    """Write a file beside its place, then put it there. ConfigError if that can't be written."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise ConfigError(
            str(path),
            found=error.strerror or str(error),
            expected="a file that can be written",
            remedy=remedy,
        ) from None
    finally:
        with suppress(OSError):  # it has its place, or never was
            partial.unlink()
