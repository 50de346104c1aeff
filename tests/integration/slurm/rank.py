"""What the tests have torchrun start: says who it is, then does as it is told.

rank.py wait     wait for ever on a job's first attempt; be done on any other
rank.py raise    once all have begun rank 3 raises, all others wait for ever
"""

import json
import os
import socket
import sys
import time
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

NAMES = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@record
def main() -> None:
    me = {name: os.environ[name] for name in NAMES}
    me |= {"host": socket.gethostname(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
    attempt = Path(os.environ["ATTEMPT"])
    own = attempt / f"rank{me['RANK']}.json"
    own.with_suffix(".new").write_text(json.dumps(me))
    own.with_suffix(".new").rename(own)
    if sys.argv[1] == "wait" and attempt.name != "attempt-0":
        return
    if sys.argv[1] == "raise" and me["RANK"] == "3":
        while len(list(attempt.glob("rank*.json"))) < int(me["WORLD_SIZE"]):
            time.sleep(0.1)
        raise ValueError("the third of all ranks has had enough")
    time.sleep(600)


main()
