from __future__ import annotations

import pytest

from provision.errors import ConfigError
from provision.slurm.spec import SlurmSpec, parse_gpus, parse_seconds, parse_slurm_spec

GIVEN = {"nodes": "4", "gpus": "8", "time": "20:00:00", "job_name": "train"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90 * 60),
        ("10:30", 10 * 60 + 30),
        ("20:00:00", 20 * 3600),
        ("2-12", 60 * 3600),
        ("1-00:30", 24 * 3600 + 30 * 60),
        ("1-01:02:03", 25 * 3600 + 2 * 60 + 3),
        ("UNLIMITED", None),
    ],
)
def test_times_are_slurms(text: str, seconds: int | None) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "20h", "1:2:3:4", "0", "00:00:00", "-5", "1-", "20:00:00\r"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--time"):
        parse_seconds(text)


def test_a_time_that_yaml_took_for_a_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="in quotes"):
        parse_seconds(72000)


def test_gpus_with_and_without_a_type() -> None:
    assert parse_gpus("8") == (8, None)
    assert parse_gpus("a100:4") == (4, "a100")
    for text in ("0", "a100", "8 gpus", "a100:", "-1"):
        with pytest.raises(ConfigError, match="--gpus"):
            parse_gpus(text)


def test_a_job_from_flags() -> None:
    job = parse_slurm_spec(**GIVEN, constraint="a100&ib", cpus_per_task="10", mem="0", lead=60)
    assert job == SlurmSpec(
        nodes=4,
        gpus=8,
        time="20:00:00",
        job_name="train",
        constraint="a100&ib",
        cpus_per_task=10,
        mem="0",
        lead=60,
    )


@pytest.mark.parametrize(
    ("flag", "given"),
    [
        ("--nodes", {"nodes": "0"}),
        ("--job-name", {"job_name": "my job"}),
        ("--job-name", {"job_name": 'a"b'}),
        ("--partition", {"partition": "gpu\n#SBATCH --qos=high"}),
        ("--account", {"account": "a b"}),
        ("--mem", {"mem": "lots"}),
        ("--cpus-per-task", {"cpus_per_task": "ten"}),
        ("--lead", {"time": "1", "lead": 60}),
        ("--lead", {"lead": 0}),
        ("--restarts", {"restarts": -1}),
        ("--sbatch", {"more": ["-p debug"]}),
        ("--sbatch", {"more": ["--reservation=a b"]}),
        ("--sbatch=--signal=USR1@60", {"more": ["--signal=USR1@60"]}),
        ("--sbatch=--ntasks-per-node=8", {"more": ["--ntasks-per-node=8"]}),
    ],
)
def test_what_slurm_could_not_take_is_refused(flag: str, given: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_slurm_spec(**{**GIVEN, **given})
    assert refused.value.what == flag
