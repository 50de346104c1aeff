"""The process that a rank is: what it keeps out of a user's log, and how it ends."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ErrorHandler, record

from trainer.errors import RequestError


def quiet() -> None:
    """Leave out what users can do nothing about.

    DeepSpeed calls torch.distributed by names that torch 2.13 warns of, in each backward and step:
    thousands of lines, among which an error is not seen.
    """
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger$"
    )


class ErrorFile(ErrorHandler):
    """The file by which torchrun learns why a rank ended: for a RequestError, its one line."""

    def record_exception(self, e: BaseException) -> None:
        """As an ErrorHandler; a disk that is full must not put another error in its place."""
        with contextlib.suppress(OSError):
            if not isinstance(e, RequestError):
                super().record_exception(e)
            elif path := self._get_error_file_path():
                extra = {"py_callstack": str(e), "timestamp": str(int(time.time()))}
                said = json.dumps({"message": {"message": str(e), "extraInfo": extra}})
                Path(path).write_text(said, encoding="utf-8")


def run_rank(main: Callable[[], None]) -> NoReturn:
    """Do ``main``, and end this process: it then has nothing to do that is not on disk.

    A RequestError is one line on stderr, and exit code 1; any other exception has its traceback.

    Python's own exit functions run (W&B sends its last lines in one); destructors of C++ libraries
    do not. gloo's may find a thread of theirs alive and abort ("terminate called without an active
    exception"), or wait for it for ever: torchrun then reports a run as failed that was saved.
    NCCL is told that its group is over, so that no GPU goes away under a peer that still reads.
    """
    code: Any = 0
    try:
        _told(main)
    except SystemExit as end:
        code = end.code
    if not (code is None or isinstance(code, int)):
        sys.exit(code)  # a message: Python prints it
    if not code and dist.is_initialized() and dist.get_backend() != dist.Backend.GLOO:
        dist.destroy_process_group()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def _told(main: Callable[[], None]) -> None:
    try:
        record(main, ErrorFile())()
    except RequestError as error:
        print(f"trainer: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
