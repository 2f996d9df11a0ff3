"""Opens a media file, whatever it is given as."""

from __future__ import annotations

import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mmsearch.errors import UnreadableFile


@contextmanager
def opened_file(source: str | Path | bytes) -> Iterator[BinaryIO]:
    """A file, open to be read from its beginning.

    Args:
        source: Its path, or its bytes.

    Raises:
        UnreadableFile: It is not there, may not be read, or is no file but a pipe, say.
    """
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    try:
        # asked first: opening a pipe would wait for someone to write to it
        if not stat.S_ISREG(Path(source).stat().st_mode):
            raise UnreadableFile("not a regular file")
        file = Path(source).open("rb")  # noqa: SIM115 - closed below
    except ValueError as error:  # a NUL in the path
        raise UnreadableFile("no such file") from error
    except OSError as error:
        raise UnreadableFile((error.strerror or "cannot be read").lower()) from error
    with file:
        yield file
