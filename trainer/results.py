"""A folder that is made whole, or not at all: what merge, export and universal leave."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import RequestError


def require_unused(output: Path) -> None:
    """RequestError for a folder that holds something."""
    if output.exists() and any(output.iterdir()):
        raise RequestError(f"{output} is not empty: name another folder")


@contextmanager
def made_whole(output: Path) -> Iterator[Path]:
    """A path beside ``output`` to fill, which becomes it at the end; an error leaves neither."""
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        if output.exists():
            output.rmdir()
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
