"""settings.json beside the indexes: what the user chose of models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmsearch.errors import InvalidOption, NoHomeFolder
from mmsearch.home import home


def stored() -> dict[str, Any]:
    """Everything in the file; {} if there is none.

    Raises:
        InvalidOption: it cannot be read; the message says what to do.
    """
    try:
        found = json.loads(_file().read_text(encoding="utf-8"))
    except (FileNotFoundError, NoHomeFolder):
        return {}
    except (OSError, ValueError) as error:
        raise unusable(str(error)) from error
    if not isinstance(found, dict):
        raise unusable("it is not a JSON object")
    return found


def store(key: str, value: Any) -> None:
    """Store one setting, or with None remove it. A file that cannot be read is written anew.

    Raises:
        InvalidOption: it cannot be written.
    """
    from mmsearch.encoders.model_files import replace_file

    try:
        settings = stored()
    except InvalidOption:
        settings = {}
    settings.pop(key, None)
    if value is not None:
        settings[key] = value
    try:
        replace_file(_file(), json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise InvalidOption(f"the settings cannot be written: {error}") from error


def unusable(why: str) -> InvalidOption:
    """The error that the settings cannot be read."""
    return InvalidOption(
        f"{_file()} cannot be used ({why}); write it anew with: mmsearch models default mini"
    )


def _file() -> Path:
    return home() / "settings.json"
