"""Ranks of a training, forked from this process, which has imported everything once.

Importing torch, transformers and DeepSpeed takes longer than these trainings do. As a program it is
asked by lines on stdin, and answers each with a line on stdout (tests/trainer/conftest.py):

    {"objective": "sft", "argv": ["--max_steps", …], "ranks": 2, "folder": "…"} → {"error": null}
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

#: Seconds for one run: a hang has to end the matrix with the case's name.
LIMIT = 240.0
#: A text that both the engine and the saved weights read, in tokens.
PROBE = range(3, 67)


def run_ranks(objective: str, argv: Sequence[str], ranks: int, folder: Path) -> str | None:
    """Run ``trainer.<objective>`` as so many hosts of one rank; None, or why it failed.

    ``{rank}`` in a flag is the rank, so that each host can have folders of its own.

    Each rank's output is ``folder/rank<N>.log``. Rank 0 leaves ``logits.json``: how far the saved
    weights, loaded anew, are from the engine that trained.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environ = {
        "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()),
        "GLOO_SOCKET_IFNAME": "lo", "ZEROFLEET_RUN_DIR": str(folder),
        # Where it is unset accelerate asks for several threads: a forked process has none to give.
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    children = []
    for n in range(ranks):
        flags = [word.replace("{rank}", str(n)) for word in argv]
        work = partial(_train, objective, flags)
        children.append(_fork(work, {**environ, "RANK": str(n)}, folder / f"rank{n}.log"))
    codes = _wait(children, time.monotonic() + LIMIT)
    failed = [rank for rank, code in enumerate(codes) if code]
    if not failed:
        return None
    # A rank that only saw another go may have ended before anybody looked: the first says why.
    rank = min(failed, key=lambda rank: _ended_at(folder / f"rank{rank}.log"))
    lines = (folder / f"rank{rank}.log").read_text(errors="replace").splitlines()
    return f"rank {rank}: exit {codes[rank]}: {lines[-1] if lines else 'it said nothing'}"


def _free_port() -> int:
    """A port to meet at: none that the kernel gives away until ranks listen, or that runs have."""
    while True:
        port = random.randrange(10_000, 20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port


def _ended_at(log: Path) -> float:
    """When a rank ended by itself, in seconds of this machine's clock; 0 for one that died."""
    end = log.with_suffix(".end")
    return float(end.read_text()) if end.exists() else 0.0


def load_all(objectives: Iterable[str]) -> None:
    """Import in this process what ranks would import, each."""
    modules = ["deepspeed", "transformers.models.qwen3.modeling_qwen3", "accelerate", "peft"]
    modules += ["deepspeed.ops.adam", "transformers.integrations.deepspeed", "torch._dynamo"]
    # DeepSpeed's engine imports this one late, and with it all of torch's compiler: 4 s a rank.
    modules += ["deepspeed.runtime.zero.muon.muon_optimizer"]
    for name in [*modules, *(f"trainer.{objective}" for objective in objectives)]:
        importlib.import_module(name)
    # DeepSpeed finds out which ops this host could build, with a compiler, when a rank asks for it.
    _ = importlib.import_module("deepspeed.ops").__compatible_ops__
    gc.collect()
    gc.freeze()  # pages that no collector writes to are not copied for each rank


def _fork(work: Callable[[], None], environ: dict[str, str], log: Path) -> int:
    """A child that does ``work`` and ends without any of Python's or torch's clean-up.

    Processes that were forked hang in gloo's destructors now and then; what is tested is on disk.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    log.with_suffix(".end").unlink(missing_ok=True)
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.environ.update(environ)
        work()
        code = 0
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
            log.with_suffix(".end").write_text(str(time.monotonic()))
        os._exit(code)


def _wait(children: Sequence[int], deadline: float) -> list[int]:
    """Exit codes. When one child fails, or time is up, the others are ended."""
    codes: dict[int, int] = {}
    while len(codes) < len(children):
        for pid in set(children) - set(codes):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
        if any(codes.values()) or time.monotonic() > deadline:
            for pid in set(children) - set(codes):
                os.kill(pid, signal.SIGKILL)
                codes[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        time.sleep(0.02)
    ended = [codes[pid] for pid in children]
    own = [code if code != -signal.SIGKILL else 0 for code in ended]
    return own if any(own) else ended  # the one that failed says why, not those it took along


def _train(objective: str, argv: Sequence[str]) -> None:
    """One rank: train, then (rank 0) hold what was saved against what trained."""
    import torch

    from trainer import fit

    torch.set_num_threads(1)
    probe = torch.tensor([list(PROBE)])
    seen: dict[str, Any] = {}

    def on_train_end(recorder: Any, args: Any, *_: Any, **__: Any) -> None:
        network = recorder.trainer.model_wrapped
        network.eval()
        with torch.no_grad():
            seen["logits"] = network(input_ids=probe).logits.float()
        seen["training"] = args

    fit.Recorder.on_train_end = on_train_end  # type: ignore[method-assign]
    importlib.import_module(f"trainer.{objective}").main(list(argv))
    if os.environ["RANK"] == "0":
        difference = (_reloaded(seen["training"], probe, argv) - seen["logits"]).abs().max().item()
        spread = seen["logits"].std().item()
        path = Path(os.environ["ZEROFLEET_RUN_DIR"], "logits.json")
        path.write_text(json.dumps({"difference": difference / spread, "spread": spread}))


def _reloaded(training: Any, probe: Any, argv: Sequence[str]) -> Any:
    """Logits of the saved weights, as a user's script would load them."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    half = torch.bfloat16 if training.bf16 else torch.float32
    adapter = Path(training.output_dir, "adapter_config.json").exists()
    dtype = half if training.deepspeed or adapter else torch.float32
    # Else a ZeRO-3 configuration that is still registered would split this model, too.
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    base = argv[argv.index("--model_name_or_path") + 1] if adapter else training.output_dir
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    if adapter:
        whole = not training.deepspeed
        model = PeftModel.from_pretrained(model, training.output_dir, autocast_adapter_dtype=whole)
    with (
        torch.no_grad(),
        torch.autocast("cpu", half, enabled=training.bf16 and not training.deepspeed),
    ):
        return model.eval()(input_ids=probe).logits.float()


def main() -> None:
    """Run what each line of stdin asks for, until it ends."""
    answers = os.dup(1)
    os.dup2(2, 1)  # only answers go to stdout; DeepSpeed logs there
    load_all({"sft", "orpo", "pretrain"})
    for line in sys.stdin:
        asked = json.loads(line)
        asked["folder"] = Path(asked["folder"])
        os.write(answers, (json.dumps({"error": run_ranks(**asked)}) + "\n").encode())


if __name__ == "__main__":
    main()
