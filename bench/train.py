r"""One training, three programs: ours, a plain TRL script, LLaMA-Factory.

    PYTHON -m bench.train --python PYTHON [--llamafactory PYTHON2] [--rounds 3] [--json]

PYTHON is that of a deployed environment (TRL is in it). PYTHON2 is that of another one, with
LLaMA-Factory: it wants older libraries than ours, and torchaudio, whose published wheels don't load
beside a torch for CPUs. What each environment has is printed with the figures; with uv, say

    uv venv lf && uv pip install --python lf/bin/python --compile-bytecode \
        llamafactory==0.9.5 torch==2.13.0 torchvision==0.28.0 torchaudio==2.11.0

The same random Qwen3 of 23 million parameters, the same rows (all longer than what is kept of them,
so that every program trains on as many tokens), batch, precision, optimizer and threads, in one
process on this machine's CPU; started in turn, round by round. Of each:

    first     seconds from the command to the first step's loss on its output
    tokens/s  of the steps after the second, by the times at which their losses were printed
    CPU       seconds of CPU until that first loss, and until it ended: they say more than the
              others on a busy machine
    memory    the process's highest resident memory
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LENGTH, BATCH, STEPS = 256, 2, 10
#: Several would spin while they wait for one another: CPU seconds would count the neighbours' load.
THREADS = 1
LOSS = re.compile(r"'loss':")
KEYS = ("first", "first_cpu", "tokens_per_second", "cpu", "memory")

TRL = """
import sys
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer
model, data, out = sys.argv[1:]
SFTTrainer(
    model=model,
    train_dataset=load_dataset("json", data_files=data, split="train"),
    args=SFTConfig(
        output_dir=out, max_length={length}, per_device_train_batch_size={batch}, max_steps={steps},
        learning_rate=1e-4, bf16=False, use_cpu=True, gradient_checkpointing=False,
        logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True,
        model_init_kwargs={{"dtype": "float32"}},
    ),
).train()
"""
MAKE = """
import sys
from transformers import Qwen3Config, Qwen3ForCausalLM, set_seed
from trainer import tiny
tokenizer = tiny.make_tokenizer(str(tiny.EXAMPLES), 1024)
tokenizer.save_pretrained(sys.argv[1])
set_seed(0)
model = Qwen3ForCausalLM(Qwen3Config(
    vocab_size=8192, hidden_size=512, intermediate_size=1536, num_hidden_layers=6,
    num_attention_heads=8, num_key_value_heads=4, head_dim=64, tie_word_embeddings=True,
    max_position_embeddings=4096, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    pad_token_id=tokenizer.pad_token_id,
))
model.save_pretrained(sys.argv[1])
print(model.num_parameters())
"""


def write_data(folder: Path) -> None:
    """Rows that are longer than LENGTH tokens, whatever the template adds."""
    text = " ".join(f"and so it is that {n} follows upon {n - 1}" for n in range(80))
    messages = [
        [
            {"role": "user", "content": f"Tell me of {row}."},
            {"role": "assistant", "content": f"{row}: {text}"},
        ]
        for row in range(BATCH * STEPS)
    ]
    lines = (json.dumps({"messages": each}) + "\n" for each in messages)
    (folder / "rows.jsonl").write_text("".join(lines))
    tags = {"role_tag": "role", "content_tag": "content"}
    tags |= {"user_tag": "user", "assistant_tag": "assistant"}
    kind = {"file_name": "rows.jsonl", "formatting": "sharegpt", "tags": tags}
    kind["columns"] = {"messages": "messages"}
    (folder / "dataset_info.json").write_text(json.dumps({"rows": kind}))


def ours(python: str, folder: Path, out: Path) -> list[str]:
    """Our command."""
    flags = {
        "model_name_or_path": folder / "model",
        "train_file_dir": folder / "rows.jsonl",
        "output_dir": out,
        "use_peft": "false",
        "bf16": "false",
        "activation_checkpointing": "false",
        "model_max_length": LENGTH,
        "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": 1,
        "max_steps": STEPS,
        "learning_rate": "1e-4",
        "save_strategy": "no",
        "report_to": "none",
        "token_cache": out / "tokens",
    }
    words = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    return [python, "-m", "trainer.sft", *words]


def trl(python: str, folder: Path, out: Path) -> list[str]:
    """A plain script, as TRL's documentation has it."""
    script = TRL.format(length=LENGTH, batch=BATCH, steps=STEPS)
    return [python, "-c", script, str(folder / "model"), str(folder / "rows.jsonl"), str(out)]


