"""What is known to end a run, by the words that it ends with, and what helps.

Each with where its words come from. A failure that none of these names is shown as it is: better no
remedy than a wrong one. Want of memory has its own answer (memory/judge.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """``words``: how such a failure reads; ``cause``: what it is; ``remedy``: what to do."""

    words: re.Pattern[str]
    cause: str
    remedy: str
    source: str

    def __str__(self) -> str:
        return f"{self.cause}: {self.remedy} ({self.source})"

    def as_json(self) -> dict[str, str]:
        """Its parts, for a run's ``known``."""
        return {"cause": self.cause, "remedy": self.remedy, "source": self.source}


def _known(words: str, cause: str, remedy: str, source: str) -> Remedy:
    return Remedy(words=re.compile(words), cause=cause, remedy=remedy, source=source)


#: The first that fits counts.
REMEDIES = (
    _known(
        r"NVRM: Xid",
        "a GPU of that host failed, by its driver's own word",
        "look its Xid up: a program may cause 13, 31, 43 and 45; for others reset or replace the "
        "GPU, and go on without it (--exclude)",
        "https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html",
    ),
    _known(
        r"EADDRINUSE|[Aa]ddress already in use",
        "another process listens on the run's port",
        "give another --master-port, or end the run that has it (invoke runs)",
        "https://man7.org/linux/man-pages/man2/bind.2.html",
    ),
    _known(
        r"No space left on device|ENOSPC",
        "a disk of that host is full",
        "free some, or write elsewhere with --output; invoke clean removes old environments",
        "https://man7.org/linux/man-pages/man3/errno.3.html",
    ),
    _known(
        r"killed by signal 7 \(SIGBUS\)|unable to (write to|open) .*shared memory|bus error",
        "shared memory (/dev/shm) of that host is full",
        "enlarge it, or take fewer dataloader workers (--set dataloader_num_workers=0)",
        "https://pytorch.org/docs/stable/multiprocessing.html#sharing-strategies",
    ),
    _known(
        r"no kernel image is available for execution on the device",
        "compiled code in use has nothing for that host's GPU",
        "build the wheel for it: invoke build-deepspeed --hosts hosts.txt, then deploy",
        "https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html",
    ),
    _known(
        r"driver version is insufficient|driver on your system is too old",
        "that host's driver is older than torch's CUDA needs",
        "upgrade the driver, or deploy a torch for an older CUDA; invoke parity shows which",
        "https://docs.nvidia.com/deploy/cuda-compatibility/",
    ),
    _known(
        r"uncorrectable (ECC|NVLink) error|unspecified launch failure|"
        r"device-side assert triggered|illegal memory access",
        "the GPU refused what a kernel did: its memory is broken, or the code is wrong",
        "look for Xid lines in that host's dmesg; without one, run again with "
        "--env CUDA_LAUNCH_BLOCKING=1 for the line that did it",
        "https://docs.nvidia.com/deploy/xid-errors/",
    ),
    _known(
        r"ncclInvalidUsage|Duplicate GPU detected",
        "two ranks were given one GPU",
        "correct slots= in the hosts file: at most the GPUs of that host",
        "https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api/types.html#ncclresult-t",
    ),
    _known(
        r"ncclSystemError|NCCL WARN .*(socket|connect|ibv_)",
        "NCCL could not use that host's network",
        "invoke preflight --deep tests it; NCCL_DEBUG=INFO (--env) says which call failed",
        "https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html#nccl-debug",
    ),
    _known(
        r"ModuleNotFoundError|ImportError",
        "the environment of that host lacks a module",
        "invoke deploy gives every host the locked ones; what else a --script needs is yours",
        "https://docs.python.org/3/library/exceptions.html#ModuleNotFoundError",
    ),
)


def find_remedy(reason: str, lines: tuple[str, ...] = ()) -> Remedy | None:
    """What is known of a failure: by its reason, or else by its rank's last lines."""
    for text in (reason, "\n".join(lines)):
        for known in REMEDIES:
            if known.words.search(text):
                return known
    return None
