"""What the files of the demo are answered by on a server is what a folder's index answers.

Real servers of this machine: PostgreSQL with pgvector, and milvus-lite.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import mmsearch
from mmsearch import Collection, Query

ROOT = Path(__file__).parent.parent
PHOTOS = {"chelsea.png", "coffee.png", "coins.png", "grass.png", "moon.png", "page.png"}
"""Those of the demo that are indexed, so that it takes a second."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not all(map(importlib.util.find_spec, ("skimage", "sklearn"))):
        pytest.skip("the photos of the demo come with scikit-image and scikit-learn")
    folder = tmp_path_factory.mktemp("same") / "demo"
    subprocess.run([sys.executable, ROOT / "demo" / "gather.py", folder], check=True)
    for photo in (folder / "photos").iterdir():
        if photo.name not in PHOTOS:
            photo.unlink()
    (folder / "photos" / "cat.png").write_bytes((folder / "photos" / "chelsea.png").read_bytes())
    (folder / "photos" / "broken.png").write_bytes(b"no picture")
    (folder / "facts.csv").write_text("file,stars,place\nchelsea.png,5,home\ncoins.png,2,Athens\n")
    return folder


def filled(index: Any, files: Path) -> Collection:
    """An index of the files, tagged."""
    made = mmsearch.index(
        [files / "photos", files / "texts"],
        index,
        model="mini",
        captions=files / "captions.tsv",
        metadata=files / "facts.csv",
    )
    made.tag(["a cat", "old money", "the moon"], min_confidence=0.3)
    made.add_tag("kept", [2, 5])
    return made


@pytest.fixture(scope="module")
def local(files: Path) -> Iterator[Collection]:
    with filled(files.parent / "idx", files) as made:
        yield made


@pytest.fixture(scope="module", params=["postgresql", "milvus"])
def remote(request: pytest.FixtureRequest, files: Path) -> Iterator[Collection]:
    if request.param == "milvus":
        address = request.getfixturevalue("milvus").address("same")
        with filled(address, files) as made:
            yield made
        return
    from postgres_server import schema

    with schema() as (url, name):
        joint = "&" if "?" in url else "?"
        with filled(f"{url}{joint}schema={name}", files) as made:
            yield made


CAT = "photos/chelsea.png"
QUERIES: list[tuple[Any, dict[str, Any]]] = [
    *((words, {}) for words in ("a cat", "ancient money", "a telescope", "a cup of coffee", "…")),
    *(
        (words, {"lexical": True})
        for words in ("the moon", '"half full"', "chelsea", "nothing-like")
    ),
    *(
        (words, {"lexical": False})
        for words in ("a rocket", "the haze over a lake", "a page of a book")
    ),
    *(("old coins", {"target": target}) for target in ("image", "text", ["image", "text"])),
    *(("a cat", {"k": k, "offset": offset}) for k, offset in ((1, 0), (3, 2), (50, 0))),
    *(("grass", {"spans": spans}) for spans in (True, False)),
    *(("a cat", {"fusion": fusion}) for fusion in ("rrf", "wsum", "combmnz")),
    *(("a cat", {"hubness": on}) for on in (True, False)),
    ("a cat", {"rerank": "fusion"}),
    ("a cat", {"diversity": 0.5}),
    ("a cat", {"duplicates": "collapse"}),
    ("a cat", {"min_confidence": 0.9}),
    *(
        ("something old", {"where": where})
        for where in (
            {"modality": "image"},
            {"modality": "text"},
            {"width": {"$gt": 400}},
            {"width": {"$lt": 1}},
            {"name": {"$contains": "c"}},
            {"name": {"$glob": "*.txt"}},
            {"name": "coins.png"},
            {"stars": {"$gte": 3}},
            {"place": {"$in": ["Athens", "Rome"]}},
            {"place": "nowhere"},
            {"tag": "kept"},
            {"camera": {"$contains": "pentax"}},
            {"taken": "2009"},
            {"size": {"$gt": 1000}, "height": {"$lte": 400}},
            {"$or": [{"place": "Athens"}, {"modality": "text"}]},
            {"$not": {"tag": "kept"}},
        )
    ),
    *((Query.image(CAT), {"target": target}) for target in ("image", "text")),
    (Query.image(CAT) + Query.text("the moon"), {}),
    (Query.text("a cat") - Query.text("the moon"), {}),
    (Query.item(3), {}),
    (Query.item(3) + Query.text("grass"), {"where": {"modality": "image"}}),
    ("a cat", {"like": [2], "unlike": [3]}),
]


def near(value: Any) -> Any:
    """A value in which floats equal those that are near.

    Cosines differ by a millionth at most; divided by their deviation, by some ten times that.
    """
    if isinstance(value, float):
        return pytest.approx(value, abs=2e-5)
    if isinstance(value, dict):
        return {key: near(one) for key, one in value.items()}
    return [near(one) for one in value] if isinstance(value, (list, tuple)) else value


def plain(hits: Any) -> list[dict[str, Any]]:
    return [hit.as_dict() for hit in hits]


def test_there_are_fifty_queries():
    assert len(QUERIES) >= 50


def test_every_query_has_the_same_hits(local: Collection, remote: Collection, files, monkeypatch):
    monkeypatch.chdir(files)
    for query, settings in QUERIES:
        wanted, found = local.search(query, **settings), remote.search(query, **settings)
        assert plain(found) == near(plain(wanted)), (query, settings)


def test_what_is_stored_is_the_same(local: Collection, remote: Collection, files: Path):
    assert list(remote.listed()) == list(local.listed())
    assert [asdict(item) for item in remote.items] == [asdict(item) for item in local.items]
    assert [one.path for one in remote.failures] == [os.fspath(files / "photos" / "broken.png")]
    assert asdict(remote.facets("a cat")) == asdict(local.facets("a cat"))
    assert asdict(remote.facets()) == asdict(local.facets())
    differs = {"index", "indexes", "bytes"}
    known, status = local.status(), remote.status()
    assert {k: v for k, v in status.items() if k not in differs} == {
        k: v for k, v in known.items() if k not in differs
    }


def test_examples_duplicates_and_descriptions_are_the_same(
    local: Collection, remote: Collection, files: Path
):
    cat = files / CAT
    assert plain(remote.similar(cat)) == near(plain(local.similar(cat)))
    for same in (True, False):
        groups = plain(local.duplicates(same=same))
        assert groups
        assert plain(remote.duplicates(same=same)) == near(groups)
    assert json.loads(json.dumps(asdict(remote.describe(cat)))) == near(asdict(local.describe(cat)))
