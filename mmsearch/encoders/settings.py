"""What a person has set for good, in settings.json beside the indexes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mmsearch.errors import InvalidOption
from mmsearch.home import home


def read() -> dict[str, Any]:
    """Everything that was set; {} if nothing was.

    Raises:
        InvalidOption: the file cannot be read; the message says what to do.
    """
    try:
        text = _file().read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise damaged(str(error)) from error
    try:
        found = json.loads(text)
    except ValueError as error:
        raise damaged("it is no JSON") from error
    if not isinstance(found, dict):
        raise damaged("it is no JSON object")
    return found


def write(settings: dict[str, Any]) -> None:
    """Replace everything that was set, whole or not at all.

    Raises:
        InvalidOption: the file cannot be written.
    """
    import tempfile

    file = _file()
    draft = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=file.parent, prefix=".settings", delete=False, encoding="utf-8"
        ) as draft:
            json.dump(settings, draft, indent=2, ensure_ascii=False)
            draft.write("\n")
            draft.flush()
            os.fsync(draft.fileno())
        os.replace(draft.name, file)
    except OSError as error:
        if draft is not None:
            Path(draft.name).unlink(missing_ok=True)
        raise InvalidOption(f"the settings cannot be written: {error}") from error


def damaged(why: str) -> InvalidOption:
    """The error for settings that cannot be used."""
    return InvalidOption(
        f"{_file()} cannot be used ({why}); write it anew with: mmsearch models default mini"
    )


def _file() -> Path:
    return home() / "settings.json"
