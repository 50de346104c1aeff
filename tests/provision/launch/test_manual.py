"""The manual form: positions over variables over defaults, and what each variable means."""

from __future__ import annotations

from pathlib import Path

import pytest

from provision.errors import ConfigError
from provision.launch.manual import local_path, parse_node_form, words_after

HOME, HERE = Path("/home/me"), Path("/here")


def form(given=None, **shell):
    return parse_node_form(given or {}, shell, HOME, HERE)


def shape(found):
    return (found.zero, found.nnodes, found.nproc_per_node, found.master_addr, found.master_port)


def test_defaults():
    found = form()
    assert shape(found) == (2, 1, 4, "localhost", 29500)
    assert (found.node_rank, found.notices) == (0, ())


def test_positions_over_variables():
    given = {"zero": "3", "nnodes": 2, "gpus_per_node": 8, "master_addr": "10.0.0.1"}
    found = form(given, ZERO_STAGE="1", NNODES="4", MASTER_PORT="29501", NODE_RANK="1")
    assert shape(found) == (3, 2, 8, "10.0.0.1", 29501)
    assert found.node_rank == 1


def test_world_size_as_nodes_with_a_notice():
    found = form(WORLD_SIZE="2", NODE_RANK="1", MASTER_ADDR="10.0.0.1", NPROC_PER_NODE="4")
    assert shape(found) == (2, 2, 4, "10.0.0.1", 29500)
    assert "WORLD_SIZE=2 is taken as 2 nodes" in found.notices[0]
    assert form(WORLD_SIZE="8", NNODES="2", NODE_RANK="0").nnodes == 2  # as torchrun has it
    with pytest.raises(ConfigError, match="WORLD_SIZE and NNODES: found 3 and 2"):
        form(WORLD_SIZE="3", NNODES="2", NODE_RANK="0")


def test_a_missing_rank_is_said():
    assert form(NNODES="2").notices == (
        "NODE_RANK is not set: this is node 0 of 2, whom the others meet",
    )


@pytest.mark.parametrize(
    ("shell", "message"),
    [
        ({"NODE_RANK": "2", "NNODES": "2"}, "NODE_RANK: found 2, expected 0 to 1, for 2 nodes"),
        ({"NODE_RANK": "x"}, "NODE_RANK: found 'x'"),
        ({"NPROC_PER_NODE": "0"}, "gpus_per_node: found '0'"),
        ({"NNODES": "two"}, "nnodes: found 'two'"),
        ({"WARMUP_RATIO": "5"}, "WARMUP_RATIO: found 5"),
    ],
)
def test_what_can_not_be_meant(shell, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        form(**shell)


@pytest.mark.parametrize("part", ["TRAIN", "VALID"])
def test_two_names_of_one_folder_say_the_same_or_are_refused(part):
    one, other = f"{part}_FILE_DIR", f"{part}_DATA_DIR"
    assert form(**{one: "a", other: "/here/a"}) == form(**{one: "a"})
    assert form(**{one: "", other: "b"}) == form(**{other: "b"})
    with pytest.raises(ConfigError, match=f"^{one} and {other}: found a and b"):
        form(**{one: "a", other: "b"})


def test_variables_for_paths_and_flags():
    found = form(
        MODEL_PATH="../model/qwen", TRAIN_DATA_DIR="~/a,/b", VALID_FILE_DIR="v", OUTPUT_DIR="out",
        TOKENIZER_PATH="/t", CACHE_DIR="cache", LEARNING_RATE="2e-4", WARMUP_RATIO="0.05",
        MAX_STEPS="", PER_DEVICE_TRAIN_BATCH_SIZE="2",
    )  # fmt: skip
    assert found.settings == {
        "model": "/here/../model/qwen",
        "data": "/home/me/a,/b",
        "output": "/here/out",
    }
    assert found.flags == {
        "per_device_train_batch_size": "2",
        "learning_rate": "2e-4",
        "warmup_steps": "0.05",
        "tokenizer_name_or_path": "/t",
        "validation_file_dir": "/here/v",
    }
    assert found.environ == {"HF_HOME": "/here/cache"}


def test_a_hub_name_stays_one_unless_it_is_a_folder(tmp_path):
    assert local_path("Qwen/Qwen3-0.6B", HOME, tmp_path) == "Qwen/Qwen3-0.6B"
    (tmp_path / "Qwen/Qwen3-0.6B").mkdir(parents=True)
    assert local_path("Qwen/Qwen3-0.6B", HOME, tmp_path) == str(tmp_path / "Qwen/Qwen3-0.6B")


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("invoke node 3 2 4 10.0.0.1 29500 --json", 5),
        ("invoke node", 0),
        ("invoke node --zero 3 2", 0),
        ("invoke -e node 3", 1),
        ("invoke train", 0),
    ],
)
def test_words_behind_the_command(line, count):
    assert words_after(line.split(), "node") == count
