"""Numbers from flags, and bytes in words."""

from __future__ import annotations

import pytest

from provision.errors import ConfigError
from provision.numbers import parse_number, parse_rate, size


@pytest.mark.parametrize(
    ("value", "least", "most"), [(0, 0, None), ("65535", 1, 65535), ("-8", None, None)]
)
def test_a_number_within_its_range_is_taken(value, least, most):
    assert parse_number("wait", value, least, most) == int(value)


@pytest.mark.parametrize(
    ("value", "least", "most", "expected"),
    [
        (-1, 0, None, "--keep-last: found -1, expected a number, 0 or more: write such a number"),
        (65536, 1, 65535, "expected a number from 1 to 65535"),
        ("soon", 10, None, "--keep-last: found 'soon', expected a number, 10 or more"),
        ("soon", None, None, "--keep-last: found 'soon', expected a number: "),
    ],
)
def test_a_number_out_of_its_range_is_refused(value, least, most, expected):
    with pytest.raises(ConfigError, match=expected):
        parse_number("keep_last", value, least, most)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("50MB/s", 50e6), ("1.5G", 1.5e9), ("800k", 8e5), ("12mb", 12e6), ("7", 7.0), (None, 0.0)],
)
def test_a_limit_is_bytes_a_second(text, rate):
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["fast", "0", "-3MB/s", "50MiB/s", "50 MB/h", ""])
def test_what_is_no_limit_is_refused(text):
    with pytest.raises(ConfigError, match="--limit 50MB/s"):
        parse_rate(text)


def test_bytes_in_words():
    assert [size(n) for n in (0, 7, 1500, 2.5e6, 3e9, 4096e9)] == [
        "0 bytes", "7 bytes", "1.5 kB", "2.5 MB", "3.0 GB", "4,096.0 GB",
    ]  # fmt: skip
