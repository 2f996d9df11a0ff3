"""Searching over HTTP: the answers of the Python API, and a problem for what makes no sense."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from conftest import Ear, Preferred, ToyEncoder, paint, tone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server_world import indexed, problem, served
from starlette.testclient import TestClient
from test_image import tagged
from test_settings import CHANGES, with_one_line_more
from typer.testing import CliRunner

import mmsearch
from mmsearch import Query
from mmsearch.cli.app import app as commands
from mmsearch.collection import Collection
from mmsearch.encoders.family import SingleModel
from mmsearch.encoders.registry import REGISTRY
from mmsearch.search.settings import declared

SEARCH, FACETS = "/api/v1/search", "/api/v1/facets"


class World:
    """An album that is served, and the same album as a collection."""

    def __init__(self, folder: Path, client: TestClient, library: Collection) -> None:
        self.folder = folder
        self.client = client
        self.library = library
        self.ids = {Path(item.path).name: item.id for item in library.items}

    def expected(self, query: Any, *, facets: bool = False, **settings: Any) -> dict[str, Any]:
        """What the Python API answers, as plain values."""
        page = self.library.search_page(query, **settings)
        shown = {name: value for name, value in settings.items() if name not in ("k", "offset")}
        found = {
            "hits": [asdict(hit) for hit in page.hits],
            "total": page.total,
            "weak_from": page.weak_from,
            "facets": asdict(self.library.facets(query, **shown)) if facets else None,
        }
        return json.loads(json.dumps(found))

    def post(self, body: Any, url: str = SEARCH) -> Any:
        """The answer to a body, which may hold what httpx would not send."""
        sent = body if isinstance(body, (str, bytes)) else json.dumps(body)
        return self.client.post(url, content=sent, headers={"Content-Type": "application/json"})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Photos with and without captions, one of them twice, texts and sounds; two models."""
    folder = tmp_path_factory.mktemp("served") / "album"
    exif = tagged(main={0x0110: "Pentax K1000"}, exif={0x9003: "1999:12:31 12:00:00"})
    paint(folder / "old.jpg", "red", (20, 20), exif=exif)
    for name, colour in {"red": "red", "again": "red", "green": "green"}.items():
        paint(folder / f"{name}.png", colour)
    paint(folder / "deep" / "blue.png", "blue")
    (folder / "red.txt").write_text("a red wall")
    (folder / "sea.txt").write_text("blue sea\n\n" + "and green waves " * 60)
    tone(folder / "low.wav", "low")
    tone(folder / "both.wav", "low", "high")
    os.utime(folder / "green.png", (1e9, 1e9))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRY, "toy", Preferred("toy", ToyEncoder))
        patch.setitem(REGISTRY, "ear", SingleModel("ear", Ear))
        patch.setenv("MMSEARCH_HOME", str(folder.parent / "home"))
        patch.setenv("MMSEARCH_CACHE", str(folder.parent / "cache"))
        index = folder.parent / "idx"
        indexed(index, folder)
        limits = {"query_characters": 300, "k": 500, "offset": 1000, "batch": 8}
        with served(index, **limits) as client, mmsearch.open(index) as library:
            library.tag(["red"], target="image", min_confidence=0)
            yield World(folder, client, library)


def data_url(file: Path) -> str:
    return f"data:application/octet-stream;base64,{base64.b64encode(file.read_bytes()).decode()}"


# ---------------------------------------------------------------------- the same answers


