"""trainer/room.py: a full disk is one line, and what was whole before stays so."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerState

from bench.matrix import Train
from trainer import room
from trainer.checkpoints import check_folder, read_checkpoints
from trainer.errors import RequestError

ROOT = Path(__file__).parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it mounts a small disk")
Resize = Callable[[int], None]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Resize]]:
    """A disk of its own, and how to give it so many bytes more than are used."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small", folder], check=True)

    def resize(free: int) -> None:
        used = shutil.disk_usage(folder).used
        mount(f"remount,size={(used + free) // 4096 * 4096}")

    mount("size=64m")
    try:
        yield folder, resize
    finally:
        subprocess.run(["umount", folder], check=True)


@needs_root
def test_every_writer_s_words_for_a_full_disk_are_known(
    tiny: Path, tokenizer: PreTrainedTokenizerFast, disk: tuple[Path, Resize]
) -> None:
    folder, resize = disk
    model = AutoModelForCausalLM.from_pretrained(tiny)
    weights, filler = model.state_dict(), folder / "filler"
    writers: dict[str, Callable[[], Any]] = {
        "safetensors": lambda: model.save_pretrained(folder),
        "torch": lambda: torch.save(weights, folder / "a.pt"),
        "torch as DeepSpeed has it": lambda: torch.save(
            weights, folder / "b.pt", _use_new_zipfile_serialization=False
        ),
        "tokenizer": lambda: tokenizer.save_pretrained(folder),
        "trainer_state": lambda: TrainerState().save_to_json(folder / "state.json"),
    }
    for name, write in writers.items():
        for free in (0, 40_960):
            if name == "trainer_state" and free:
                continue
            for path in folder.iterdir():
                path.unlink()
            filler.write_bytes(bytes(4096))  # a size of 0 would be none
            resize(free)
            with pytest.raises(RequestError, match="No space left on device") as error:  # noqa: SIM117
                with room.writing_result(folder):
                    write()
            said = str(error.value)
            assert "the result does not fit into" in said, name
            assert "\n" not in said
            assert not [path for one in room.WEIGHTS for path in folder.glob(one)], name


@needs_root
def test_another_error_stays_what_it_is(disk: tuple[Path, Resize]) -> None:
    folder, _ = disk
    for error in (KeyError("a"), RuntimeError("unexpected pos 3 vs 4"), OSError(13, "no")):
        for context in (
            room.writing_result(folder),
            room.writing_checkpoint(folder),
            room.one_line_when_full(),
        ):
            with pytest.raises(type(error)) as raised, context:
                raise error
            assert raised.value is error


def test_what_else_of_a_run_finds_no_room() -> None:
    said = "No space left on device: /dev/full can't be written: make room there"
    with pytest.raises(RequestError, match=said), room.one_line_when_full(Path("/dev/full")):
        Path("/dev/full").write_text("a" * 100_000)


def test_a_folder_that_can_not_be_made_is_one_line(tmp_path: Path) -> None:
    room.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(
        RequestError, match=r"--output_dir .*: Not a directory: name another folder"
    ):
        room.make_folder(tmp_path / "file" / "b")


def test_a_result_that_is_replaced_in_vain_is_still_there(tmp_path: Path) -> None:
    old, new = tmp_path / "model.safetensors", tmp_path / "adapter_model.safetensors"
    old.write_text("old")
    context = room.writing_result(tmp_path)
    context.__enter__()
    new.write_text("half")
    full = OSError(28, "No space left on device")
    with pytest.raises(RequestError):
        context.__exit__(OSError, full, None)
    assert old.exists()
    assert not new.exists()


def asked(**more: Any) -> Any:
    """A Trainer's arguments, for 10 steps of a model of 100 fp32 parameters."""
    given = {"save_strategy": "steps", "optim": "adamw_torch_fused", "save_total_limit": None}
    given |= {"save_only_model": False, "world_size": 2, **more}
    model = torch.nn.Linear(10, 10, bias=False)
    state = SimpleNamespace(save_steps=3)
    return SimpleNamespace(args=SimpleNamespace(**given), model=model, state=state)


