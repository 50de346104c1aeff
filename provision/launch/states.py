"""How a run stands, in one word: as its hosts tell it (onhost/state.py), or as all of them do."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Of a run, of its node on one host, or of a rank. A word in JSON, and wherever it is shown."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"
    #: A host can't say how its node ended: its supervisor is gone without a word, or the host is.
    LOST = "lost"
    #: A node whose plan is there and whose supervisor was never started.
    NEVER_STARTED = "never started"
    #: Ended by what hosts say, but not every host could be asked; or a word of another version.
    UNKNOWN = "unknown"

    @classmethod
    def parse(cls, word: object) -> State:
        """A host's word; UNKNOWN for one that is not known here: unknown is never ok."""
        try:
            return cls(str(word))
        except ValueError:
            return cls.UNKNOWN