@pytest.mark.parametrize(
    "words", ["red", "a blue sea", '"green waves"', "low", "\x00 é 犬 \U0001f415"]
)
def test_words_get_the_answer_of_the_python_api(world, words):
    answer = world.client.get(SEARCH, params={"q": words, "facets": "true"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == world.expected(words, facets=True)
    posted = world.post({"parts": [{"text": words}], "facets": True})
    assert posted.json() == answer.json()


def test_hits_are_those_of_the_command(world):
    words = ["query", "red", "--json", "-k", "3", "-i", str(world.library.folder)]
    shown = json.loads(CliRunner().invoke(commands, words).stdout)
    assert world.client.get(SEARCH, params={"q": "red", "k": 3}).json()["hits"] == shown
    assert len(shown) == 3


@pytest.mark.parametrize("nothing", [{}, {"q": ""}, {"q": "  "}])
def test_without_words_every_item_is_listed_the_newest_first(world, nothing):
    answer = world.client.get(SEARCH, params={**nothing, "k": 500, "facets": "true"}).json()
    assert answer == world.expected(None, k=500, facets=True)
    assert answer["total"] == len(answer["hits"]) == len(world.library)
    assert world.post({"k": 500, "facets": True}).json() == answer
    assert world.post({"parts": [], "k": 500, "facets": True}).json() == answer


def mixed(world: World) -> list[tuple[list[dict[str, Any]], Query]]:
    """Parts, and the same query in Python."""
    red, low = world.folder / "red.png", world.folder / "low.wav"
    uploads = {
        path: world.client.post("/api/v1/uploads", content=path.read_bytes()).json()["id"]
        for path in (red, low)
    }
    green, text = world.ids["green.png"], Query.text
    return [
        ([{"text": "red", "weight": 2}, {"text": "blue"}], text("red", 2) + text("blue")),
        ([{"text": "red"}, {"text": "blue", "weight": -0.5}], text("red") - text("blue", 0.5)),
        ([{"image": data_url(red)}], Query.image(red)),
        ([{"audio": data_url(low)}], Query.audio(low)),
        (
            [{"upload": uploads[red], "weight": 0.5}, {"text": "sea"}],
            Query.image(red, 0.5) + text("sea"),
        ),
        ([{"upload": uploads[low]}], Query.audio(low)),
        ([{"item": green}], Query.item(green)),
        ([{"text": "sea"}, {"item": green, "weight": -1}], text("sea") - Query.item(green)),
        (
            [{"image": data_url(red)}, {"item": green, "weight": 2}, {"text": "a"}],
            Query.image(red) + Query.item(green, 2) + text("a"),
        ),
    ]


@pytest.mark.parametrize("combine", ["early", "late"])
def test_parts_of_any_kind_get_the_answer_of_the_python_api(world, combine):
    for parts, query in mixed(world):
        answer = world.post({"parts": parts, "combine": combine, "facets": True}).json()
        assert answer == world.expected(query, combine=combine, facets=True)
        assert answer["hits"]


WRITTEN = {
    True: "on",
    False: "off",
}


def written(value: Any) -> Any:
    """A setting as its flag writes it, for a query parameter."""
    if isinstance(value, bool):
        return WRITTEN[value]
    if isinstance(value, dict):
        texts = all(isinstance(one, float) for one in value.values())
        return [f"{k}={v}" for k, v in value.items()] if texts else json.dumps(value)
    return value


@pytest.mark.parametrize("name", declared())
def test_each_setting_is_that_of_the_python_api(world, name):
    value, _ = CHANGES[name]
    if name in ("like", "unlike"):
        value = [world.ids["green.png"], world.ids["sea.txt"]]
    parts = {"text": "red"}, {"text": "green"}
    given = {"target": ["image", "text"], "rerank": "diverse" if name == "diversity" else "none"}
    given[name] = value
    query = Query.text("red") + Query.text("green")
    assert world.post({"parts": parts, **given}).json() == world.expected(query, **given)
    as_text = {key: written(one) for key, one in given.items()}
    if isinstance(given["target"], list):
        as_text["target"] = "+".join(given["target"])
    answer = world.client.get(SEARCH, params={"q": "red green", **as_text})
    assert answer.json() == world.expected("red green", **given)
    if name not in ("k", "offset"):
        counts = world.client.get(FACETS, params={"q": "red green", **as_text}).json()
        assert counts == json.loads(json.dumps(asdict(world.library.facets("red green", **given))))
        assert world.post({"parts": parts, **given}, FACETS).json() == json.loads(
            json.dumps(asdict(world.library.facets(query, **given)))
        )


@pytest.mark.parametrize("name", ["red.png", "sea.txt", "both.wav"])
def test_what_is_like_an_item_leaves_it_out(world, name):
    item_id = world.ids[name]
    answer = world.client.get(f"/api/v1/items/{item_id}/similar", params={"k": 3}).json()
    similar = world.library.similar(world.folder / name, k=3)
    assert answer["hits"] == json.loads(json.dumps([asdict(hit) for hit in similar]))
    page = world.library.similar_page(world.folder / name, k=3)
    assert (answer["total"], answer["weak_from"]) == (page.total, page.weak_from)
    assert item_id not in [hit["id"] for hit in answer["hits"]]
    assert set(answer) == {"hits", "total", "weak_from", "facets"}


def test_a_page_goes_on_where_the_last_one_ended(world):
    whole = world.client.get(SEARCH, params={"q": "red", "k": 6}).json()["hits"]
    pages = [
        world.client.get(SEARCH, params={"q": "red", "k": 2, "offset": offset}).json()["hits"]
        for offset in (0, 2, 4)
    ]
    assert [hit for page in pages for hit in page] == whole


def test_a_name_that_is_no_utf_8_is_found_and_told(toy, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    paint(folder / "red.png", "red")
    indexed(tmp_path / "idx", folder)
    with served(tmp_path / "idx") as client:
        hit = client.get(SEARCH, params={"q": "red"}).json()["hits"][0]
        assert hit["path"] == str(folder / "red.png")
        where = json.dumps({"folder": str(folder)})
        assert client.get(SEARCH, params={"q": "red", "where": where}).json()["hits"] == [hit]


# ---------------------------------------------------------------------- the declaration of settings


def test_the_document_describes_each_setting(world):
    document = world.client.get("/api/v1/openapi.json").json()
    listed = document["paths"]["/api/v1/search"]["get"]["parameters"]
    parameters = {one["name"]: one for one in listed}
    fields = document["components"]["schemas"]["SearchBody"]["properties"]
    for name, one in declared().items():
        for described in (parameters[name], fields[name]):
            assert described["description"].startswith(one.help)
            assert one.default_text in described["description"]
    assert parameters["k"]["schema"]["type"] == "integer"
    assert parameters["combine"]["schema"]["enum"] == ["early", "late"]
    assert parameters["like"]["schema"]["items"] == {"type": "integer"}
    assert fields["k"]["type"] == "integer"
    assert fields["combine"]["enum"] == ["early", "late"]


TRY_IT = """
import json, sys, time
import mmsearch
from pathlib import Path
from starlette.testclient import TestClient
from mmsearch.encoders import runtime_of
from mmsearch.server.app import create_app
from mmsearch.server.indexes import ServedIndexes

notes, index = map(Path, sys.argv[1:])
mmsearch.index(notes, into=index).close()
app = create_app(ServedIndexes({"default": index}, runtime_of()))
found = {}
with TestClient(app, base_url="http://127.0.0.1:7700") as client:
    while client.get("/readyz").status_code != 200:
        time.sleep(0.01)
    url = "/api/v1/search"
    answers = {
        "get": client.get(url, params={"q": "a dog", "patience": "0.5"}),
        "post": client.post(url, json={"parts": [{"text": "a dog"}], "patience": 0.5}),
        "get refused": client.get(url, params={"q": "a dog", "patience": "2"}),
        "get no number": client.get(url, params={"q": "a dog", "patience": "soon"}),
        "post refused": client.post(url, json={"patience": 2}),
        "facets": client.get("/api/v1/facets", params={"patience": "2"}),
        "similar": client.get("/api/v1/items/1/similar", params={"patience": "2"}),
    }
    for name, answer in answers.items():
        found[name] = [answer.status_code, answer.json().get("detail", "")]
    document = client.get("/api/v1/openapi.json").json()
    parameters = document["paths"][url]["get"]["parameters"]
    found["described"] = [one for one in parameters if one["name"] == "patience"]
print(json.dumps(found))
"""


def test_a_setting_that_is_declared_is_a_parameter_and_a_field(tmp_path):
    with_one_line_more(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "note.txt").write_text("a dog on a beach")
    done = subprocess.run(
        [sys.executable, "-c", TRY_IT, str(tmp_path / "notes"), str(tmp_path / "idx")],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "MMSEARCH_HOME": str(tmp_path / "home")},
    )
    found = json.loads(done.stdout)
    (described,) = found.pop("described")
    assert described["description"] == "How long to look. Default: 0.25."
    assert described["schema"]["type"] == "number"
    refused = "patience is a number from 0 to 1, not 2"
    assert found == {
        "get": [200, ""],
        "post": [200, ""],
        "get refused": [422, f"{refused}.0"],
        "get no number": [422, "patience takes 0…1, not 'soon'"],
        "post refused": [422, refused],
        "facets": [422, f"{refused}.0"],
        "similar": [422, f"{refused}.0"],
    }


# ---------------------------------------------------------------------- what makes no sense

PICTURE = "data:image/png;base64,"

REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"q": "red", "tagret": "image"}, 422, "no parameter 'tagret'; did you mean 'target'?"),
    ({"q": "red", "nonsense": "1"}, 422, "no parameter 'nonsense'; there are: q, index, facets, k"),
    ({"q": ["red", "blue"]}, 422, "'q' is given more than once"),
    ({"q": "red", "k": ["1", "2"]}, 422, "'k' is given more than once"),
    ({"q": "x" * 301}, 422, "at most 300 characters"),
    ({"q": "red", "k": "many"}, 422, "k takes a whole number, not 'many'"),
    ({"q": "red", "k": "9" * 5000}, 422, "k takes a whole number"),
    ({"q": "red", "k": "0"}, 422, "k is a whole number, at least 1, not 0"),
    ({"q": "red", "k": "501"}, 422, "k is at most 500 here"),
    ({"q": "red", "k": str(10**30)}, 422, "k is at most 500 here"),
    ({"q": "red", "offset": "1001"}, 422, "offset is at most 1000 here"),
    ({"q": "red", "offset": "-1"}, 422, "offset is a whole number"),
    ({"q": "red", "min_confidence": "nan"}, 422, "from 0 to 1"),
    ({"q": "red", "min_confidence": "1e400"}, 422, "from 0 to 1"),
    ({"q": "red", "spans": "true"}, 422, "spans takes on|off, not 'true'"),
    ({"q": "red", "combine": "both"}, 422, "combine is one of early, late"),
    ({"q": "red", "target": "smell"}, 422, "'smell' cannot be searched"),
    ({"q": "red", "weights": "text"}, 422, "weights takes"),
    ({"q": "red", "weights": "smell:1"}, 422, "no ranking 'smell'"),
    ({"q": "red", "like": "999999"}, 422, "no item of the index has the id 999999"),
    ({"q": "red", "like": str(2**70)}, 422, "no item of the index has the id"),
    ({"q": "red", "where": "camera"}, 422, "where takes JSON"),
    ({"q": "red", "where": "[" * 20_000}, 422, "where takes JSON"),
    ({"q": "red", "where": '{"size": NaN}'}, 422, "where takes JSON"),
    ({"q": "red", "where": '{"size": 1, "size": 2}'}, 422, "'size' twice"),
    ({"q": "red", "where": "[]"}, 422, "a filter is a mapping"),
    ({"q": "red", "where": '{"colour": "red"}'}, 422, "colour"),
    ({"q": "red", "where": '{"size": 1e400}'}, 422, "size"),
    ({"q": "red", "where": '{"size": {"$gt": 1' + "0" * 400 + "}}"}, 422, "size"),
    ({"q": "red", "facets": "perhaps"}, 422, "facets"),
    ({"q": "red", "index": "none"}, 404, "there are: 'default'"),
    ({"q": "red", "index": "\0"}, 404, "there are: 'default'"),
]


