import asyncio
import base64
import io
import os
import struct
import threading
import time
from contextlib import suppress
from importlib.util import find_spec
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms
from raw_photos import dng
from test_pdf import document, says

pytest.importorskip("fastapi")

from conftest import COLOURS, paint, tone
from server_world import indexed, problem, served

from mmsearch.collection import Collection
from mmsearch.errors import TooLarge, UnreadableFile
from mmsearch.media import thumbnails
from mmsearch.server.byte_ranges import wanted_range
from mmsearch.server.derived_files import DerivedFiles, FileCache
from mmsearch.server.limits import Workers
from mmsearch.server.problems import Problem
from mmsearch.server.waveforms import at_points, waveform
from mmsearch.storage import item_files
from mmsearch.storage.item_files import is_available, open_item

JPEG_XL = base64.b64decode("/woxQSQIBAEAkABLGIsVANSIQRvjHkAEGLpLsOJFpJ3Gfq664p6gzVyPkAHnLx4=")
"""Red, 300 by 200."""


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path, toy):
    monkeypatch.setenv("MMSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "files"
    made.mkdir()
    return made


@pytest.fixture
def one(tmp_path, folder):
    """Indexes a folder with one file in it, and serves it: (client, address of the item)."""
    stack = []

    def start(name, **options):
        ids = indexed(tmp_path / "index", folder, **options)
        context = served(tmp_path / "index")
        stack.append(context)
        return context.__enter__(), f"/api/v1/items/{ids[name]}"

    yield start
    for context in stack:
        context.__exit__(None, None, None)


def picture_of(response):
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/webp"
    picture = Image.open(io.BytesIO(response.content))
    assert picture.format == "WEBP"
    return picture


def is_near(picture, at, colour, by=14):
    return np.abs(np.subtract(picture.convert("RGB").getpixel(at), colour)).max() <= by


# ---------------------------------------------------------------------- thumbnails


def test_the_thumbnail_of_a_turned_photo_is_upright(folder, one):
    halves = Image.new("RGB", (600, 400), COLOURS["red"])
    halves.paste(COLOURS["blue"], (0, 200, 600, 400))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    halves.save(folder / "turned.jpg", exif=exif, quality=95)
    client, item = one("turned.jpg")
    picture = picture_of(client.get(f"{item}/thumbnail"))
    assert picture.size == (171, 256)
    assert is_near(picture, (20, 128), COLOURS["blue"])
    assert is_near(picture, (150, 128), COLOURS["red"])
    assert not picture.getexif()


def kinds_of_pictures(folder):
    plain = Image.new("RGB", (300, 200), COLOURS["green"])
    plain.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    yield "cmyk.jpg", plain.convert("CMYK").convert("RGB").getpixel((0, 0))
    Image.fromarray(np.full((200, 300), 0x8000, np.uint16)).save(folder / "deep.png")
    yield "deep.png", (128, 128, 128)
    wide = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain.save(folder / "profile.jpg", icc_profile=wide, quality=95)
    yield "profile.jpg", COLOURS["green"]
    plain.save(
        folder / "moving.gif",
        save_all=True,
        append_images=[Image.new("RGB", (300, 200), COLOURS["red"])],
    )
    yield "moving.gif", COLOURS["green"]
    Image.new("RGBA", (300, 200), (0, 0, 0, 0)).save(folder / "clear.png")
    yield "clear.png", (255, 255, 255)
    for name in ("a.tga", "a.jp2", "a.ppm"):
        plain.save(folder / name)
        yield name, COLOURS["green"]
    if find_spec("rawpy") is not None:
        preview = io.BytesIO()
        plain.save(preview, "JPEG", quality=95)
        (folder / "a.nef").write_bytes(dng(Image.new("RGB", (300, 200)), preview.getvalue()))
        yield "a.nef", COLOURS["green"]
    if find_spec("pillow_jxl") is not None:
        (folder / "a.jxl").write_bytes(JPEG_XL)
        yield "a.jxl", COLOURS["red"]


def test_photos_of_every_kind_have_thumbnails_in_srgb_on_white(tmp_path, folder):
    expected = dict(kinds_of_pictures(folder))
    ids = indexed(tmp_path / "index", folder)
    with served(tmp_path / "index") as client:
        for name, colour in expected.items():
            picture = picture_of(client.get(f"/api/v1/items/{ids[name]}/thumbnail"))
            assert picture.size == (256, 171), name
            assert is_near(picture, (128, 80), colour), name
            assert "icc_profile" not in picture.info


def test_the_thumbnail_of_an_animation_is_of_the_moment_that_is_asked_for(folder, one):
    first, second = (Image.new("RGB", (300, 200), COLOURS[name]) for name in ("red", "blue"))
    first.save(folder / "moving.gif", save_all=True, append_images=[second], duration=2000)
    client, item = one("moving.gif")
    for at, colour in (("", "red"), ("?at=0", "red"), ("?at=2", "blue"), ("?at=99", "blue")):
        assert is_near(picture_of(client.get(f"{item}/thumbnail{at}")), (128, 80), COLOURS[colour])


def test_a_still_photo_looks_the_same_at_every_moment(folder, one):
    paint(folder / "still.gif", "green", (300, 200))
    client, item = one("still.gif")
    assert is_near(picture_of(client.get(f"{item}/thumbnail?at=3")), (128, 80), COLOURS["green"])


def test_a_photo_in_display_p3_has_a_thumbnail_in_srgb(folder, one):
    from mmsearch.media.colour import numbered_profile

    Image.new("RGB", (300, 200), (200, 100, 100)).save(
        folder / "p3.jpg", icc_profile=numbered_profile(12, 13), quality=98
    )
    client, item = one("p3.jpg")
    # as ICC's own arithmetic has it
    assert is_near(picture_of(client.get(f"{item}/thumbnail")), (99, 99), (215, 94, 98), by=6)


@pytest.mark.parametrize(
    ("size", "wanted", "shown"),
    [
        ((90, 60), 256, (90, 60)),
        ((2000, 1500), 1024, (1024, 768)),
        ((2000, 1500), 256, (256, 192)),
        ((1, 10_000), 256, (1, 256)),
        ((10_000, 1), 1024, (1024, 1)),
    ],
)
def test_the_longest_side_is_as_asked_for_and_nothing_is_enlarged(folder, one, size, wanted, shown):
    paint(folder / "photo.png", "blue", size)
    client, item = one("photo.png")
    assert picture_of(client.get(f"{item}/thumbnail?size={wanted}")).size == shown


@pytest.mark.parametrize("query", ["size=300", "size=-1", "at=nan", "at=-1", "page=0", "page=x"])
def test_senseless_sizes_and_places_are_refused(folder, one, query):
    paint(folder / "photo.png", "blue")
    client, item = one("photo.png")
    assert problem(client.get(f"{item}/thumbnail?{query}"), 422)


def test_the_address_with_the_present_version_is_immutable(tmp_path, folder, one):
    paint(folder / "photo.jpg", "red")
    client, item = one("photo.jpg")
    with Collection(tmp_path / "index") as collection:
        (known,) = collection.items
    version = f"{known.metadata['modified']}-{known.metadata['size']}"
    present = client.get(f"{item}/thumbnail", params={"v": version})
    assert present.headers["cache-control"] == "private, max-age=31536000, immutable"
    for older in (None, "2001-01-01T00:00:00+00:00-7"):
        found = client.get(f"{item}/thumbnail", params={"v": older} if older else {})
        assert found.headers["cache-control"] == "private, no-cache"


def test_a_client_that_has_the_thumbnail_gets_none(folder, one):
    paint(folder / "photo.jpg", "red")
    client, item = one("photo.jpg")
    etag = client.get(f"{item}/thumbnail").headers["etag"]
    for known in (etag, f'"other", W/{etag}', "*"):
        again = client.get(f"{item}/thumbnail", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
    other = client.get(f"{item}/thumbnail?size=1024", headers={"If-None-Match": etag})
    assert other.status_code == 200


@pytest.fixture
def makes(monkeypatch):
    """The thumbnails that are made."""
    made = []
    make = thumbnails.thumbnail

    def counted(*args, **options):
        made.append(args)
        time.sleep(0.2)
        return make(*args, **options)

    monkeypatch.setattr(thumbnails, "thumbnail", counted)
    return made


def test_a_thumbnail_is_made_once_however_many_ask(folder, one, makes):
    paint(folder / "photo.jpg", "red")
    client, item = one("photo.jpg")
    answers = []
    asking = [
        threading.Thread(target=lambda: answers.append(client.get(f"{item}/thumbnail").content))
        for _ in range(4)
    ]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert len(makes) == 1
    assert len(answers) == 4
    assert len(set(answers)) == 1
    client.get(f"{item}/thumbnail")
    assert len(makes) == 1


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_kept_thumbnail_is_made_again(folder, one, makes, own_cache, damage):
    paint(folder / "photo.jpg", "red")
    client, item = one("photo.jpg")
    first = client.get(f"{item}/thumbnail").content
    (kept,) = (path for path in own_cache.rglob("*") if path.is_file())
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if damage is None else damage)
    assert client.get(f"{item}/thumbnail").content == first
    assert len(makes) == 2
    client.get(f"{item}/thumbnail")
    assert len(makes) == 2


def test_a_cache_folder_that_cannot_be_written_costs_only_the_keeping(folder, one, own_cache):
    own_cache.write_text("a file where the folder should be")
    paint(folder / "photo.jpg", "red")
    client, item = one("photo.jpg")
    assert picture_of(client.get(f"{item}/thumbnail"))
    assert picture_of(client.get(f"{item}/thumbnail"))


def test_a_page_that_takes_long_does_not_hold_up_the_thumbnails_of_photos(
    tmp_path, folder, monkeypatch
):
    pytest.importorskip("pypdfium2")
    (folder / "slow.pdf").write_bytes(document(says("text")))
    paint(folder / "photo.png", "red", (300, 200))
    ids = indexed(tmp_path / "index", folder, pdf=True)
    is_slow, may_end = threading.Event(), threading.Event()
    make = thumbnails.thumbnail

    def slow(file, kind, *args, **options):
        if kind == "document":
            is_slow.set()
            assert may_end.wait(20)
        return make(file, kind, *args, **options)

    monkeypatch.setattr(thumbnails, "thumbnail", slow)
    with served(tmp_path / "index", thumbnails=1) as client:
        page = f"/api/v1/items/{ids['slow.pdf']}/thumbnail"
        asking = threading.Thread(target=client.get, args=[page])
        asking.start()
        try:
            assert is_slow.wait(20)
            assert picture_of(client.get(f"/api/v1/items/{ids['photo.png']}/thumbnail"))
        finally:
            may_end.set()
            asking.join()


def test_copies_share_a_thumbnail(tmp_path, folder, makes):
    paint(folder / "photo.jpg", "red")
    (folder / "copy.jpg").write_bytes((folder / "photo.jpg").read_bytes())
    ids = indexed(tmp_path / "index", folder)
    with served(tmp_path / "index") as client:
        for name in ("photo.jpg", "copy.jpg"):
            assert picture_of(client.get(f"/api/v1/items/{ids[name]}/thumbnail"))
    assert len(makes) == 1


def test_of_kept_files_those_not_used_for_longest_are_removed(tmp_path):
    cache = FileCache(tmp_path / "kept", most_bytes=10_000)
    for number in range(9):
        cache.put(f"{number:02}", bytes(1000))
        os.utime(tmp_path / "kept" / f"{number:02}" / f"{number:02}", (number, number))
    assert cache.find("00")  # the oldest, and now the last one used
    for number in range(9, 14):
        cache.put(f"{number:02}", bytes(1000))
    kept = {path.name for path in (tmp_path / "kept").glob("*/*")}
    assert sum(path.stat().st_size for path in (tmp_path / "kept").glob("*/*")) <= 10_000
    assert {"00", "13"} <= kept
    assert not {"01", "02"} & kept


def test_kept_files_expire(tmp_path):
    cache = FileCache(tmp_path / "kept", most_bytes=10_000, most_seconds=60)
    cache.put("aa", b"old")
    os.utime(tmp_path / "kept" / "aa" / "aa", (1, 1))
    FileCache(tmp_path / "kept", most_bytes=10_000, most_seconds=60).put("bb", b"new")
    assert [cache.read("aa"), cache.read("bb")] == [None, b"new"]


def test_what_nobody_waits_for_any_more_is_not_made():
    workers = Workers("thumbnail", running=1, waiting=9, seconds=30)
    derived = DerivedFiles(FileCache(None, most_bytes=0), workers)
    free, made = threading.Event(), []

    def first():
        free.wait(30)
        return b"first"

    async def waits():
        return False

    async def left():
        return True

    async def ask():
        asking = asyncio.create_task(derived.get("aa", first, waits))
        await asyncio.sleep(0.05)
        with pytest.raises(Problem, match="gone"):
            await derived.get("bb", lambda: made.append("bb") or b"", left)
        free.set()
        return await asking

    assert asyncio.run(ask()) == b"first"
    derived.close()
    assert not made


def test_what_took_longer_than_a_client_waits_is_not_made_twice(tmp_path):
    workers = Workers("waveform", running=1, waiting=9, seconds=0.1)
    derived = DerivedFiles(FileCache(tmp_path / "kept", most_bytes=9999), workers)
    made = []

    def slow():
        made.append(time.sleep(0.8))
        return b"slow"

    async def waits():
        return False

    async def ask():
        found = None
        while found is None:
            with suppress(Problem):
                found = await derived.get("aa", slow, waits)
        return found

    assert asyncio.run(ask()) == b"slow"
    derived.close()
    assert len(made) == 1


def test_what_takes_long_is_given_up_when_the_server_ends():
    derived = DerivedFiles(
        FileCache(None, most_bytes=0), Workers("waveform", running=1, waiting=9, seconds=30)
    )
    sound = io.BytesIO()
    soundfile.write(sound, np.zeros(80_000, np.float32), 8000, format="WAV")
    sound.seek(0)
    derived.close()
    with pytest.raises(Problem, match="shutting down"):
        waveform(sound, "audio", derived.check_open)


def test_a_jpeg_holds_the_pixels_and_nothing_that_the_file_says_of_itself(tmp_path):
    exif = Image.Exif()
    exif[0x0110] = "Canon EOS 5D"
    photo = paint(tmp_path / "a.jpg", "red", (400, 300), exif=exif, comment=b"a secret")
    with photo.open("rb") as file:
        made = thumbnails.thumbnail(file, "image", 128, format="jpeg")
    picture = Image.open(io.BytesIO(made))
    assert (picture.format, picture.size) == ("JPEG", (128, 96))
    assert b"Canon" not in made
    assert b"a secret" not in made
    assert is_near(picture, (64, 48), COLOURS["red"])


def test_what_has_no_picture_says_so(tmp_path, folder):
    (folder / "note.txt").write_text("red")
    tone(folder / "tone.wav", "low")
    ids = indexed(tmp_path / "index", folder)
    with served(tmp_path / "index") as client:
        for name in ids:
            found = client.get(f"/api/v1/items/{ids[name]}/thumbnail")
            assert "no picture" in problem(found, 404)


def test_a_sound_has_its_cover_as_thumbnail(folder, one):
    pytest.importorskip("av")
    cover = io.BytesIO()
    Image.new("RGB", (40, 40), COLOURS["blue"]).save(cover, "PNG")
    body = b"\0image/png\0\3\0" + cover.getvalue()
    frame = b"APIC" + struct.pack(">I", len(body)) + b"\0\0" + body
    sizes = bytes(len(frame) >> shift & 127 for shift in (21, 14, 7, 0))
    sound = io.BytesIO()
    soundfile.write(sound, np.zeros(32_000, np.float32), 16_000, format="MP3")
    (folder / "song.mp3").write_bytes(b"ID3\3\0\0" + sizes + frame + sound.getvalue())
    client, item = one("song.mp3")
    assert is_near(picture_of(client.get(f"{item}/thumbnail")), (20, 20), COLOURS["blue"])


def test_a_video_has_the_picture_of_the_moment(folder, one):
    pytest.importorskip("av")
    from test_video import BLUE, RED, plain, written

    written(folder / "clip.mp4", [(plain(RED), 50), (plain(BLUE), 50)])
    client, item = one("clip.mp4", video=True)
    for moment, colour in ((0.5, RED), (1.9, RED), (2.1, BLUE), (3.9, BLUE), (1e5, BLUE)):
        picture = picture_of(client.get(f"{item}/thumbnail?at={moment}"))
        assert is_near(picture, (80, 45), colour), moment
    assert is_near(picture_of(client.get(f"{item}/thumbnail")), (80, 45), RED)


def test_a_video_that_breaks_off_has_pictures_all_the_same(tmp_path):
    pytest.importorskip("av")
    from test_video import RED, plain, written

    written(tmp_path / "clip.mkv", [(plain(RED), 100)])
    data = (tmp_path / "clip.mkv").read_bytes()
    cut = io.BytesIO(data[: len(data) * 2 // 3])
    made = thumbnails.thumbnail(cut, "video", 256, at=3.9)
    assert is_near(Image.open(io.BytesIO(made)), (80, 45), RED)


def test_a_document_has_the_picture_of_the_page(folder, one):
    pytest.importorskip("pypdfium2")
    (folder / "letter.pdf").write_bytes(document(says("one"), says("two", size=(400, 300))))
    client, item = one("letter.pdf", pdf=True)
    assert picture_of(client.get(f"{item}/thumbnail")).size == (192, 256)
    assert picture_of(client.get(f"{item}/thumbnail?page=2")).size == (256, 192)
    assert "no page 3" in problem(client.get(f"{item}/thumbnail?page=3"), 404)


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [(UnreadableFile("damaged"), 422, "damaged"), (TooLarge("2,000"), 413, "save it")],
)
def test_a_picture_that_cannot_be_decoded_is_a_problem_that_names_it(
    folder, one, monkeypatch, error, status, told
):
    paint(folder / "photo.jpg", "red")
    client, item = one("photo.jpg")

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(thumbnails, "load_image", refuse)
    detail = problem(client.get(f"{item}/thumbnail"), status)
    assert "photo.jpg" in detail
    assert told in detail


# ---------------------------------------------------------------------- which files are served

ROUTES = ("media", "thumbnail", "waveform")


def all_refused(client, item):
    return {route: problem(client.get(f"{item}/{route}"), 404) for route in ROUTES}


@pytest.mark.parametrize("number", [7, 2**63 - 1])
def test_an_unknown_item_has_no_file(folder, one, number):
    paint(folder / "photo.jpg", "red")
    client, _ = one("photo.jpg")
    refused = all_refused(client, f"/api/v1/items/{number}")
    assert all("not in the index" in why for why in refused.values())


@pytest.mark.parametrize(
    "written", ["0", "-1", str(2**63), "9" * 5000, "1.5", "a", "%00", "..%2f1"]
)
def test_what_is_no_id_is_refused(folder, one, written):
    paint(folder / "photo.jpg", "red")
    client, _ = one("photo.jpg")
    for route in ROUTES:
        assert client.get(f"/api/v1/items/{written}/{route}").status_code in (404, 422)


def test_an_unknown_index_is_refused(folder, one):
    paint(folder / "photo.jpg", "red")
    client, item = one("photo.jpg")
    for route in ROUTES:
        assert "no index" in problem(client.get(f"{item}/{route}?index=other"), 404)


def test_a_file_that_is_gone_or_has_changed_is_not_served(folder, one, tmp_path):
    photo = paint(folder / "photo.png", "red")
    client, item = one("photo.png")
    paint(photo, "green", (50, 50))
    assert all("changed" in why for why in all_refused(client, item).values())
    photo.unlink()
    assert all("cannot be read" in why for why in all_refused(client, item).values())
    with Collection(tmp_path / "index") as collection:
        assert not is_available(collection.index.store, 1)


def test_other_content_of_the_same_size_and_time_is_not_served(folder, one):
    photo = paint(folder / "photo.bmp", "red")
    client, item = one("photo.bmp")
    before = photo.stat()
    time.sleep(0.02)  # so that the ctime differs, whatever the clock's ticks
    data = bytearray(photo.read_bytes())
    data[-1] ^= 1
    photo.write_bytes(data)
    os.utime(photo, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert all("changed" in why for why in all_refused(client, item).values())


def test_a_file_that_was_only_touched_is_served(folder, one):
    photo = paint(folder / "photo.jpg", "red")
    client, item = one("photo.jpg")
    os.utime(photo)
    photo.chmod(0o600)
    assert client.get(f"{item}/media").content == photo.read_bytes()


@pytest.mark.parametrize("what", ["folder", "pipe", "link to a file", "link to a device"])
def test_what_is_put_in_place_of_a_file_is_not_served(folder, one, tmp_path, what):
    photo = paint(folder / "photo.png", "red")
    client, item = one("photo.png")
    photo.rename(tmp_path / "secret.png")
    if what == "folder":
        photo.mkdir()
    elif what == "pipe":
        os.mkfifo(photo)
    else:
        photo.symlink_to("/dev/zero" if what == "link to a device" else tmp_path / "secret.png")
    assert all_refused(client, item)


def test_a_link_that_leads_out_is_not_served_and_one_inside_is(tmp_path, folder):
    outside = paint(tmp_path / "outside" / "far.png", "green")
    inside = paint(folder / "deep" / "near.png", "red")
    (folder / "out.png").symlink_to(outside)
    (folder / "other").symlink_to(tmp_path / "outside")
    (folder / "in.png").symlink_to(inside)
    ids = indexed(tmp_path / "index", folder)
    with served(tmp_path / "index") as client:
        for name in ("out.png", "far.png"):
            why = all_refused(client, f"/api/v1/items/{ids[name]}")
            assert all("leads out" in one for one in why.values())
        assert client.get(f"/api/v1/items/{ids['in.png']}/media").content == inside.read_bytes()


def test_an_indexed_folder_may_itself_be_a_link(tmp_path, folder):
    photo = paint(folder / "photo.png", "red")
    (tmp_path / "link").symlink_to(folder)
    ids = indexed(tmp_path / "index", tmp_path / "link")
    with served(tmp_path / "index") as client:
        assert client.get(f"/api/v1/items/{ids['photo.png']}/media").content == photo.read_bytes()


def test_a_link_that_takes_a_folder_s_place_after_the_look_is_not_followed(
    tmp_path, folder, monkeypatch
):
    photo = paint(folder / "deep" / "photo.png", "red")
    indexed(tmp_path / "index", folder)
    (folder / "deep").rename(tmp_path / "moved")
    (folder / "deep").symlink_to(tmp_path / "moved")
    monkeypatch.setattr(item_files.os.path, "realpath", lambda path: path)  # the look was before
    with Collection(tmp_path / "index") as collection:
        assert photo.exists()
        assert not is_available(collection.index.store, 1)


def test_what_replaces_an_open_file_is_not_read(tmp_path, folder):
    photo = paint(folder / "photo.png", "red")
    indexed(tmp_path / "index", folder)
    before = photo.read_bytes()
    other = paint(tmp_path / "other.png", "green", (99, 99))
    index = tmp_path / "index"
    with Collection(index) as known, open_item(known.index.store, 1) as found:
        os.replace(other, photo)
        assert found.file.read() == before


def test_imported_items_have_no_file_though_their_path_names_one(tmp_path, folder, one):
    secret = tmp_path / "secret.txt"
    secret.write_text("a password")
    paint(folder / "photo.png", "red")
    with Collection(tmp_path / "index", model="toy", create=True) as collection:
        collection.add(folder)
        there = str(folder / "photo.png")
        rows = [{"path": str(secret)}, {"path": "https://example.org/a.png"}, {"path": there}]
        collection.add_vectors(np.eye(8, dtype=np.float32)[:3], rows, model="toy")
        imported = [item.id for item in collection.items if item.id > 1]
    assert len(imported) == 3
    with served(tmp_path / "index") as client:
        for number in imported:
            all_refused(client, f"/api/v1/items/{number}")


def test_files_whose_vectors_were_imported_below_a_folder_have_thumbnails_of_their_own(
    tmp_path, folder
):
    for colour in ("red", "blue"):
        paint(folder / f"{colour}.png", colour)
    with Collection(tmp_path / "index", model="toy", create=True) as collection:
        rows = [{"path": "red.png"}, {"path": "blue.png"}]
        collection.add_vectors(np.eye(8, dtype=np.float32)[:2], rows, model="toy", root=folder)
        ids = {os.path.basename(item.path): item.id for item in collection.items}
    with served(tmp_path / "index") as client:
        for colour in ("red", "blue"):
            found = client.get(f"/api/v1/items/{ids[f'{colour}.png']}/thumbnail")
            assert is_near(picture_of(found), (20, 15), COLOURS[colour])


# ---------------------------------------------------------------------- files as they are


@pytest.fixture
def text(folder, one):
    """A text of 100 bytes, served: (client, address, content)."""
    content = bytes(range(48, 98)) * 2
    (folder / "note.txt").write_bytes(content)
    client, item = one("note.txt")
    return client, f"{item}/media", content


def test_a_file_comes_as_it_is(text):
    client, address, content = text
    found = client.get(address)
    assert (found.status_code, found.content) == (200, content)
    assert found.headers["content-length"] == "100"
    assert found.headers["accept-ranges"] == "bytes"
    assert found.headers["x-content-type-options"] == "nosniff"
    assert found.headers["content-disposition"] == "inline; filename*=UTF-8''note.txt"


def test_head_tells_the_same_without_the_file(text):
    client, address, _ = text
    whole, head = client.get(address), client.head(address)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-length", "etag", "last-modified", "content-type", "accept-ranges"):
        assert head.headers[name] == whole.headers[name]


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=0-9", 0, 10),
        ("bytes=0-0", 0, 1),
        ("Bytes=99-99", 99, 100),
        ("bytes=90-", 90, 100),
        ("bytes=-5", 95, 100),
        ("bytes=-500", 0, 100),
        ("bytes=50-99999999999999999999999999999999", 50, 100),
        (f"bytes=-{'9' * 5000}", 0, 100),
    ],
)
def test_a_range_of_a_file(text, header, start, stop):
    client, address, content = text
    found = client.get(address, headers={"Range": header})
    assert (found.status_code, found.content) == (206, content[start:stop])
    assert found.headers["content-range"] == f"bytes {start}-{stop - 1}/100"
    assert found.headers["content-length"] == str(stop - start)


@pytest.mark.parametrize(
    "header", ["bytes=-0", "bytes=100-", "bytes=100-200", f"bytes={'9' * 99}-"]
)
def test_a_range_outside_of_a_file_is_refused(text, header):
    client, address, _ = text
    found = client.get(address, headers={"Range": header})
    assert "100 bytes" in problem(found, 416)
    assert found.headers["content-range"] == "bytes */100"


@pytest.mark.parametrize(
    "header",
    [
        *("bytes=", "bytes=-", "bytes=a-b", "bytes=5-2", "bytes=1_0-", "bytes=+1-2", "bytes=0x1-2"),
        *("items=0-1", "0-1", "bytes=0-1;2-3", "bytes=0-1,,5-2", "bytes 0-1"),
        *("bytes=0-4,10-14,-3", "bytes=0-,0-,0-,0-", "bytes=100-, 3-4"),
    ],
)
def test_several_ranges_and_malformed_ones_are_ignored(text, header):
    client, address, content = text
    found = client.get(address, headers={"Range": header})
    assert (found.status_code, found.content) == (200, content)


@given(
    st.one_of(
        st.text(max_size=40),
        st.tuples(
            st.one_of(st.just(""), st.integers(0, 40).map(str)),
            st.one_of(st.just(""), st.integers(0, 40).map(str)),
        ).map(lambda ends: f"bytes={ends[0]}-{ends[1]}"),
    ),
    st.integers(0, 30),
)
def test_a_range_lies_in_the_file(header, size):
    start, stop = wanted_range(header, size) or (0, size)
    assert 0 <= start <= stop <= size


def test_a_range_counts_only_while_the_file_is_what_the_client_has(text):
    client, address, content = text
    whole = client.get(address)
    for known in ("etag", "last-modified"):
        headers = {"Range": "bytes=0-9", "If-Range": whole.headers[known]}
        assert client.get(address, headers=headers).status_code == 206
    for other in ('"other"', "W/" + whole.headers["etag"], "Mon, 01 Jan 2001 00:00:00 GMT"):
        found = client.get(address, headers={"Range": "bytes=0-9", "If-Range": other})
        assert (found.status_code, found.content) == (200, content)


def test_a_client_that_has_the_file_gets_none(text):
    client, address, _ = text
    etag = client.get(address).headers["etag"]
    found = client.get(address, headers={"If-None-Match": etag, "Range": "bytes=0-1"})
    assert (found.status_code, found.content) == (304, b"")


def test_an_empty_range_of_an_empty_file_is_refused(tmp_path):
    assert wanted_range("bytes=0-", 0) == (0, 0)
    assert wanted_range("", 0) is None


def files_of_many_types(folder):
    picture = Image.new("RGB", (64, 64), COLOURS["red"])
    for name, kind in (
        ("a.jpg", "image/jpeg"),
        ("a.png", "image/png"),
        ("a.gif", "image/gif"),
        ("a.webp", "image/webp"),
        ("a.avif", "image/avif"),
        ("a.bmp", "image/bmp"),
        ("a.tiff", "image/tiff"),
    ):
        picture.save(folder / name)
        yield name, kind
    picture.save(folder / "really-a-png.jpg", "PNG")
    yield "really-a-png.jpg", "image/png"
    picture.save(folder / "a.ico")
    yield "a.ico", "image/vnd.microsoft.icon"
    for name in ("a.ppm", "a.tga", "a.jp2"):
        picture.save(folder / name)
        yield name, None
    (folder / "raw.dng").write_bytes(dng(picture))
    (folder / "a.jxl").write_bytes(JPEG_XL)
    for name, package in (("raw.dng", "rawpy"), ("a.jxl", "pillow_jxl")):
        if find_spec(package) is None:
            (folder / name).unlink()
        else:
            yield name, None
    for name, kind in (("b.wav", "audio/wav"), ("b.flac", "audio/flac"), ("b.ogg", "audio/ogg")):
        tone(folder / name, "low", seconds=1)
        yield name, kind
    tone(folder / "b.mp3", "low", seconds=1)
    yield "b.mp3", "audio/mpeg"
    for name, content, kind in (
        (
            "c.txt",
            "plain, cr\N{LATIN SMALL LETTER E WITH GRAVE}me".encode(),
            "text/plain; charset=utf-8",
        ),
        ("c.md", b"# heading", "text/plain; charset=utf-8"),
        ("long.txt", ("\N{EURO SIGN}" * 5000).encode(), "text/plain; charset=utf-8"),
        (
            "other.txt",
            "cr\N{LATIN SMALL LETTER E WITH GRAVE}me de la cr\xe8me".encode("latin-1"),
            None,
        ),
        ("page.txt", b"\n <!doctype html><script>alert(1)</script> red", None),
        ("drawing.txt", b'<svg xmlns="http://www.w3.org/2000/svg"/> red', None),
        ("data.txt", b"\xef\xbb\xbf<?xml version='1.0'?><a>red</a>", None),
    ):
        (folder / name).write_bytes(content)
        yield name, kind


def test_the_type_is_told_by_the_bytes_and_what_is_not_on_the_list_is_saved(tmp_path, folder):
    expected = dict(files_of_many_types(folder))
    ids = indexed(tmp_path / "index", folder)
    assert set(ids) == set(expected)
    with served(tmp_path / "index") as client:
        for name, kind in expected.items():
            found = client.get(f"/api/v1/items/{ids[name]}/media")
            assert found.headers["content-type"] == (kind or "application/octet-stream"), name
            shown = "inline" if kind else "attachment"
            assert found.headers["content-disposition"].startswith(f"{shown};"), name
            saved = client.get(f"/api/v1/items/{ids[name]}/media?download=1")
            assert saved.headers["content-disposition"].startswith("attachment;"), name


def test_documents_are_saved_not_shown(tmp_path, folder):
    pytest.importorskip("anydoc")
    from test_documents import RTF, mail, word

    (folder / "a.html").write_text("red <script>alert(1)</script>")
    (folder / "a.rtf").write_bytes(RTF)
    (folder / "a.eml").write_bytes(mail("red").as_bytes())
    (folder / "a.docx").write_bytes(word("red"))
    ids = indexed(tmp_path / "index", folder)
    assert len(ids) == 4
    with served(tmp_path / "index") as client:
        for item in ids.values():
            found = client.get(f"/api/v1/items/{item}/media")
            assert found.headers["content-type"] == "application/octet-stream"
            assert found.headers["content-disposition"].startswith("attachment;")


def test_videos_and_documents_have_their_types(tmp_path, folder):
    pytest.importorskip("av")
    pytest.importorskip("pypdfium2")
    from test_video import RED, plain, written

    expected = {
        "d.mp4": "video/mp4",
        "d.mov": "video/quicktime",
        "d.mkv": "video/x-matroska",
        "d.webm": "video/webm",
        "d.pdf": "application/pdf",
    }
    for name in expected:
        if name.endswith("pdf"):
            (folder / name).write_bytes(document(says("red")))
        else:
            codec = "libvpx" if name.endswith("webm") else "libx264"
            written(folder / name, [(plain(RED), 10)], codec)
    ids = indexed(tmp_path / "index", folder, video=True, pdf=True)
    with served(tmp_path / "index") as client:
        for name, kind in expected.items():
            found = client.get(f"/api/v1/items/{ids[name]}/media")
            assert found.headers["content-type"] == kind, name


@pytest.mark.parametrize(
    "name",
    [
        'quo"te; filename=evil.exe.txt',
        "new\r\nSet-Cookie: a=b.txt",
        "sn\N{SNOWMAN}w.txt",
        os.fsdecode(b"\xff\xfe.txt"),
        "right\N{RIGHT-TO-LEFT OVERRIDE}txt.exe.txt",
        "per%20cent.txt",
    ],
)
def test_odd_names_do_no_harm_in_a_header(folder, one, name):
    (folder / name).write_text("red")
    client, item = one(name)
    found = client.get(f"{item}/media")
    assert found.status_code == 200
    assert "set-cookie" not in found.headers
    written = found.headers["content-disposition"].removeprefix("inline; filename*=UTF-8''")
    assert all(one.isalnum() or one in "%._-~" for one in written)
    assert unquote(written).isprintable()
    if name.isprintable():
        assert unquote(written) == name


# ---------------------------------------------------------------------- waveforms


def test_a_waveform_shows_where_a_sound_is_loud(folder, one):
    tone(folder / "tones.wav", "", "low", seconds=3)
    client, item = one("tones.wav")
    for points in (50, 200, 1000):
        found = client.get(f"{item}/waveform?points={points}").json()
        assert found["seconds"] == 6
        assert len(found["peaks"]) == points
        assert max(found["peaks"][: points // 2 - 1]) == 0
        assert min(found["peaks"][points // 2 + 1 :]) == pytest.approx(0.5, abs=0.02)
    assert len(client.get(f"{item}/waveform").json()["peaks"]) == 200
    for points in (49, 1001, "x"):
        assert problem(client.get(f"{item}/waveform?points={points}"), 422)


def test_a_click_in_a_long_sound_is_seen_at_its_place():
    samples = np.zeros(8000 * 600, np.float32)
    samples[8000 * 450] = -1
    file = io.BytesIO()
    soundfile.write(file, samples, 8000, format="WAV")
    file.seek(0)
    found = at_points(waveform(file, "audio", lambda: None), 1000)
    assert found["seconds"] == 600
    assert [at for at, peak in enumerate(found["peaks"]) if peak] == [pytest.approx(750, abs=1)]
    assert max(found["peaks"]) == 1


def test_a_sound_shorter_than_its_waveform_has_one():
    file = io.BytesIO()
    soundfile.write(file, np.full(10, 0.5, np.float32), 8000, format="WAV")
    file.seek(0)
    found = at_points(waveform(file, "audio", lambda: None), 50)
    assert found["peaks"] == pytest.approx([0.5] * 50, abs=0.01)


def test_a_sound_that_breaks_off_shows_what_can_be_heard(tmp_path):
    path = tone(tmp_path / "cut.flac", "low", "middle", "high")
    cut = path.read_bytes()[: path.stat().st_size // 2]
    found = at_points(waveform(io.BytesIO(cut), "audio", lambda: None), 50)
    assert 3 < found["seconds"] < 14


def test_what_has_no_sound_has_no_waveform(folder, one):
    pytest.importorskip("av")
    from test_video import RED, plain, written

    written(folder / "silent.mp4", [(plain(RED), 10)])
    paint(folder / "photo.png", "red")
    client, item = one("silent.mp4", video=True)
    assert "no sound" in problem(client.get(f"{item}/waveform"), 404)


def test_the_sound_of_a_video_has_one(folder, one):
    pytest.importorskip("av")
    from test_video import RED, plain, written

    written(folder / "loud.mp4", [(plain(RED), 50)], sound=True)
    client, item = one("loud.mp4", video=True)
    assert client.get(f"{item}/waveform").json()["seconds"] == pytest.approx(1, abs=0.1)


def test_a_waveform_is_kept(folder, one, own_cache):
    tone(folder / "tone.wav", "low")
    client, item = one("tone.wav")
    first = client.get(f"{item}/waveform").json()
    (kept,) = (own_cache / "server" / "waveforms").glob("*/*")
    assert kept.stat().st_size < 20_000
    assert client.get(f"{item}/waveform").json() == first
