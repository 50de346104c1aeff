"""A rank that does what ranks do, and starts fast: all-reduce after all-reduce, over gloo.

It does what files in the run's folder ask for: ``raise-RANK``, ``finish``, ``grow-RANK`` (take ever
more memory), ``deaf`` (heed no SIGTERM, and hang when another rank is gone, as NCCL does).
"""

import os
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist

folder, rank = Path(os.environ["ZEROFLEET_RUN_DIR"]), os.environ["RANK"]
dist.init_process_group("gloo")
value = torch.ones(1000)
step, hoard = 0, []
while True:
    flags = torch.tensor([float((folder / "finish").exists())])
    deaf = (folder / "deaf").exists()
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        dist.all_reduce(value)
        dist.all_reduce(flags)
    except RuntimeError:
        if deaf:
            (folder / f"hangs-{rank}").touch()
            time.sleep(600)
        raise
    value /= dist.get_world_size()
    step += 1
    (folder / f"step-{rank}").write_text(str(step))
    if deaf:
        (folder / f"deaf-{rank}").touch()
    if (folder / f"raise-{rank}").exists():
        raise ValueError(f"boom on rank {rank}")
    if (folder / f"grow-{rank}").exists():
        hoard.append(b"x" * (16 << 20))
    if flags.item():
        break
    time.sleep(0.02)
dist.destroy_process_group()