def llamafactory(python: str, folder: Path, out: Path) -> list[str]:
    """LLaMA-Factory's command."""
    out.mkdir(parents=True)
    config = {
        "stage": "sft", "do_train": True, "finetuning_type": "full", "template": "qwen",
        "model_name_or_path": str(folder / "model"), "dataset_dir": str(folder), "dataset": "rows",
        "cutoff_len": LENGTH, "output_dir": str(out), "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": 1, "max_steps": STEPS, "learning_rate": 1e-4,
        "bf16": False, "use_cpu": True, "disable_gradient_checkpointing": True,
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", "overwrite_cache": True,
        "preprocessing_num_workers": 1, "disable_tqdm": True, "flash_attn": "sdpa",
    }  # fmt: skip
    path = out / "config.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return [str(Path(python).with_name("llamafactory-cli")), "train", str(path)]


def read_cpu(pid: int) -> float:
    """Seconds of CPU that a process, its threads and its ended children took so far.

    proc(5), stat: utime, stime, cutime, cstime.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def read_versions(python: str) -> dict[str, str]:
    """The libraries that decide, as this interpreter has them."""
    names = "torch transformers accelerate trl llamafactory"
    code = (
        "import json; from importlib import metadata as m;"
        "have = {d.metadata['Name'].lower(): d.version for d in m.distributions()};"
        f"print(json.dumps({{n: have[n] for n in {names.split()!r} if n in have}}))"
    )
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def measure(argv: Sequence[str], log: Path) -> dict[str, Any]:
    """Run it once: when its losses came, what it took."""
    environ = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "PYTHONUNBUFFERED": "1"}
    environ |= {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
    }
    environ.pop("PYTHONDONTWRITEBYTECODE", None)  # bytecode is kept, as Python does by itself
    began = time.monotonic()
    process = subprocess.Popen(
        argv, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    times: list[float] = []
    first_cpu = 0.0
    assert process.stdout is not None
    with log.open("w") as file:
        for line in process.stdout:
            file.write(line)
            if LOSS.search(line):
                times.append(time.monotonic() - began)
                if len(times) == 1:
                    first_cpu = read_cpu(process.pid)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or len(times) < STEPS:
        sys.exit(f"{argv[0]}: exit {process.returncode}, {len(times)} losses: see {log}")
    seconds = times[STEPS - 1] - times[1]
    return {
        "first": times[0],
        "first_cpu": first_cpu,
        "tokens_per_second": (STEPS - 2) * BATCH * LENGTH / seconds,
        "cpu": used.ru_utime + used.ru_stime,
        "memory": used.ru_maxrss * 1024,
    }


def compare(ours: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """Our figures as multiples of another program's: tokens/s should be above 1, all else below."""
    return {key: ours[key] / other[key] for key in KEYS}


def show(figures: dict[str, Any]) -> None:
    """As text, for people."""
    for name, row in figures["medians"].items():
        print(
            f"{name:14} first {row['first']:6.1f} s (CPU {row['first_cpu']:5.1f} s)  "
            f"{row['tokens_per_second']:7.0f} tokens/s  CPU {row['cpu']:6.1f} s  "
            f"memory {row['memory'] / 2**20:6.0f} MiB"
        )
    for name, one in figures["ours_to"].items():
        words = ", ".join(f"{key} {value:.2f} x" for key, value in one.items())
        print(f"ours to {name}: {words}")
    for name, have in figures["versions"].items():
        print(f"{name}: {', '.join(f'{key} {value}' for key, value in have.items())}")


def main() -> None:
    """Measure round by round; print medians."""
    parser = argparse.ArgumentParser(prog="python -m bench.train")
    parser.add_argument("--python", default=sys.executable, help="of a deployed environment")
    parser.add_argument("--llamafactory", help="Python of an environment with LLaMA-Factory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="keep everything here (default: a folder that is removed)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    args = parser.parse_args()
    programs = {"ours": (ours, args.python), "TRL": (trl, args.python)}
    if args.llamafactory:
        programs["LLaMA-Factory"] = (llamafactory, args.llamafactory)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in programs}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.folder or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        write_data(folder)
        subprocess.run([args.python, "-c", MAKE, str(folder / "model")], cwd=ROOT, check=True)
        for number in range(args.rounds):
            for name, (make, python) in programs.items():
                out = folder / f"{name}{number}"
                one = measure(make(python, folder, out), folder / f"{name}{number}.log")
                print(f"{name}: {one}", file=sys.stderr, flush=True)
                found[name].append(one)
    rows = {
        n: {k: statistics.median(r[k] for r in runs) for k in KEYS} for n, runs in found.items()
    }
    versions = {name: read_versions(python) for name, (_, python) in programs.items()}
    ratios = {name: compare(rows["ours"], row) for name, row in rows.items() if name != "ours"}
    figures = {"medians": rows, "ours_to": ratios, "versions": versions, "runs": found}
    if args.json:
        print(json.dumps(figures))
        return
    show(figures)


if __name__ == "__main__":
    main()
