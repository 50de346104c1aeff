"""One rank of a measured run: trains a random model of a given shape, and counts bytes.

Run by bench/memory.py and by tests, under torchrun, in the environment that trains:

    python -m torch.distributed.run --nproc_per_node 2 bench/memory_rank.py CASES.json OUT_DIR

CASES.json: {name: case}; a case is ``config`` (a model's config.json), ``seq`` and ``flags``: those
of trainer/sft.py. Every rank writes OUT_DIR/rank<N>.json. What trains is the trainer's own code;
only the rows are made up (random tokens, all of one length), and the weights are random.

Counted: every storage that is alive, as allocated (torch.empty counts whole, touched or not), so
that a CPU stands in for torch.cuda.max_memory_allocated. Not seen: what kernels allocate inside.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM, PrinterCallback, TrainerCallback

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from trainer import model as trainer_model
from trainer.args import parse_args
from trainer.fit import CountingTrainer
from trainer.process import run_rank


class LiveBytes(TorchDispatchMode):
    """Bytes of all storages alive, and their highest, from the moment that it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, weakref.ref[Any]] = {}
        self.now = self.peak = 0
        for tensor in _tensors():
            self._see(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf)
        return out

    def reset(self) -> None:
        """Forget the highest so far."""
        self.peak = self.now

    def _see(self, tensor: torch.Tensor) -> None:
        if tensor.device.type == "meta":
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()  # noqa: SLF001  the only stable identity
        if key in self.alive:
            return

        def freed(_: Any) -> None:
            del self.alive[key]
            self.now -= size

        self.alive[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)


def _tensors() -> list[torch.Tensor]:
    return [found for found in gc.get_objects() if isinstance(found, torch.Tensor)]


def size_of(tensors: Iterable[Any]) -> int:
    """Bytes of the storages behind these tensors, each counted once."""
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in tensors
        if isinstance(t, torch.Tensor) and t.device.type != "meta"
    }
    return sum(storages.values())


def count_engine(trainer: Any) -> dict[str, int]:
    """Bytes of what lives from step to step, read from the engine's own tensors."""
    wrapped = trainer.model_wrapped
    optimizer = getattr(wrapped, "optimizer", None) or trainer.optimizer
    parameters = list(trainer.model.parameters())
    held = [getattr(p, "ds_tensor", p) for p in parameters]
    master: list[Any] = []
    inner = optimizer
    while getattr(inner, "optimizer", None) is not None:
        for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):
            master += getattr(inner, name, [])
        inner = inner.optimizer
    moments = [v for state in inner.state.values() for v in state.values()]
    return {
        "parameters": size_of(held),
        "master": size_of(master),
        "moments": size_of([m for m in moments if isinstance(m, torch.Tensor) and m.dim()]),
        "host_gradients": size_of(m.grad for m in master if m.grad is not None),
    }


def count_gradients(trainer: Any) -> int:
    """Bytes of gradients at the end of a backward, before the step."""
    wrapped = trainer.model_wrapped
    optimizer = getattr(wrapped, "optimizer", None)
    found: list[Any] = [p.grad for p in trainer.model.parameters()]
    for name in ("averaged_gradients", "all_grad_tensors"):
        groups = getattr(optimizer, name, None) or {}
        values = groups.values() if isinstance(groups, dict) else groups
        found += [t for group in values if group for t in group]
    found.append(getattr(optimizer, "grad_partitions_flat_buffer", None))
    found += [
        m.grad
        for name in ("single_partition_of_fp32_groups",)
        for m in getattr(optimizer, name, [])
    ]
    return size_of(found)


