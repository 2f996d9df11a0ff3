"""A connection to Milvus: rows in and out of collections, and its errors as those of mmsearch.

One thread writes at a time: those of the store and the one that renews the lease would else meet,
and milvus-lite loses rows when two calls write at once.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from mmsearch.errors import MissingExtra
from mmsearch.storage.milvus.errors import (
    COLLECTION_NOT_FOUND,
    COLLECTION_NOT_LOADED,
    UNREACHABLE,
    failed,
    problem_of,
)
from mmsearch.storage.milvus.layout import Field, Layout, one_of

Row = dict[str, Any]

CONNECT_WITHIN = 10.0
"""Seconds in which a server must answer the first time."""

CALL_WITHIN = 120.0
"""Seconds that one call may take."""

MOST_ROWS = 16_384
"""Milvus returns no more of a query at once."""

MOST_BYTES = 24 << 20
"""Of rows in one call, roughly; Milvus takes 64 MB."""

IDS_AT_ONCE = 5_000
"""Values in one expression."""


class Client:
    """What the store asks of Milvus. Every error is one of mmsearch, without the token.

    In all methods `name` is a collection, `expression` a filter in Milvus' syntax ("" passes all),
    and `fields` are the fields of the rows returned. Each raises StorageFailed if the server
    refuses or cannot be reached; reading from a collection that does not exist finds nothing.

    Args:
        url: "http://host:port", or https.
        token: What authenticates; "" for none.
        address: How the index is called in messages.

    Raises:
        MissingExtra: pymilvus is not installed.
        StorageFailed: the server cannot be reached, or refuses the token.
    """

    def __init__(self, url: str, token: str, address: str) -> None:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it would log to stderr by itself
        try:
            import pymilvus  # noqa: F401 - only whether it is there
        except ImportError as error:
            raise MissingExtra(f"an index at {address}", "milvus", error) from error
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs what it raises as well
        self.address = address
        self._url, self._token = url, token
        self._there: set[str] = set()
        self._one_write = threading.Lock()
        self._connecting = threading.Lock()
        self._connected: Any = None
        with self.errors():
            version = str(self.milvus.get_server_version(timeout=CONNECT_WITHIN))
        self.is_lite = "lite" in version.lower()
        """milvus-lite has neither float16 nor indexes of scalars."""

    @property
    def milvus(self) -> Any:
        """The pymilvus client, connected anew if the last connection broke; call it in `errors`."""
        with self._connecting:
            if self._connected is None:
                from pymilvus import MilvusClient

                self._connected = MilvusClient(
                    uri=self._url, token=self._token, timeout=CONNECT_WITHIN, dedicated=True
                )
            return self._connected

    def close(self) -> None:
        """Close the connection."""
        connected, self._connected = self._connected, None
        with suppress(Exception):  # it may be broken by now
            connected.close()

    # ------------------------------------------------------------------ collections

    def has(self, name: str) -> bool:
        """Whether a collection is there."""
        if name in self._there:
            return True
        with self.errors():
            found = bool(self.milvus.has_collection(name))
        if found:
            self._there.add(name)
        return found

    def collections(self, prefix: str) -> list[str]:
        """The collections whose names begin like this, sorted."""
        with self.errors():
            return sorted(n for n in self.milvus.list_collections() if n.startswith(prefix))

    def create(self, name: str, layout: Layout) -> None:
        """Make a collection if it is not there, and load it."""
        if self.has(name):
            return
        from pymilvus import DataType, MilvusClient

        kinds = {
            "int": {"datatype": DataType.INT64},
            "float": {"datatype": DataType.DOUBLE},
            "text": {"datatype": DataType.VARCHAR, "max_length": 65_535},
            "json": {"datatype": DataType.JSON},
            "texts": {
                "datatype": DataType.ARRAY,
                "element_type": DataType.VARCHAR,
                "max_capacity": 4096,
                "max_length": 4096,
            },
            "dummy": {"datatype": DataType.FLOAT_VECTOR, "dim": 2},
            "vector": {
                "datatype": DataType.FLOAT_VECTOR if self.is_lite else DataType.FLOAT16_VECTOR,
                "dim": layout.dim,
            },
        }
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        for field_name, field in layout.fields.items():
            given = dict(kinds[field.type])
            if field.key:
                given["is_primary"] = True
                given |= {"max_length": 512} if field.type == "text" else {}
            if field.nullable:
                given["nullable"] = True
            schema.add_field(field_name=field_name, **given)
        with self._one_write, self.errors():
            self.milvus.create_collection(name, schema=schema, consistency_level="Strong")
            self._index(name, layout.fields)
            self.milvus.load_collection(name)
        self._there.add(name)

    def _index(self, name: str, fields: Mapping[str, Field]) -> None:
        params = self.milvus.prepare_index_params()
        for field_name, field in fields.items():
            if field.type in ("vector", "dummy"):
                params.add_index(field_name, index_type="FLAT", metric_type="IP")
            elif field.indexed and not self.is_lite:
                params.add_index(field_name, index_type="INVERTED")
        # it would sleep for half a second to see whether they are built
        self.milvus.create_index(name, params, sync=False)

    def reindex(self, name: str, field: str, kind: str, params: Mapping[str, Any]) -> None:
        """Give a vector field an index of another kind, unless it has that one.

        Meanwhile searches of the collection fail.

        Args:
            name: The collection.
            field: The vector field.
            kind: Milvus' name of the kind, such as "HNSW".
            params: Build parameters, by Milvus' names.

        Raises:
            StorageFailed: the server cannot build it; all vectors are then compared.
        """
        with self._one_write, self.errors():
            if (self.milvus.describe_index(name, index_name=field) or {}).get("index_type") == kind:
                return
            self.milvus.release_collection(name)
            self.milvus.drop_index(name, index_name=field)
            try:
                self._build(name, field, kind, params)
            except BaseException:
                with suppress(Exception):  # it may have been made, and not loaded
                    self.milvus.release_collection(name)
                    self.milvus.drop_index(name, index_name=field)
                self._build(name, field, "FLAT", {})
                raise

    def _build(self, name: str, field: str, kind: str, params: Mapping[str, Any]) -> None:
        chosen = self.milvus.prepare_index_params()
        chosen.add_index(
            field, index_type=kind, index_name=field, metric_type="IP", params=dict(params)
        )
        self.milvus.create_index(name, chosen)
        self.milvus.load_collection(name)

    def drop(self, name: str) -> None:
        """Delete a collection if it is there, with what stands for it."""
        with self.errors():
            if self.milvus.has_collection(name):
                self.milvus.drop_collection(name)
        self._there.discard(name)

    def point(self, alias: str, name: str) -> None:
        """Make an alias stand for a collection, atomically."""
        from pymilvus import MilvusException

        with self.errors():
            try:
                self.milvus.alter_alias(name, alias)
            except MilvusException:  # there was none
                self.milvus.create_alias(name, alias)

    def flush(self, name: str) -> None:
        """Have a collection's rows written out of the log."""
        with self.errors():
            self.milvus.flush(name)

    # ------------------------------------------------------------------ rows

    def query(
        self, name: str, expression: str, fields: Sequence[str], limit: int | None = None
    ) -> list[Row]:
        """Rows for which an expression holds: all, or some that are not more than a limit."""
        if limit is not None and limit <= MOST_ROWS:
            return self._query(name, expression, fields, limit)
        found = self._query(name, expression, fields, MOST_ROWS)
        if len(found) < MOST_ROWS:
            return found
        every = [row for page in self.iterate(name, expression, fields) for row in page]
        return every[:limit]

    def _query(self, name: str, expression: str, fields: Sequence[str], limit: int) -> list[Row]:
        def call() -> list[Row]:
            found = self.milvus.query(
                name,
                filter=expression,
                output_fields=list(fields),
                limit=limit,
                timeout=CALL_WITHIN,
            )
            return list(map(dict, found))

        return self._read(name, call) or []

    def iterate(
        self, name: str, expression: str, fields: Sequence[str], rows: int = 4096
    ) -> Iterator[list[Row]]:
        """The same in order of the primary key, so many at a time."""

        def begin() -> Any:
            return self.milvus.query_iterator(
                name,
                batch_size=min(rows, MOST_ROWS),
                filter=expression,
                output_fields=list(fields),
                timeout=CALL_WITHIN,
            )

        if (iterator := self._read(name, begin)) is None:
            return
        try:
            while True:
                with self.errors():
                    page = list(map(dict, iterator.next()))
                if not page:
                    return
                yield page
        finally:
            with suppress(Exception):
                iterator.close()

    def pages(self, name: str, expression: str, fields: Sequence[str]) -> Iterator[list[Row]]:
        """All rows for which an expression holds, by pages, in order of their ids."""
        # one request is enough for most; an iterator makes three
        first = self.query(name, expression, fields, MOST_ROWS)
        if len(first) < MOST_ROWS:
            yield sorted(first, key=lambda row: row["id"])
        else:
            yield from self.iterate(name, expression, fields)

    def among(
        self,
        name: str,
        field: str,
        values: Iterable[Any],
        fields: Sequence[str],
        more: str = "",
        *,
        at_once: int = IDS_AT_ONCE,
    ) -> list[Row]:
        """The rows in which a field has one of some values, and for which more holds.

        Args:
            name: The collection.
            field: The field.
            values: Its values.
            fields: The fields of the rows returned.
            more: A further expression, which must hold as well.
            at_once: The number of values per request; fewer for large rows.
        """
        found: list[Row] = []
        listed = list(values)
        for start in range(0, len(listed), at_once):
            expression = one_of(field, listed[start : start + at_once])
            found += self.query(name, f"{expression}{f' and {more}' if more else ''}", fields)
        return found

    def count(self, name: str, expression: str = "") -> int:
        """How many rows there are for which an expression holds."""

        def call() -> list[Row]:
            return list(
                self.milvus.query(
                    name, filter=expression, output_fields=["count(*)"], timeout=CALL_WITHIN
                )
            )

        found = self._read(name, call)
        return int(found[0]["count(*)"]) if found else 0

    def search(
        self,
        name: str,
        vectors: Any,
        limit: int,
        *,
        expression: str = "",
        fields: Sequence[str] = (),
        params: Mapping[str, Any] | None = None,
    ) -> list[list[Row]]:
        """The rows of the highest inner products with each vector, the best first.

        Args:
            name: The collection.
            vectors: Queries (m, dim), float32.
            limit: The number of rows for each, at most MOST_ROWS.
            expression: A filter of the rows.
            fields: Fields of the rows besides "id" and "distance", the inner product.
            params: Search parameters, by Milvus' names, such as {"ef": 64}.
        """

        def call() -> list[list[Row]]:
            found = self.milvus.search(
                name,
                data=[one.tolist() for one in vectors],
                anns_field="vector",
                limit=min(limit, MOST_ROWS),
                filter=expression,
                output_fields=list(fields),
                search_params={"metric_type": "IP", "params": dict(params or {})},
                timeout=CALL_WITHIN,
            )
            return [
                [{"id": hit["id"], "distance": hit["distance"], **hit["entity"]} for hit in hits]
                for hits in found
            ]

        return self._read(name, call) or [[] for _ in vectors]

    def _read(self, name: str, call: Any) -> Any:
        """What a call returns; None if the collection is not there."""
        from pymilvus import MilvusException

        if not self.has(name):
            return None
        with self.errors():
            try:
                return call()
            except MilvusException as error:
                if error.code == COLLECTION_NOT_LOADED:  # the server was started anew
                    self.milvus.load_collection(name)
                    return call()
                if error.code == COLLECTION_NOT_FOUND and not self.milvus.has_collection(name):
                    self._there.discard(name)
                    return None
                raise

    def upsert(self, name: str, rows: Sequence[Row]) -> None:
        """Store rows in place of those with the same keys; the collection must be there."""
        for some in _portions(rows):
            with self._one_write, self.errors():
                self.milvus.upsert(name, some, timeout=CALL_WITHIN)

    def delete(self, name: str, expression: str) -> None:
        """Delete the rows for which an expression holds."""

        def call() -> None:
            with self._one_write:
                self.milvus.delete(name, filter=expression, timeout=CALL_WITHIN)

        self._read(name, call)

    def delete_among(self, name: str, field: str, values: Iterable[Any], more: str = "") -> None:
        """Delete the rows in which a field has one of some values, and for which more holds."""
        listed = list(values)
        for start in range(0, len(listed), IDS_AT_ONCE):
            expression = one_of(field, listed[start : start + IDS_AT_ONCE])
            self.delete(name, f"{expression}{f' and {more}' if more else ''}")

    # ------------------------------------------------------------------ errors

    @contextmanager
    def errors(self) -> Iterator[None]:
        """A context in which the errors of Milvus and of its connection become ours.

        Raises:
            StorageFailed: one was raised; the message says what to do.
        """
        import grpc
        from pymilvus import MilvusException

        checks = (ValueError, TypeError)  # what pymilvus says of rows and addresses
        failure = None
        try:
            yield
        except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError, *checks) as error:
            if (problem := problem_of(error)) is UNREACHABLE:
                self.close()  # the next call connects anew
            failure = failed(self.address, problem, error, self._token)
        if failure is not None:
            raise failure  # not above: its context would be an error that may hold the token


def _portions(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows in portions that one call can take."""
    some: list[Row] = []
    size = 0
    for row in rows:
        weight = 200 + sum(
            len(value) * 2 if isinstance(value, str | bytes) else getattr(value, "nbytes", 16)
            for value in row.values()
        )
        if some and size + weight > MOST_BYTES:
            yield some
            some, size = [], 0
        some.append(row)
        size += weight
    if some:
        yield some