@pytest.mark.parametrize(("params", "status", "said"), REFUSED)
def test_a_parameter_that_makes_no_sense_is_a_problem(world, params, status, said):
    assert said in problem(world.client.get(SEARCH, params=params), status)


def nested(levels: int) -> str:
    return '{"where": ' + '{"$not": ' * levels + "{}" + "}" * levels + "}"


BODIES: list[tuple[Any, int, str]] = [
    ("", 422, "body"),
    ("{", 400, "not JSON"),
    (b'{"k": "\xff"}', 400, "not JSON"),
    ("null", 422, "body"),
    ("[]", 422, "body"),
    ('"red"', 422, "body"),
    ('{"k": NaN}', 400, "NaN"),
    ('{"k": -Infinity}', 400, "-Infinity"),
    ('{"k": 1' + "0" * 5000 + "}", 400, "not JSON"),
    ('{"k": 1, "k": 2}', 400, "the name 'k' twice"),
    ("[" * 100_000, 400, "nested too deeply"),
    ('{"where": ' + "[" * 900 + "]" * 900 + "}", 422, "a filter is a mapping"),
    (nested(21), 422, "nested 20 deep"),
    ({"tagret": "image"}, 422, "did you mean 'target'?"),
    ({"q": "red"}, 422, "no field 'q'"),
    ({"parts": "red"}, 422, "parts"),
    ({"parts": ["red"]}, 422, "parts.0"),
    ({"parts": [{}]}, 422, "parts.0: a part holds one of text, upload, item, image, audio"),
    ({"parts": [{"text": "a", "item": 1}]}, 422, "parts.0: a part holds one of"),
    ({"parts": [{"text": ""}]}, 422, "the query is empty"),
    ({"parts": [{"text": " \n"}]}, 422, "the query is empty"),
    ({"parts": [{"text": 5}]}, 422, "parts.0.text"),
    ({"parts": [{"txet": "a"}]}, 422, "did you mean 'text'?"),
    ({"parts": [{"text": "a"}] * 9}, 422, "at most 8 parts"),
    ({"parts": [{"text": "a" * 151}, {"text": "b" * 150}]}, 422, "at most 300 characters"),
    ({"parts": [{"text": "a", "weight": "1"}]}, 422, "parts.0.weight"),
    ({"parts": [{"text": "a", "weight": True}]}, 422, "parts.0.weight"),
    ('{"parts": [{"text": "a", "weight": 1e400}]}', 422, "a weight is a number"),
    ({"parts": [{"text": "a", "weight": 10**400}]}, 422, "weight"),
    ({"parts": [{"text": "a", "weight": -1}]}, 422, "all parts of the query are negative"),
    ({"parts": [{"text": "a", "weight": 0}]}, 422, "the query is empty"),
    ({"parts": [{"item": 10**30}]}, 422, "no item of the index has the id"),
    ({"parts": [{"item": -1}]}, 422, "no item of the index has the id -1"),
    ({"parts": [{"item": 999}]}, 422, "no item of the index has the id 999"),
    ({"parts": [{"item": "1"}]}, 422, "parts.0.item"),
    ({"parts": [{"upload": "../../etc/passwd"}]}, 404, "send it again"),
    ({"parts": [{"upload": "0" * 32}]}, 404, "send it again"),
    ({"parts": [{"image": "red.png"}]}, 422, "parts.0.image is a data URL in base64"),
    ({"parts": [{"image": "file:///etc/passwd"}]}, 422, "parts.0.image is a data URL in base64"),
    ({"parts": [{"image": PICTURE + "=abc"}]}, 422, "parts.0.image is not base64"),
    ({"parts": [{"image": PICTURE + "\ud800"}]}, 422, "parts.0.image is not base64"),
    ({"parts": [{"image": PICTURE}]}, 422, "the picture cannot be searched with: 0 bytes"),
    ({"parts": [{"image": PICTURE + "AAAA"}]}, 422, "the picture cannot be searched with"),
    ({"parts": [{"audio": PICTURE + "AAAA"}]}, 422, "the sound cannot be searched with"),
    ({"k": "5"}, 422, "k is a whole number"),
    ({"k": 5.5}, 422, "k is a whole number"),
    ({"k": None}, 422, "k is a whole number"),
    ({"k": 501}, 422, "k is at most 500"),
    ({"offset": 10**40}, 422, "offset is at most 1000"),
    ({"spans": "on"}, 422, "spans is True or False"),
    ({"parts": [{"text": "a"}], "target": 5}, 422, "5 cannot be searched"),
    ({"parts": [{"text": "a"}], "target": []}, 422, "no modality to search is named"),
    ({"weights": {"text": "much"}}, 422, "a weight is a number"),
    ({"weights": {"text": 1e308}}, 422, "a weight is at most 1000"),
    ({"weights": [1]}, 422, "weights are numbers by modality"),
    ({"like": "12"}, 422, "like is a list of ids"),
    ({"like": [1.5]}, 422, "an id is a whole number"),
    ({"where": {"colour": 1}}, 422, "colour"),
    ({"where": {"path": "a\0b"}}, 422, "holds a NUL"),
    ({"where": {"path": "\ud800"}}, 422, "half a character"),
    ({"where": {"camera": "\udcff"}}, 422, "half a character"),
    ({"facets": "yes"}, 422, "facets"),
    ({"index": 5}, 422, "index"),
    ({"index": "none"}, 404, "there are: 'default'"),
]


