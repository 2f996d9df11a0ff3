"""Types whose values SQLite and PostgreSQL keep in different ways."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import BigInteger, Float, Integer, LargeBinary, Text, cast
from sqlalchemy.sql.type_api import TypeEngine
from sqlalchemy.types import TypeDecorator, UserDefinedType

from mmsearch.storage.stored_text import not_storable, text_of
from mmsearch.storage.stored_text import stored_text as stored

POSTGRESQL = "postgresql"

# ---------------------------------------------------------------------- texts


def path_bytes(name: str) -> bytes:
    """A file name as SQLite's driver takes it, byte for byte: bound as CAST(? AS TEXT)."""
    return name.encode("utf-8", "surrogateescape")


class PathText(TypeDecorator[str]):
    """A file name as text, byte for byte: names that are not UTF-8 come back as they went in.

    Python holds such names with surrogate escapes, which SQLite's driver refuses to bind as text;
    so the bytes are bound and SQLite is told that they are text.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> Any:
        """Bytes."""
        del dialect
        return None if value is None else path_bytes(value)

    def bind_expression(self, bindparam: Any) -> Any:
        """CAST(? AS TEXT)."""
        return cast(bindparam, Text)


_REFUSED = not_storable("\0")


def stored_text(text: str) -> str:
    """A text as PostgreSQL can hold it: without NUL and surrogates."""
    return stored(text, _REFUSED)


class StoredText(TypeDecorator[str]):
    """Any text, in PostgreSQL; compared as SQLite compares it, by its bytes."""

    impl = Text(collation="C")
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        """What PostgreSQL can hold of it."""
        del dialect
        return None if value is None else stored_text(value)

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        """The text that was given."""
        del dialect
        return None if value is None else text_of(value)


TEXT: TypeEngine[str] = Text().with_variant(StoredText(), POSTGRESQL)
"""Any text."""

PATH: TypeEngine[str] = PathText().with_variant(StoredText(), POSTGRESQL)
"""A file name or a path."""

# ---------------------------------------------------------------------- numbers

INTEGER: TypeEngine[int] = Integer().with_variant(BigInteger(), POSTGRESQL)
"""An integer of up to 64 bits, as all of SQLite's are."""

FLOAT: TypeEngine[float] = Float(53)
"""A float of 64 bits."""

# ---------------------------------------------------------------------- vectors


class HalfVector(UserDefinedType[bytes]):
    """A vector of float16 in PostgreSQL (pgvector's `halfvec`); in Python, its little-endian bytes.

    It is read by way of its binary form: as text it would take ten times as long. It is written by
    COPY alone.
    """

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """The type's name: vectors of any width."""
        return "halfvec"

    def column_expression(self, column: Any) -> Any:
        """Reads the binary form."""
        from sqlalchemy import func

        return func.halfvec_send(column, type_=self)

    def result_processor(self, dialect: Any, coltype: Any) -> Any:
        """Bytes in the order of this machine's, without the header that says how many they are."""
        del dialect, coltype
        return vector_bytes


def vector_bytes(sent: bytes | None) -> bytes | None:
    """The float16 numbers, little endian, of what `halfvec_send` gives."""
    if sent is None:
        return None
    import numpy as np

    return np.frombuffer(sent, ">f2", offset=4).astype("<f2").tobytes()


FLOAT16: TypeEngine[bytes] = LargeBinary().with_variant(HalfVector(), POSTGRESQL)
"""A vector as float16, little endian."""

# ---------------------------------------------------------------------- many ids at once


def id_list(ids: Iterable[int]) -> str:
    """Any number of ids as one parameter: a JSON list."""
    return json.dumps(list(map(int, ids)))
