"""Serving indexes in PostgreSQL and Milvus while their servers go down and come back."""

from __future__ import annotations

import os
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import ToyEncoder, paint
from forwarder import Forwarder
from postgres_server import schema, started
from server_world import problem
from starlette.testclient import TestClient

import mmsearch
from mmsearch.encoders import runtime_of
from mmsearch.server.app import create_app
from mmsearch.server.indexes import ServedIndexes


def connected_to_postgres() -> socket.socket:
    from psycopg.conninfo import conninfo_to_dict

    given: Any = conninfo_to_dict(started().get_uri())
    made = socket.socket(socket.AF_UNIX)
    made.connect(f"{given['host']}/.s.PGSQL.{given.get('port', 5432)}")
    return made


@pytest.mark.parametrize("engine", ["postgresql", "milvus"])
def test_mmsearch_is_not_ready_while_the_server_of_an_index_is_down(
    engine: str,
    toy: ToyEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
):
    monkeypatch.setenv("MMSEARCH_CACHE", str(tmp_path / "cache"))
    paint(tmp_path / "photos" / "red.png", "red")
    with ExitStack() as stack:
        if engine == "milvus":
            port = request.getfixturevalue("milvus").port
            forwarder = Forwarder(lambda: socket.create_connection(("127.0.0.1", port)))
            address = f"milvus://127.0.0.1:{forwarder.port}/ready{os.getpid()}"
        else:
            _, name = stack.enter_context(schema())
            forwarder = Forwarder(connected_to_postgres)
            address = f"postgresql://postgres@127.0.0.1:{forwarder.port}/postgres?schema={name}"
        stack.callback(forwarder.close)
        mmsearch.index(tmp_path / "photos", address, model="toy").close()
        app = create_app(ServedIndexes({"far": address}, runtime_of()))
        client = stack.enter_context(TestClient(app, base_url="http://127.0.0.1:7700"))
        while client.get("/readyz").status_code != 200:
            time.sleep(0.01)
        forwarder.close()
        began = time.monotonic()
        detail = problem(client.get("/readyz"), 503)
        assert time.monotonic() - began < 7
        assert detail.startswith("the server")
        assert str(forwarder.port) not in detail
        forwarder.open()
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() - began < 20
            time.sleep(0.05)
        found = client.get("/api/v1/search", params={"q": "red", "k": 1}).json()
        assert found["hits"]