@pytest.mark.parametrize(("body", "status", "said"), BODIES, ids=range(len(BODIES)))
def test_a_body_that_makes_no_sense_is_a_problem(world, body, status, said):
    assert said in problem(world.post(body), status)


@pytest.mark.parametrize("fusion", ["wsum", "combmnz", "rrf"])
@pytest.mark.parametrize("combine", ["early", "late"])
def test_the_largest_weights_have_finite_scores(world, fusion, combine):
    parts = [
        {"text": "red", "weight": 1.7e308},
        {"text": "blue", "weight": -1.7e308},
        {"item": world.ids["sea.txt"], "weight": 1.7e308},
    ]
    weights = dict.fromkeys(("image", "text", "words"), 1000)
    given = {"parts": parts, "weights": weights, "fusion": fusion, "combine": combine}
    for spans in (False, True):
        assert world.post({**given, "spans": spans}).json()["hits"]


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_that_is_not_declared_as_json_is_refused(world, kind):
    headers = {"Content-Type": kind} if kind else {}
    answer = world.client.post(SEARCH, content='{"k": 1}', headers=headers)
    assert "application/json" in problem(answer, 415)


def test_a_parameter_in_the_address_of_a_body_is_refused(world):
    answer = world.client.post(f"{SEARCH}?k=5", json={})
    assert "no parameter 'k'" in problem(answer, 422)


