"""What libraries load and look through in each rank, and no run of ours uses: left out.

Seconds of CPU before the first step, and memory, on every rank of every host.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
from typing import Any

from accelerate import data_loader
from transformers import utils


def _no() -> bool:
    return False


# transformers imports `datasets` beside its Trainer wherever it is installed, accelerate once more
# for the loader of several ranks, and it pandas and pyarrow: a second, and 80 MB. Both look only
# for datasets.Dataset, which our rows never are (transformers 5.23 trainer.py, accelerate 1.14
# data_loader.py). To all others it is there as ever.
_asked = utils.is_datasets_available
utils.is_datasets_available = data_loader.is_datasets_available = _no
try:
    from transformers.trainer import Trainer  # noqa: F401
finally:
    utils.is_datasets_available = _asked


def spare_compiler(config: dict[str, Any]) -> None:
    """Have DeepSpeed load its Muon uncompiled, unless this run steps with it.

    ZeRO imports Muon in every run, and for its three decorated functions torch then imports its
    whole compiler: 4 s of CPU in each rank before the first step (DeepSpeed 0.19).
    """
    if "muon" in str(config.get("optimizer", {})).lower():
        return
    from deepspeed.runtime import compiler

    compiled = compiler.compile
    compiler.compile = lambda: lambda function: function
    try:
        with contextlib.suppress(ImportError):  # a DeepSpeed that has no Muon
            importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = compiled


def spare_collector() -> None:
    """Have Python's garbage collector pass over all that is loaded by now: it stays anyway.

    Each whole collection looks through the 400,000 objects of these libraries. While they load,
    that is a second of CPU (a rank's program therefore begins with ``gc.disable``); another half
    when training begins, for which accelerate asks for one
    (https://docs.python.org/3/library/gc.html#gc.freeze).
    """
    gc.freeze()
    gc.enable()
