import hashlib
import io
import os
import zlib
from struct import pack

import numpy as np
import pytest
from PIL import Image
from raw_photos import dng

pytest.importorskip("fastapi")

from conftest import COLOURS, paint, tone
from server_world import indexed, problem, served

from mmsearch.server.uploads import Uploads

UPLOADS = "/api/v1/uploads"


@pytest.fixture
def cache(monkeypatch, tmp_path, toy):
    monkeypatch.setenv("MMSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def client(cache, tmp_path):
    paint(tmp_path / "files" / "photo.png", "red")
    indexed(tmp_path / "index", tmp_path / "files")
    with served(tmp_path / "index", upload_bytes=2**20, megapixels=2) as found:
        yield found


def photo(size=(600, 400), kind="JPEG", **options):
    out = io.BytesIO()
    Image.new("RGB", size, COLOURS["blue"]).save(out, kind, **options)
    return out.getvalue()


def noise(size):
    """A photo that is hard to compress."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def bomb(width, height):
    """A small PNG that says it is large."""

    def chunk(kind, body):
        return pack(">I", len(body)) + kind + body + pack(">I", zlib.crc32(kind + body))

    head = pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width // 8 + 1) * 64))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


# ---------------------------------------------------------------------- what is taken


def test_a_raw_photo_is_kept_and_searched_with(client):
    pytest.importorskip("rawpy")
    content = dng(Image.new("RGB", (300, 200)), photo((300, 200)))
    added = client.post(UPLOADS, content=content).json()
    assert added == {"id": added["id"], "modality": "image", "width": 300, "height": 200}
    found = client.post("/api/v1/search", json={"parts": [{"upload": added["id"]}]})
    assert found.status_code == 200
    assert client.get(f"{UPLOADS}/{added['id']}/thumbnail").status_code == 200
    assert "truncated" in problem(client.post(UPLOADS, content=content[:5000]), 422)


def test_a_photo_is_kept_by_its_content(client):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = photo(exif=exif)
    sent = client.post(UPLOADS, content=content, headers={"Content-Type": "text/html"})
    assert sent.status_code == 201
    told = sent.json()
    assert told == {"id": told["id"], "modality": "image", "width": 400, "height": 600}
    assert told["id"] == hashlib.blake2b(content, digest_size=16).hexdigest()
    assert client.post(UPLOADS, content=content).json() == told
    found = client.app.state.uploads.find(told["id"])
    assert (found.modality, found.path.read_bytes()) == ("image", content)


@pytest.mark.parametrize("ending", [".wav", ".flac", ".mp3", ".ogg"])
def test_a_sound_is_kept_with_its_length(client, tmp_path, ending):
    content = tone(tmp_path / f"tone{ending}", "low", seconds=2).read_bytes()
    told = client.post(UPLOADS, content=content).json()
    assert told["modality"] == "audio"
    assert told["seconds"] == pytest.approx(2, abs=0.1)
    assert client.app.state.uploads.find(told["id"]).modality == "audio"


def test_a_photo_that_was_sent_has_a_thumbnail(client):
    told = client.post(UPLOADS, content=photo()).json()
    found = client.get(f"{UPLOADS}/{told['id']}/thumbnail")
    assert found.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(found.content)).size == (256, 171)
    known = {"If-None-Match": found.headers["etag"]}
    assert client.get(f"{UPLOADS}/{told['id']}/thumbnail", headers=known).status_code == 304


def test_a_sound_that_was_sent_has_no_picture(client, tmp_path):
    content = tone(tmp_path / "tone.wav", "low", seconds=1).read_bytes()
    told = client.post(UPLOADS, content=content).json()
    assert "no picture" in problem(client.get(f"{UPLOADS}/{told['id']}/thumbnail"), 404)


def test_what_was_sent_can_be_searched_with(client, tmp_path):
    from mmsearch import Query

    told = client.post(UPLOADS, content=photo()).json()
    found = client.app.state.uploads.find(told["id"])
    collection = client.app.state.indexes.get()
    assert collection.search(Query.image(found.path))[0].path.endswith("photo.png")


# ---------------------------------------------------------------------- what is refused


def broken_flac():
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, np.zeros(8000, np.float32), 8000, format="FLAC")
    return out.getvalue()[:60]


REFUSED = {
    "nothing": (b"", 422),
    "a text": (b"only words", 415),
    "a page": (b"<!doctype html><script>alert(1)</script>", 415),
    "a drawing": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 415),
    "a program": (b"\x7fELF" + bytes(100), 415),
    "an archive": (b"PK\3\4" + bytes(100), 415),
    "a document": (b"%PDF-1.7\n" + bytes(100), 415),
    "a list of addresses": (b"#EXTM3U\nhttp://127.0.0.1/secret\n", 415),
    "PostScript": (b"%!PS-Adobe-3.0\n", 415),
    "zeros": (bytes(5000), 415),
    "a truncated photo": (photo()[:-600], 422),
    "a truncated PNG": (noise((50, 50))[:-2000], 422),
    "a damaged sound": (broken_flac(), 422),
    "the beginning of a photo": (b"\xff\xd8\xff", 422),
    "a photo of too many pixels": (photo((1500, 1500)), 413),
    "a bomb": (bomb(50_000, 50_000), 413),
    "too many bytes": (noise((700, 700)), 413),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_searched_with_is_refused_and_not_kept(client, cache, name):
    content, status = REFUSED[name]
    assert problem(client.post(UPLOADS, content=content), status)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_body_without_an_announced_end_is_cut_off(client):
    pieces = (bytes(2**16) for _ in range(10_000))
    assert problem(client.post(UPLOADS, content=pieces), 413)


@pytest.mark.parametrize(
    "written",
    [
        "0" * 32,
        "0" * 31,
        "A" * 32,
        "\N{FULLWIDTH DIGIT ONE}" * 32,
        "..%2f..%2f..%2findex%2fcatalog.db",
        "%2e%2e",
        "x" * 5000,
        "%00",
    ],
)
def test_what_was_never_sent_has_to_be_sent(client, written):
    found = client.get(f"{UPLOADS}/{written}/thumbnail")
    assert found.status_code == 404
    if "%2f" not in written and "%2e" not in written:
        assert "send it again" in problem(found, 404)


def test_thumbnails_that_are_kept_are_no_uploads(client, cache):
    told = client.post(UPLOADS, content=photo()).json()
    client.get(f"{UPLOADS}/{told['id']}/thumbnail")
    for kept in (cache / "server" / "thumbnails").glob("*/*"):
        assert problem(client.get(f"{UPLOADS}/{kept.name}/thumbnail"), 404)


# ---------------------------------------------------------------------- keeping


def test_an_upload_that_was_damaged_on_disk_has_to_be_sent_again(client):
    content = photo()
    told = client.post(UPLOADS, content=content).json()
    path = client.app.state.uploads.find(told["id"]).path
    path.write_bytes(content[:-1])
    assert problem(client.get(f"{UPLOADS}/{told['id']}/thumbnail"), 404)
    assert client.post(UPLOADS, content=content).json() == told
    assert client.app.state.uploads.find(told["id"]).path.read_bytes() == content


def test_uploads_outlive_the_server(client):
    told = client.post(UPLOADS, content=photo()).json()
    later = Uploads(most_bytes=2**20, max_megapixels=2)
    assert later.find(told["id"]).modality == "image"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_nobody_else_can_read_what_was_sent(client, cache):
    told = client.post(UPLOADS, content=photo()).json()
    path = client.app.state.uploads.find(told["id"]).path
    assert path.stat().st_mode & 0o077 == 0
    assert (cache / "server" / "uploads").stat().st_mode & 0o077 == 0


def test_what_cannot_be_kept_is_a_problem_that_says_so(client, cache):
    cache.write_text("a file where the folder should be")
    detail = problem(client.post(UPLOADS, content=photo()), 503)
    assert "MMSEARCH_CACHE" in detail
