"""A DeepSpeed configuration of the user's own (``--deepspeed my.json``), checked before hosts are.

DeepSpeed and transformers find a contradiction between the file and the trainer's flags too, but on
every rank, and after the model was loaded.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from provision.errors import ConfigError
from provision.launch.deepspeed_keys import KEYS, VERSION
from provision.settings import Settings

AUTO = "auto"
#: What the trainers do where neither recipe nor --set says (trainer/args.py and transformers'
#: TrainingArguments; tests/trainer/test_deepspeed_keys.py holds the two together).
DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 8,
    "max_grad_norm": 1.0,
    "learning_rate": 2e-5,
    "weight_decay": 0.05,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "bf16": True,
    "fp16": False,
}
#: What other objectives do differently.
OF_OBJECTIVE: dict[str, dict[str, Any]] = {
    "orpo": {"gradient_accumulation_steps": 4},
    "pretrain": {
        "gradient_accumulation_steps": 16,
        "learning_rate": 2e-4,
        "weight_decay": 0.01,
    },
}
#: Key of the file → the flag that says the same: HfTrainerDeepSpeedConfig.trainer_config_process,
#: https://github.com/huggingface/transformers/blob/main/src/transformers/integrations/deepspeed.py
_SAME = {
    "train_micro_batch_size_per_gpu": "per_device_train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "gradient_clipping": "max_grad_norm",
    "optimizer.params.lr": "learning_rate",
    "optimizer.params.eps": "adam_epsilon",
    "optimizer.params.weight_decay": "weight_decay",
    "scheduler.params.warmup_max_lr": "learning_rate",
    "scheduler.params.total_num_steps": "max_steps",
    "fp16.enabled": "fp16",
    "bf16.enabled": "bf16",
}
_BETAS = ("adam_beta1", "adam_beta2")


def read_own_config(path: Path) -> dict[str, Any]:
    """The file's object, its keys known. ConfigError for one that DeepSpeed would not take."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        remedy = "name a file that this user may read, and that holds valid JSON"
        raise _error(path, error, "a JSON file", remedy) from None
    if not isinstance(found, dict):
        raise _error(path, f"a {type(found).__name__}", "one JSON object", "see zero_configs/")
    _require_known(path, found)
    return found


def _error(path: Path, found: object, expected: str, remedy: str) -> ConfigError:
    return ConfigError(f"--deepspeed {path}", found=found, expected=expected, remedy=remedy)


def _require_known(path: Path, config: Mapping[str, Any]) -> None:
    for section, keys in KEYS.items():
        values = find(config, section) if section else config
        if values is None or values == AUTO:
            continue
        if not isinstance(values, Mapping):
            raise _error(path, f"{section}: {values!r}", "an object", "see zero_configs/")
        for key in values:
            if key not in keys:
                near = difflib.get_close_matches(str(key), keys, n=1, cutoff=0.5)
                where = f"{section}.{key}" if section else key
                remedy = f"did you mean {near[0]}?" if near else "remove it"
                raise _error(path, f"{where}", f"a key that DeepSpeed {VERSION} has", remedy)


def find(config: Mapping[str, Any], key: str) -> Any:
    """A value by its path of keys; None where there is none."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def zero_of(path: Path, config: Mapping[str, Any]) -> tuple[int, str]:
    """(stage, what is offloaded, as --offload says it). ConfigError for what can't be run here."""
    stage = find(config, "zero_optimization.stage")
    if stage not in (1, 2, 3):
        raise _error(path, f"zero_optimization.stage {stage}", "1, 2 or 3", "set it")
    gathers = "zero_optimization.stage3_gather_16bit_weights_on_model_save"
    if stage == 3 and find(config, gathers) is not True:
        remedy = "set it: else the weights that are saved are empty"
        raise _error(path, f"{gathers} {find(config, gathers)}", "true", remedy)

    def offloaded(what: str) -> bool:
        where = find(config, f"zero_optimization.offload_{what}.device")
        return where not in (None, "none")

    if offloaded("param") and stage != 3:
        found = f"offload_param with stage {stage}"
        raise _error(path, found, "stage 3", "only that stage splits parameters")
    offload = "all" if offloaded("param") else "optimizer" if offloaded("optimizer") else "none"
    return int(stage), offload


def read_into(settings: Settings) -> Settings:
    """The settings with the file's stage and offload, which plan memory and disk."""
    if settings.deepspeed is None:
        return settings
    both = sorted({"zero", "offload"} & settings.given)
    if both or settings.script:
        raise ConfigError(
            "--deepspeed",
            found=f"--{both[0] if both else 'script'}, too",
            expected="one of them",
            remedy="the file says the stage and the offload"
            if both
            else "give the file to your script, behind --",
        )
    stage, offload = zero_of(settings.deepspeed, read_own_config(settings.deepspeed))
    return replace(settings, zero=stage, offload=offload, zero_auto=False)


def require_agreeing(
    path: Path, config: Mapping[str, Any], flags: Mapping[str, Any], ranks: int | None = None
) -> None:
    """ConfigError that lists every value of the file that contradicts the trainer's flags.

    ``flags``: recipe and --set; ``ranks``: all of the run's, where that is known.
    """
    objective = str(flags.get("objective") or "sft")
    known = {**DEFAULTS, **OF_OBJECTIVE.get(objective, {}), **flags}
    differ = [
        f"{key} is {theirs}, and {flag} {ours}"
        for key, theirs, flag, ours in _pairs(config, known, ranks)
        if theirs is not None and theirs != AUTO and not _equal(theirs, ours)
    ]
    if differ:
        raise _error(
            path,
            "; ".join(differ),
            'the values of the flags, or "auto"',
            'write "auto" there, or change the flags (--set FLAG=VALUE)',
        )


def _pairs(
    config: Mapping[str, Any], known: Mapping[str, Any], ranks: int | None
) -> Iterator[tuple[str, Any, str, Any]]:
    """(key, its value, the flag, its value) of all that both say."""
    for key, flag in _SAME.items():
        if known.get(flag) is not None:
            yield key, find(config, key), f"--{flag}", known[flag]
    betas = find(config, "optimizer.params.betas")
    if isinstance(betas, list):
        for ours, theirs in zip(_BETAS, betas, strict=False):
            yield f"optimizer.params.betas {ours[-1]}", theirs, f"--{ours}", known[ours]
    if ranks is not None:
        each, times = (
            known[f] for f in ("per_device_train_batch_size", "gradient_accumulation_steps")
        )
        whole = int(each) * int(times) * ranks
        what = f"{each} a device x {times} accumulated x {ranks} ranks is"
        yield "train_batch_size", config.get("train_batch_size"), what, whole


def _equal(theirs: Any, ours: Any) -> bool:
    """Flags come as text, too."""
    if isinstance(theirs, bool):
        return theirs == (str(ours).lower() in ("true", "1", "yes", "on"))
    try:
        return float(theirs) == float(ours)
    except (TypeError, ValueError):
        return str(theirs) == str(ours)
