"""The terminal of an interactive session, and its size."""

from __future__ import annotations

import fcntl
import struct
import termios


def apply_own() -> None:
    """In the new session, make standard input its controlling terminal (Ctrl-C works).

    https://man7.org/linux/man-pages/man2/TIOCSCTTY.2const.html
    """
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def apply_size(terminal: int, width: int, height: int) -> None:
    """Tell programs on ``terminal`` its size in characters."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
