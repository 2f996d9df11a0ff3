"""What people call the sounds that the built-in model learns: several phrases per label."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

_TABLES: dict[str, Any] = tomllib.loads(
    Path(__file__).with_name("phrases.toml").read_text(encoding="utf-8")
)
FRAMES: list[str] = _TABLES["frames"]
KNOWN: dict[str, list[str]] = _TABLES["known"]
ESC10: dict[str, str] = _TABLES["esc10"]
CALLS: dict[str, list[str]] = _TABLES["calls"]
VERBS: dict[str, list[str]] = _TABLES["verbs"]
THINGS: dict[str, list[str]] = _TABLES["things"]
RENAMED: dict[str, str] = _TABLES["renamed"]
"""phrases.toml says what each table holds."""


def phrases_of(label: str, *, animal: bool = False) -> tuple[str, tuple[str, ...]]:
    """The name of a label's concept, and phrases for its sound.

    Args:
        label: A label of ESC-10 or of the animals, or a caption of tuxpaint.
        animal: Whether it names an animal.
    """
    plain = re.sub(r"^(an?|the) |[.“”!]", "", label, flags=re.IGNORECASE).lower()
    name = ESC10.get(label) or RENAMED.get(plain, plain)
    words = set(re.findall(r"\w+", plain))
    thing = next((key for key in THINGS if words >= set(key.split()) and not animal), None)
    if thing:
        name, *_ = names = [*THINGS[thing], plain]
    elif name in KNOWN:
        names = [*KNOWN[name], plain]
    elif animal:
        verb = next((one for one in VERBS if name.endswith(tuple(VERBS[one]))), "calling")
        names = [name, f"a {name}", f"a {name} {verb}", f"{verb} {name}", f"the call of a {name}"]
        names += CALLS.get(name, [])
    else:
        name = plain
        frames = ("a voice saying {}", "someone says {}", "the word {}", "{} spoken aloud")
        return name, (name, label, *(frame.format(name) for frame in frames))
    phrases = [frame.format(thing) for thing in names for frame in FRAMES]
    return name, tuple(dict.fromkeys([*phrases, label]))
