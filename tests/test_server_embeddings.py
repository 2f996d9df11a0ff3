"""POST /v1/embeddings: what clients of OpenAI send is answered in their form, with our vectors."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")

from conftest import paint
from server_world import indexed, problem, served
from starlette.testclient import TestClient

from mmsearch.collection import Collection
from mmsearch.media.image import load_image

URL = "/v1/embeddings"


@pytest.fixture
def index(toy, photos: Path, tmp_path: Path) -> Path:
    indexed(tmp_path / "idx", photos)
    return tmp_path / "idx"


@pytest.fixture
def client(index: Path) -> Iterator[TestClient]:
    with served(index, batch=3, query_characters=100, upload_bytes=5000) as client:
        yield client


def data_url(file: Path, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def vectors(answer: dict[str, Any]) -> np.ndarray:
    return np.array([one["embedding"] for one in answer["data"]], np.float32)


def test_texts_get_the_vectors_of_the_encoder(client, index):
    texts = ["a red wall", "blue", "un été vert \U0001f33f"]
    answer = client.post(URL, json={"input": texts, "model": "toy"}).json()
    with Collection(index) as library:
        np.testing.assert_array_equal(vectors(answer), library.encoder.encode("text", texts))
    assert [one["index"] for one in answer["data"]] == [0, 1, 2]
    assert {one["object"] for one in answer["data"]} == {"embedding"}
    assert answer["object"] == "list"
    assert answer["model"] == "toy"
    assert answer["usage"] == {"prompt_tokens": 0, "total_tokens": 0}


def test_half_a_character_is_encoded_as_an_unknown_one(client):
    headers = {"Content-Type": "application/json"}
    sent = json.dumps({"input": ["red \ud800", "red \ufffd\ufffd\ufffd"]})
    half, unknown = vectors(client.post(URL, content=sent, headers=headers).json())
    np.testing.assert_array_equal(half, unknown)


def test_one_text_is_a_list_of_one(client):
    one = client.post(URL, json={"input": "red"}).json()
    assert one == client.post(URL, json={"input": ["red"]}).json()
    assert len(one["data"]) == 1


def test_in_base64_vectors_are_float32_little_endian(client):
    # what the client of OpenAI sends unless told otherwise
    sent = {"input": ["red", "blue"], "model": "toy", "encoding_format": "base64"}
    coded = client.post(URL, json=sent).json()["data"]
    found = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in coded]
    plain = vectors(client.post(URL, json=sent | {"encoding_format": "float"}).json())
    np.testing.assert_array_equal(np.stack(found), plain)


def test_pictures_come_as_data_urls_among_texts(client, index, tmp_path):
    file = paint(tmp_path / "green.png", "green")
    answer = client.post(URL, json={"input": ["red", data_url(file)]}).json()
    with Collection(index) as library:
        encoder = library.encoder
        picture = encoder.encode("image", [load_image(file)[0]])
        np.testing.assert_array_equal(vectors(answer)[1:], picture)
        np.testing.assert_array_equal(vectors(answer)[:1], encoder.encode("text", ["red"]))


def test_a_text_that_only_begins_like_a_data_url_is_a_text(client):
    assert len(client.post(URL, json={"input": "data: what is it?"}).json()["data"]) == 1


def test_any_model_of_the_index_can_be_named_and_no_other(client):
    assert len(client.post(URL, json={"input": "low", "model": "ear"}).json()["data"][0]) == 3
    detail = problem(client.post(URL, json={"input": "low", "model": "gpt-4"}), 404)
    assert detail == "there is no model 'gpt-4' here; models: 'toy', 'ear'"


def test_vectors_are_not_cut_to_fewer_dimensions(client):
    assert client.post(URL, json={"input": "low", "dimensions": 8}).status_code == 200
    assert "have 8" in problem(client.post(URL, json={"input": "low", "dimensions": 4}), 422)


def test_who_asks_is_taken_but_makes_no_difference(client):
    sent = {"input": "red"}
    assert client.post(URL, json=sent | {"user": "me"}).json() == client.post(URL, json=sent).json()


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 422, "input"),
        ({"input": []}, 422, "from 1 to 3"),
        ({"input": ["a"] * 4}, 422, "from 1 to 3"),
        ({"input": ""}, 422, "input.0 is empty"),
        ({"input": ["red", " "]}, 422, "input.1 is empty"),
        ({"input": "x" * 101}, 422, "more than 100 characters"),
        ({"input": [1, 2, 3]}, 422, "string"),
        ({"input": [[1, 2], [3]]}, 422, "string"),
        ({"input": "red", "encoding_format": "int8"}, 422, "base64"),
        ({"input": "red", "imput": "blue"}, 422, "did you mean 'input'?"),
        ({"input": "data:image/png,abc"}, 422, "data URL in base64"),
        ({"input": "data:image/png;base64,abc"}, 422, "input.0 is not base64"),
        ({"input": "data:image/png;base64,é"}, 422, "input.0 is not base64"),
        ({"input": "data:image/png;base64,AAAA"}, 422, "not an image"),
        ({"input": "data:image/png;base64," + "AAAA" * 2000}, 413, "0.005 MB"),
        ({"input": "low", "model": "x" * 10_000}, 404, "no model"),
        ({"input": data_url, "model": "ear"}, 422, "ear"),
    ],
)
def test_what_cannot_be_encoded_is_a_problem(client, photos, body, status, said):
    if body.get("input") is data_url:
        body = body | {"input": data_url(photos / "red.png")}
    assert said in problem(client.post(URL, json=body), status)


def test_an_index_that_is_not_there_yet_has_nothing_to_encode_with(toy, tmp_path):
    with served(tmp_path / "none") as client:
        problem(client.post(URL, json={"input": "red"}), 404)
