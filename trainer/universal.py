r"""A checkpoint for any number of ranks: ``python -m trainer.universal CHECKPOINT OUTPUT_DIR``.

CHECKPOINT is a folder ``checkpoint-STEP`` with the shards of all ranks, OUTPUT_DIR a folder that
``--resume_from_checkpoint OUTPUT_DIR`` takes, the same on every host: each weight with its
optimizer state in files of their own, out of which any number of ranks takes its share (DeepSpeed's
universal checkpoint: https://www.deepspeed.ai/tutorials/universal-checkpointing/). The ZeRO stage
stays. Random states belong to ranks, and are left out. ``--json`` gives one JSON object on stdout.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from trainer.checkpoints import LATEST_UNIVERSAL, MANIFEST, write_manifest
from trainer.errors import RequestError
from trainer.export import link_together
from trainer.results import made_whole, require_unused

#: What belongs to single ranks, or to the shards.
_LEFT = ("global_step*", "latest", "rng_state*", "zero_to_*.py", MANIFEST)


def convert(checkpoint: Path, output: Path, others: Path | None = None) -> dict[str, Any]:
    """Make it: {"step", "zero_stage", "saved_by"}. ``others``: what other hosts have of it.

    Raises RequestError for what is no checkpoint with all its shards, or an ``output`` in use.
    """
    require_unused(output)
    manifest = _read_manifest(checkpoint)
    with made_whole(output) as partial:
        with tempfile.TemporaryDirectory(dir=output.parent) as folder:
            whole = link_together([checkpoint, *([others] if others else [])], Path(folder))
            _require_shards(whole, manifest)
            shutil.copytree(whole, partial, ignore=shutil.ignore_patterns(*_LEFT))
            name = (whole / "latest").read_text(encoding="utf-8").strip()
            _convert_shards(whole / name, partial / f"{name}_universal")
        (partial / LATEST_UNIVERSAL).write_text(f"{name}_universal", encoding="utf-8")
        write_manifest(
            partial, step=manifest["step"], save=secrets.token_hex(8), world_size=0, ranks=[],
            zero_stage=manifest["zero_stage"],
        )  # fmt: skip
    kept = {key: manifest[key] for key in ("step", "zero_stage")}
    return {**kept, "saved_by": manifest["world_size"]}


def _read_manifest(checkpoint: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{checkpoint}: {MANIFEST}: {error}") from None
    if not found["world_size"]:
        raise RequestError(f"{checkpoint}: it is for any number of ranks already")
    if not found["zero_stage"]:
        raise RequestError(f"{checkpoint}: saved without ZeRO: there are no shards to convert")
    return found


def _require_shards(whole: Path, manifest: dict[str, Any]) -> None:
    shards = len(list(whole.glob("global_step*/*_optim_states.pt")))
    if shards != manifest["world_size"]:
        raise RequestError(
            f"the shards of {shards} ranks are here, of {manifest['world_size']} (each host keeps "
            "those of its own ranks: bring all into one folder: invoke collect --checkpoints)"
        )


def _convert_shards(shards: Path, output: Path) -> None:
    """DeepSpeed's own conversion."""
    from deepspeed.checkpoint.ds_to_universal import main as convert_shards

    convert_shards(
        argparse.Namespace(
            input_folder=str(shards),
            output_folder=str(output),
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            # What Megatron's checkpoints say of themselves, and others need not.
            inject_missing_state=True,
        )
    )


def main() -> None:
    """Convert, or say in one line why not."""
    parser = argparse.ArgumentParser(prog="python -m trainer.universal", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="folder checkpoint-STEP, all ranks' shards")
    parser.add_argument("output_dir", type=Path, help="where the new checkpoint goes")
    parser.add_argument("--others", type=Path, help="what other hosts have of that checkpoint")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args()
    try:
        found = convert(args.checkpoint, args.output_dir, args.others)
    except RequestError as error:
        sys.exit(f"universal: {error}")
    print(
        json.dumps(found) if args.json else f"{args.output_dir}: step {found['step']}", flush=True
    )


if __name__ == "__main__":
    main()
