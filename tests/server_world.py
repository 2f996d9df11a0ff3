"""A folder that is indexed and served, for the tests of the server's files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from mmsearch.collection import Collection
from mmsearch.encoders import runtime_of
from mmsearch.server.app import create_app
from mmsearch.server.indexes import ServedIndexes
from mmsearch.server.limits import Limits


def indexed(index: Path, folder: Path, **options: Any) -> dict[str, int]:
    """Index a folder with the toys; the ids by name."""
    with Collection(index, model=["toy", "ear"], create=True) as collection:
        collection.add(folder, **options)
        return {Path(item.path).name: item.id for item in collection.items}


@contextmanager
def served(index: Path, **limits: Any) -> Iterator[TestClient]:
    """A client of a server of an index, whose models are loaded."""
    app = create_app(ServedIndexes({"default": index}, runtime_of()), limits=Limits(**limits))
    with TestClient(app, base_url="http://127.0.0.1:7700") as client:
        while client.get("/readyz").status_code != 200:
            time.sleep(0.01)
        yield client


def problem(response: Any, status: int) -> str:
    """The detail of a problem document."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return str(response.json()["detail"])
