"""What a process was doing when it was killed, by its last step."""

from __future__ import annotations

WORDS = {"", "words", "followers", "words_counts", "common_words"}
CHANGES = {"INSERT", "UPDATE", "DELETE", "REPLACE"}
OTHERS = {
    "started": "starting",
    "BEGIN": "begin",
    "COMMIT": "commit",
    "ROLLBACK": "commit",
    "CREATE": "tables",
    "ALTER": "tables",
    "DROP": "tables",
    "SELECT": "query",
    "PRAGMA": "query",
    "VACUUM": "vacuum",
    "fsync": "fsync",
}
FILES = {"open", "rename", "unlink", "mkdir", "rmdir", "truncate", "copy"}


def phase_of(step: str) -> str:
    """The phase of a step: "commit", "rows", "words", "cache", …"""
    first, _, rest = step.partition(" ")
    if first in FILES:
        return "reading" if rest in ("photos", "list") else rest
    if first in CHANGES:
        return "rows" if rest not in WORDS else "words"
    return OTHERS.get(first, "words")
