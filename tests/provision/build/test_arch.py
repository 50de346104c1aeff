from __future__ import annotations

import pytest

from provision.build.arch import arch_tag, nearest, parse_archs
from provision.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "archs"),
    [
        ("8.0", ("8.0",)),
        ("9.0+PTX;8.0", ("8.0", "9.0+PTX")),
        ("8.0 9.0+ptx", ("8.0", "9.0+PTX")),
        ("8.0, 8.0+PTX", ("8.0+PTX",)),
        ("12.0;8.9;10.0", ("8.9", "10.0", "12.0")),
        ("sm_80,compute_90,sm_120", ("8.0", "9.0", "12.0")),
        ("A100,H100", ("8.0", "9.0")),
        ("a100 h100+PTX", ("8.0", "9.0+PTX")),
        ("rtx 4090", ("8.9",)),
        ("RTX4090 rtx-3090 Ti;7.5", ("7.5", "8.6", "8.9")),
        ("NVIDIA GeForce RTX 4090", ("8.9",)),
        ("NVIDIA A100-SXM4-80GB;NVIDIA H100 80GB HBM3", ("8.0", "9.0")),
        ("NVIDIA RTX 6000 Ada Generation", ("8.9",)),
        ("L40S,GH200 480GB,B200", ("8.9", "9.0", "10.0")),
        (["8.6", "8.0"], ("8.0", "8.6")),
        ("14.0", ("14.0",)),  # newer than the table: the toolkit is asked
    ],
)
def test_every_common_spelling(given, archs) -> None:
    assert parse_archs(given) == archs


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "an empty list"),
        (" ; ,", "an empty list"),
        ("8.4", r"unknown GPU architecture '8.4'.* did you mean 8.6"),
        ("84", "did you mean 8.6"),
        ("H1O0", "did you mean H100"),
        ("rtx 4099", "did you mean RTX4090"),
        ("8.0;9.0+PTZ", r"unknown GPU architecture '9.0\+PTZ'.* did you mean 9.0"),
        ("Hopper", "give its compute capability"),
        ("9.0a", r"found 9.0a, expected 9.0: .* can't read the 'a'"),
        ("10.0f", "can't read the 'f'"),
    ],
)
def test_anything_else_is_refused_with_the_nearest(given, words) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_archs(given)


def test_nearest() -> None:
    assert nearest("7.0", ("7.5", "8.0")) == "7.5"
    assert nearest("10.1", ("7.5", "9.0", "10.0")) == "10.0"


def test_tag() -> None:
    assert [arch_tag(arch) for arch in ("8.0", "9.0+PTX", "12.0")] == ["sm80", "sm90ptx", "sm120"]
