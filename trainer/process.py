"""The process that a rank is: what it keeps out of a user's log, and how it ends."""

from __future__ import annotations

import atexit
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import torch.distributed as dist


def quiet() -> None:
    """Leave out what users can do nothing about.

    DeepSpeed calls torch.distributed by names that torch 2.13 warns of, in each backward and step:
    thousands of lines, among which an error is not seen.
    """
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger$"
    )


def run_rank(main: Callable[[], None]) -> NoReturn:
    """Do ``main``, and end this process: it then has nothing to do that is not on disk.

    Python's own exit functions run (W&B sends its last lines in one); destructors of C++ libraries
    do not. gloo's may find a thread of theirs alive and abort ("terminate called without an active
    exception"), or wait for it for ever: torchrun then reports a run as failed that was saved.
    NCCL is told that its group is over, so that no GPU goes away under a peer that still reads.
    """
    code: Any = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    if not (code is None or isinstance(code, int)):
        sys.exit(code)  # a message: Python prints it
    if dist.is_initialized() and dist.get_backend() != dist.Backend.GLOO:
        dist.destroy_process_group()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)