@pytest.mark.parametrize(
    ("more", "zero", "resumed", "total"),
    [
        ({"save_strategy": "no"}, 2, False, 400),
        ({"save_total_limit": 9}, 0, False, 5 * 400 + 4 * 800),  # at steps 3, 6, 9 and 10
        ({"save_total_limit": 9}, 2, False, 5 * 400 + 4 * 400),  # one of two ranks is on this host
        ({"save_total_limit": 1}, 2, False, 2 * 400 + 400),
        ({}, 2, False, 2 * 400 + 400),
        ({"save_only_model": True}, 0, False, 2 * 400),
        ({"optim": "adafactor"}, 0, False, 2 * 400),
        ({}, 0, True, 400),
    ],
)
def test_what_a_run_is_sure_to_write(
    more: dict[str, Any], zero: int, resumed: bool, total: int, tmp_path: Path
) -> None:
    wanted = room.needs(asked(**more), 10, zero=zero, resumed=resumed)
    assert wanted.total == total
    assert room.missing_room(tmp_path, wanted, lambda _: total) is None
    said = str(room.missing_room(tmp_path, wanted, lambda _: total - 1))
    assert f"has {room.size(total - 1)} free, and this run writes at least" in said


def flags(tiny: Path, out: Path, tokens: Path, **more: Any) -> list[str]:
    """A run of whole weights that saves after each step, and keeps one checkpoint."""
    given = {
        "model_name_or_path": tiny,
        "train_file_dir": ROOT / "examples",
        "output_dir": out,
        "deepspeed": ROOT / "zero_configs" / "zero2.json",
        "use_peft": "false",
        "model_max_length": 64,
        "gradient_accumulation_steps": 1,
        "save_steps": 1,
        "save_total_limit": 1,
        "token_cache": tokens,
        "resume_from_checkpoint": "latest-if-any",
        **more,
    }
    return [text for name, value in given.items() for text in (f"--{name}", str(value))]


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_a_checkpoint_stays_until_the_next_is_whole_on_all_hosts(
    tiny: Path, tmp_path: Path, ranks: Train
) -> None:
    def train(steps: int) -> str | None:
        argv = flags(tiny, tmp_path / "host{rank}", tmp_path / "tokens", max_steps=steps)
        return ranks("sft", argv, 2, tmp_path / "run")

    assert train(1) is None
    # The second of two hosts has all of its part of the next, but can't write its manifest.
    (tmp_path / "host1" / "checkpoint-2" / "checkpoint.json").mkdir(parents=True)
    assert "checkpoint-2: Is a directory" in str(train(2))
    for host in ("host0", "host1"):
        assert 1 in read_checkpoints(tmp_path / host)


@needs_root
@pytest.mark.integration
@pytest.mark.timeout(600)
def test_a_run_whose_disk_is_full_goes_on_when_there_is_room(
    tiny: Path, tmp_path: Path, disk: tuple[Path, Resize], ranks: Train
) -> None:
    folder, resize = disk
    out, weights = folder / "out", folder / "out" / "model.safetensors"

    def train(steps: int) -> str:
        argv = flags(tiny, out, tmp_path / "tokens", max_steps=steps)
        return ranks("sft", argv, 2, tmp_path / "run") or ""

    def steps() -> list[int]:
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        return [e["step"] for e in map(json.loads, lines) if e["event"] == "step"]

    assert not train(1)
    first = out / "checkpoint-1"
    each = sum(path.stat().st_size for path in first.rglob("*") if path.is_file())
    result = weights.read_bytes()

    resize(each // 2)
    error = train(2)
    assert "No space left on device: checkpoint-2 does not fit into" in error
    assert f"checkpoint-1 has {room.size(each)}" in error
    assert error.endswith("--resume_from_checkpoint latest goes on from checkpoint-1")
    # With a limit of 1, too: the old one goes when the new one is whole, not before.
    assert list(read_checkpoints(out)) == [1]
    assert check_folder(first, hashes=True)[1] is None
    assert not [path for path in (out / "checkpoint-2").rglob("*") if path.is_file()]

    resize(len(result) * 85 // 100)
    assert re.search("No space left on device: the result does not fit", train(1))
    assert steps() == [1, 2]  # and no step beyond the last, when it goes on from there
    assert weights.read_bytes() == result

    resize(1 << 25)
    assert not train(2)
    assert steps() == [1, 2, 2]
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-2"]