@pytest.mark.parametrize("item_id", ["0", "-1", "x", "1.5", str(2**63), "9" * 5000, "%00"])
def test_an_id_that_is_none_is_a_problem(world, item_id):
    problem(world.client.get(f"/api/v1/items/{item_id}/similar"), 422)


def test_there_is_nothing_like_an_item_that_is_gone(world):
    assert "999" in problem(world.client.get("/api/v1/items/999/similar"), 404)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from([*declared(), "parts", "index", "facets", "other"])
PARTS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("text", "upload", "item", "image", "audio", "weight", "other"), ANYTHING
    ),
)
QUERIES = st.dictionaries(NAMES, ANYTHING, max_size=4) | st.fixed_dictionaries(
    {"parts": st.lists(PARTS, max_size=3)}, optional=dict.fromkeys(declared(), ANYTHING)
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=QUERIES)
def test_whatever_json_a_body_holds_it_is_answered_or_a_problem(world, body):
    answer = world.post(body)
    if answer.status_code != 200:
        assert answer.status_code in (400, 404, 422)
        problem(answer, answer.status_code)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    params=st.dictionaries(
        st.sampled_from([*declared(), "q", "index", "facets"]),
        st.text(st.characters(codec="utf-8")) | ANYTHING.map(json.dumps),
        max_size=4,
    )
)
def test_whatever_an_address_holds_it_is_answered_or_a_problem(world, params):
    answer = world.client.get(SEARCH, params=params)
    if answer.status_code != 200:
        problem(answer, answer.status_code)
        assert answer.status_code in (404, 422)
