r"""A checkpoint's ZeRO shards → safetensors: ``python -m trainer.export CHECKPOINT OUTPUT_DIR``.

CHECKPOINT is a folder ``checkpoint-STEP`` with the shards of **all** ranks: DeepSpeed's own files,
from which only as many ranks of the same DeepSpeed could go on. OUTPUT_DIR then holds weights as
any other model's, or an adapter, put together from the optimizer's fp32 copies, and the tokenizer.
They are read back, and have to be what the shards hold. On the CPU, in one process; the weights
have to fit into host memory twice. ``--json`` gives one JSON object on stdout.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from trainer.errors import RequestError
from trainer.results import made_whole, require_unused

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
#: What of a checkpoint goes along: the tokenizer, and what says which adapter it is.
_ALONG = (
    "tokenizer*", "*.jinja", "special_tokens_map.json", "vocab*", "merges.txt",
    "adapter_config.json", "generation_config.json",
)  # fmt: skip
#: A weight of an adapter as PEFT names it in the model → in its file.
_ADAPTER = ".default."


def export(
    checkpoint: Path, output: Path, dtype: str | None = None, others: Path | None = None
) -> dict[str, Any]:
    """Put together, save, read back: {"weights", "parameters", "dtype", "adapter"}.

    ``others``: a folder like ``checkpoint`` with what other hosts have of it.

    Raises RequestError for what is no checkpoint with all its shards, or an ``output`` in use.
    """
    require_unused(output)
    adapter = (checkpoint / "adapter_config.json").is_file()
    if not adapter and not (checkpoint / "config.json").is_file():
        raise RequestError(f"{checkpoint}: no config.json and no adapter_config.json there")
    kind = DTYPES[dtype] if dtype else None if adapter else _own_dtype(checkpoint)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        whole = link_together([checkpoint, *([others] if others else [])], Path(folder))
        shards = read_shards(whole, adapter=adapter)
    weights = {name: value.to(kind or value.dtype) for name, value in shards.items()}
    with made_whole(output) as partial:
        (_save_adapter if adapter else _save_model)(weights, checkpoint, partial)
        for pattern in _ALONG:
            for path in checkpoint.glob(pattern):
                shutil.copy(path, partial / path.name)
    some = next(iter(weights.values()))
    return {
        "weights": len(weights),
        "parameters": sum(value.numel() for value in weights.values()),
        "dtype": str(some.dtype).removeprefix("torch."),
        "adapter": adapter,
    }


def link_together(folders: Sequence[Path], into: Path) -> Path:
    """One folder with links to the files of several; of two with one name the first counts."""
    for folder in folders:
        for path in folder.rglob("*"):
            link = into / path.relative_to(folder)
            if path.is_file() and not link.exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path.resolve())
    return into


def read_shards(checkpoint: Path, *, adapter: bool) -> dict[str, torch.Tensor]:
    """Whole fp32 weights by name. RequestError where they can't be put together.

    An adapter's frozen base weights are in no shard: they are left out.
    """
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    if not (checkpoint / "latest").is_file():
        raise RequestError(f"{checkpoint}: no file named latest: no checkpoint of DeepSpeed's")
    try:
        found = get_fp32_state_dict_from_zero_checkpoint(
            str(checkpoint), exclude_frozen_parameters=adapter
        )
    except (ValueError, FileNotFoundError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(
            f"{reason} (each host keeps the shards of its own ranks: bring all of "
            "them into one folder: invoke collect --checkpoints)"
        ) from None
    return {name.removeprefix("module."): value for name, value in found.items()}


def _own_dtype(checkpoint: Path) -> torch.dtype:
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    name = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise RequestError(f"{checkpoint}/config.json: dtype {name}: give one with --dtype")
    return found


def _save_adapter(weights: Mapping[str, torch.Tensor], _checkpoint: Path, output: Path) -> None:
    """As PEFT saves one; what is in the file has to be what was given."""
    output.mkdir(parents=True)
    named = {name.replace(_ADAPTER, "."): value.contiguous() for name, value in weights.items()}
    save_file(named, output / "adapter_model.safetensors", metadata={"format": "pt"})
    _require_equal(named, load_file(output / "adapter_model.safetensors"))


def _save_model(weights: Mapping[str, torch.Tensor], checkpoint: Path, output: Path) -> None:
    """As transformers saves one; loaded anew, it has to have these weights and lack none."""
    config = AutoConfig.from_pretrained(checkpoint)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    unexpected = model.load_state_dict(weights, strict=False, assign=True)[1]
    model.tie_weights()
    empty = [name for name, value in model.named_parameters() if value.is_meta]
    if empty or unexpected:
        raise RequestError(
            f"{checkpoint}: the shards do not hold this model: "
            + (f"no {empty[0]}" if empty else f"{unexpected[0]} is none of its weights")
        )
    model.save_pretrained(output)
    dtype = next(iter(weights.values())).dtype
    loaded, info = AutoModelForCausalLM.from_pretrained(
        output, dtype=dtype, output_loading_info=True
    )
    if info["missing_keys"]:
        raise RequestError(f"{output}: what was saved lacks {min(info['missing_keys'])}")
    saved = loaded.state_dict()
    _require_equal({n: v for n, v in weights.items() if n in saved}, saved)


def _require_equal(given: Mapping[str, torch.Tensor], saved: Mapping[str, torch.Tensor]) -> None:
    for name, value in given.items():
        if name not in saved or not torch.equal(saved[name], value):
            raise RequestError(f"{name}: what was saved is not what the shards hold")


def main() -> None:
    """Export, or say in one line why not."""
    parser = argparse.ArgumentParser(prog="python -m trainer.export", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="folder checkpoint-STEP, all ranks' shards")
    parser.add_argument("output_dir", type=Path, help="where the weights go")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="default: the model's own")
    parser.add_argument("--others", type=Path, help="what other hosts have of that checkpoint")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args()
    try:
        found = export(args.checkpoint, args.output_dir, args.dtype, args.others)
    except RequestError as error:
        sys.exit(f"export: {error}")
    if args.json:
        print(json.dumps(found), flush=True)
    else:
        print(f"{args.output_dir}: {found['parameters']:,} parameters, {found['dtype']}")


if __name__ == "__main__":
    main()