class Watch(TrainerCallback):
    """Counts around forward, backward and step; the last step's figures stay."""

    def __init__(self, live: LiveBytes) -> None:
        self.live = live
        self.before = live.now
        self.trainer: Any = None
        self.found: dict[str, Any] = {}

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Stand around the engine's backward and step, or accelerate's and the optimizer's."""
        wrapped, accelerator = self.trainer.model_wrapped, self.trainer.accelerator
        if hasattr(wrapped, "backward"):
            wrapped.backward = self._around("forward", wrapped.backward, "backward")
            wrapped.step = self._around(None, wrapped.step, "step")
        else:
            accelerator.backward = self._around("forward", accelerator.backward, "backward")
            optimizer = self.trainer.optimizer
            optimizer.step = self._around(None, optimizer.step, "step")

    def _around(self, before: str | None, call: Any, after: str) -> Any:
        def around(*args: Any, **kwargs: Any) -> Any:
            if before:
                self._note(before)
            else:
                self.found["gradients"] = count_gradients(self.trainer)
            try:
                return call(*args, **kwargs)
            finally:
                self._note(after)

        return around

    def _note(self, moment: str) -> None:
        self.found[f"{moment}_peak"] = self.live.peak - self.before
        self.found[f"{moment}_end"] = self.live.now - self.before
        self.live.reset()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start anew."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.live.reset()
        self.found["step_begin"] = self.live.now - self.before

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Read what the engine holds."""
        self.found |= count_engine(self.trainer)
        moments = ("forward", "backward", "step")
        self.found["peak"] = max(self.found[f"{moment}_peak"] for moment in moments)
        if torch.cuda.is_available():
            self.found["cuda_allocated"] = torch.cuda.max_memory_allocated()
            self.found["cuda_reserved"] = torch.cuda.max_memory_reserved()


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Random tokens, all rows of one length."""

    def __init__(self, vocabulary: int, length: int) -> None:
        self.vocabulary, self.length = vocabulary, length

    def __len__(self) -> int:
        return 256

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(row)
        return {"input_ids": torch.randint(self.vocabulary, (self.length,), generator=generator)}


def collate(batch: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Rows as a batch; every token is a label."""
    ids = torch.stack([row["input_ids"] for row in batch])
    return {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)}


def peers(network: torch.nn.Module, training: Any) -> dict[str, int | None]:
    """What DeepSpeed's and accelerate's own estimators say of this run: GPU and host together."""
    from accelerate.commands.estimate import estimate_training_usage
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    def size(module: torch.nn.Module, *, recurse: bool) -> int:
        return sum(getattr(p, "ds_numel", p.numel()) for p in module.parameters(recurse=recurse))

    total = size(network, recurse=True)
    zero = (training.hf_deepspeed_config.config if training.deepspeed else {}).get(
        "zero_optimization", {}
    )
    stage, ranks = zero.get("stage", 0), training.world_size
    away = "offload_optimizer" in zero
    host = gpu = None
    if stage == 2:
        host, gpu = estimate_zero2_model_states_mem_needs(total, ranks, 1, away, 1.0)
    if stage == 3:
        largest = max(size(module, recurse=False) for module in network.modules())
        parts = (total, largest, ranks, 1, away, "offload_param" in zero, True, 1.0)
        host, gpu, _ = estimate_zero3_model_states_mem_needs(*parts)
    sizes = estimate_training_usage(4 * total, "bfloat16" if training.bf16 else "float32")
    # Host memory counts where something is offloaded: else theirs is what loading takes.
    deepspeed = None if gpu is None else gpu + (host or 0) // ranks * away
    return {"deepspeed": deepspeed, "accelerate": max(sizes.values())}


def measure(case: dict[str, Any], out: Path) -> dict[str, Any]:
    """Train three steps of a case; bytes by name."""
    flags = {"max_steps": 3, "report_to": "none", "save_strategy": "no", **case["flags"]}
    argv = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
    argv += ["--model_name_or_path", "none", "--train_file_dir", "none"]
    _, _, lora, training = parse_args([*argv, "--output_dir", str(out / "output")])
    trainer_model.prepare_checkpointing(training)
    config = AutoConfig.for_model(**case["config"])
    gc.collect()
    with LiveBytes() as live:
        watch = Watch(live)
        dtype = trainer_model.weights_dtype(training, lora)
        network = AutoModelForCausalLM.from_config(config, dtype=dtype)
        if lora.use_peft:
            network = trainer_model.attach_lora(network, lora, training)
        rows = Rows(config.vocab_size, case["seq"])
        trainer = CountingTrainer(
            model=network, args=training, train_dataset=rows, data_collator=collate
        )
        trainer.add_callback(watch)
        trainer.remove_callback(PrinterCallback)
        watch.trainer = trainer
        trainer.train()
    sizes = [(p.requires_grad, getattr(p, "ds_numel", p.numel())) for p in network.parameters()]
    watch.found["count"] = sum(size for _, size in sizes)
    watch.found |= peers(network, training)
    watch.found["trainable"] = sum(size for trains, size in sizes if trains)
    watch.trainer = None
    return watch.found


def main() -> None:
    """Measure every case of CASES.json, one after another, and write what was counted."""
    cases, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    found = {}
    for name, case in cases.items():
        found[name] = measure(case, out)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        AcceleratorState._reset_state(reset_partial_state=False)  # noqa: SLF001  one case, one state
        os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)
        print(name, found[name], file=sys.stderr, flush=True)
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    (out / f"rank{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    run_rank(main)  # as trainers end: a destructor of gloo's may abort a rank that is done
