r"""Adapter → base weights: ``python -m trainer.merge ADAPTER OUTPUT_DIR [--base MODEL]``.

ADAPTER is the output of a LoRA run, or one of its checkpoints; OUTPUT_DIR then holds a model as any
other, with its tokenizer. The merged weights are loaded anew and held against base and adapter: the
same text has to give the same logits, or nothing is left there. On the CPU, in one process; the
model has to fit into host memory. ``--json`` gives one JSON object on stdout.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer.errors import RequestError
from trainer.model import first_line, require_whole, set_stops
from trainer.results import made_whole, require_unused

#: Largest difference of a logit, as a share of how far logits spread. The merged weight is rounded
#: once more than base and adapter are: bf16 keeps 8 bits of a number, fp16 11, fp32 24.
TOLERANCE = {torch.bfloat16: 0.15, torch.float16: 0.02, torch.float32: 1e-3}
#: What both read: the first tokens of any vocabulary.
PROBE = 64


def merge(adapter: Path, output: Path, base: str | None = None) -> float:
    """Merge; the largest difference of a logit, as a share of their spread.

    Raises RequestError when ``adapter`` is none, ``output`` is not empty, or the logits differ.
    """
    if not (adapter / "adapter_config.json").is_file():
        raise RequestError(f"{adapter}: no adapter_config.json: that is no LoRA adapter")
    require_unused(output)
    found = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    base = base or found.get("base_model_name_or_path")
    if not base:
        raise RequestError(f"{adapter} does not say which model it is of: give --base MODEL")
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            base, dtype="auto", output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise RequestError(
            f"the base model {base} can't be loaded: {first_line(error)}: give --base MODEL"
        ) from error
    require_whole(str(base), info)
    adapted = PeftModel.from_pretrained(model, str(adapter)).eval()
    probe = torch.arange(min(PROBE, model.config.vocab_size))[None]
    with torch.no_grad():
        expected = adapted(input_ids=probe).logits.float()
    with made_whole(output) as partial:
        merged = adapted.merge_and_unload(safe_merge=True)
        tokenizer = AutoTokenizer.from_pretrained(adapter)
        if tokenizer.chat_template:
            set_stops(merged, tokenizer)
        merged.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        return _difference(partial, probe, expected, model.dtype)


def _difference(
    merged: Path, probe: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype
) -> float:
    """How far the saved weights are from ``expected``; RequestError when it is too far."""
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=dtype).eval()
    with torch.no_grad():
        logits = model(input_ids=probe).logits.float()
    difference = float((logits - expected).abs().max() / expected.std())
    if not difference <= TOLERANCE[dtype]:
        raise RequestError(
            f"the merged weights' logits differ from base and adapter by {difference:.2g} of their "
            f"spread, more than {TOLERANCE[dtype]} for {dtype}: nothing was written"
        )
    return difference


def main() -> None:
    """Merge, or say in one line why not."""
    parser = argparse.ArgumentParser(prog="python -m trainer.merge", description=__doc__)
    parser.add_argument("adapter", type=Path, help="output folder of a LoRA run")
    parser.add_argument("output_dir", type=Path, help="where the merged model goes")
    parser.add_argument("--base", help="the base model (default: as the adapter says)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args()
    try:
        difference = merge(args.adapter, args.output_dir, args.base)
    except RequestError as error:
        sys.exit(f"merge: {error}")
    if args.json:
        print(json.dumps({"logits_differ": difference}), flush=True)
    else:
        print(f"{args.output_dir}: merged; logits differ by {difference:.1e} of their spread")


if __name__ == "__main__":
    main()
