"""What RAW photos, films, XMP, Takeout's JSON and names tell of the photos that they belong to."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import ToyEncoder, paint
from typer.testing import CliRunner

import mmsearch
from mmsearch.cli.app import app
from mmsearch.errors import InvalidOption
from mmsearch.indexing.decoder import Decoder

SUMMER, NEW_YEAR = "2019-07-04T12:34:56", "2020-01-01T00:00:00"


@pytest.fixture
def library(toy: ToyEncoder, photos: Path, tmp_path: Path):
    with mmsearch.index(photos, into=tmp_path / "idx") as made:
        toy.encoded.update(image=0, text=0)
        yield made


def counts(report: mmsearch.Report) -> dict[str, int]:
    fields = ("added", "updated", "renamed", "unchanged", "removed", "skipped")
    return {name: getattr(report, name) for name in fields if getattr(report, name)}


def names(library: mmsearch.Collection) -> list[str]:
    return sorted(os.path.basename(item.path) for item in library.items)


def known(library: mmsearch.Collection, name: str = "red.png") -> dict[str, Any]:
    """The metadata of an item, and what it or the user says under further keys."""
    [item] = [one for one in library.items if os.path.basename(one.path) == name]
    return {**item.metadata.get("meta", {}), **item.metadata}


def failed(library: mmsearch.Collection) -> list[str]:
    return [os.path.basename(failure.path) for failure in library.failures]


def xmp(path: Path, *, taken: str = SUMMER, **properties: str) -> None:
    given = {"exif:DateTimeOriginal": taken, **{f"xmp:{k}": v for k, v in properties.items()}}
    attributes = " ".join(f'{name}="{value}"' for name, value in given.items())
    path.write_text(
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/" '
        f"{attributes}/></rdf:RDF></x:xmpmeta>"
    )


def takeout(
    path: Path, taken: datetime = datetime(2018, 5, 6, 12, tzinfo=UTC), **more: Any
) -> None:
    told = {"title": "red.png", "photoTakenTime": {"timestamp": str(int(taken.timestamp()))}}
    path.write_text(json.dumps({**told, **more}))


# ---------------------------------------------------------------------- facts


def test_a_sidecar_tells_of_its_photo_without_encoding_it_again(library, photos, toy, monkeypatch):
    xmp(photos / "red.xmp", Rating="4")
    with monkeypatch.context() as patch:
        patch.setattr("mmsearch.indexing.decoder.read_file", lambda _: pytest.fail("was read"))
        assert counts(library.add(photos)) == {"updated": 1, "unchanged": 2}
    assert (known(library)["taken_at"], known(library)["rating"]) == (SUMMER, "4")
    assert toy.encoded == {"image": 0, "text": 0}
    assert names(library) == ["blue.png", "green.png", "red.png"]
    assert counts(library.add(photos)) == {"unchanged": 3}


def test_a_sidecar_that_changes_or_goes_takes_its_facts_along(library, photos, toy):
    xmp(photos / "red.png.xmp", Rating="4")
    library.add(photos)
    xmp(photos / "red.png.xmp", taken=NEW_YEAR)
    assert counts(library.add(photos)) == {"updated": 1, "unchanged": 2}
    assert known(library)["taken_at"] == NEW_YEAR
    assert "rating" not in known(library)
    (photos / "red.png.xmp").unlink()
    assert counts(library.add(photos)) == {"updated": 1, "unchanged": 2}
    assert "taken_at" not in known(library)
    assert toy.encoded["image"] == 0


def test_a_new_photo_comes_with_what_its_sidecars_tell(toy, photos, tmp_path):
    place = {"latitude": 48.2, "longitude": 16.37, "altitude": 0.0}
    takeout(photos / "red.png.supplemental-metadata.json", geoData=place, description="home")
    with mmsearch.index(photos, into=tmp_path / "idx") as library:
        told = known(library)
        assert told["taken_at"].startswith("2018-05-0")
        assert (told["latitude"], told["longitude"]) == (48.2, 16.37)
        assert told["description"] == "home"
        assert "taken_at" not in known(library, "green.png")


def test_the_file_comes_before_xmp_that_before_takeout_and_the_name_last(library, photos):
    photo = photos / "IMG-20170102-WA0003.png"
    paint(photo, "white")
    library.add(photos)
    told = [known(library, photo.name)["taken_at"]]
    takeout(photos / f"{photo.name}.json")
    library.add(photos)
    told.append(known(library, photo.name)["taken_at"])
    xmp(photo.with_suffix(".xmp"))
    library.add(photos)
    told.append(known(library, photo.name)["taken_at"])
    from PIL import Image

    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2016:01:02 03:04:05"
    exif[0x4746] = 1
    with Image.open(photo) as opened:
        opened.save(photo, exif=exif)
    xmp(photo.with_suffix(".xmp"), Rating="5")
    library.add(photos)
    told.append(known(library, photo.name)["taken_at"])
    assert [time[:4] for time in told] == ["2017", "2018", "2019", "2016"]
    assert known(library, photo.name)["rating"] == "5"  # people rate in sidecars


def test_a_copy_has_the_date_of_its_own_name_and_no_sidecar_of_the_other(library, photos, toy):
    xmp(photos / "red.xmp", Rating="4")
    library.add(photos)
    shutil.copy(photos / "red.png", photos / "2015-03-04 05.06.07.png")
    assert counts(library.add(photos)) == {"added": 1, "unchanged": 3}
    copy = known(library, "2015-03-04 05.06.07.png")
    assert copy["taken_at"] == "2015-03-04T05:06:07"
    assert "rating" not in copy
    assert known(library)["taken_at"] == SUMMER
    assert toy.encoded["image"] == 0


def test_a_renamed_photo_keeps_its_id_and_goes_by_its_new_name(library, photos):
    before = {item.id for item in library.items}
    (photos / "red.png").rename(photos / "IMG_20150304_050607.png")
    assert counts(library.add(photos)) == {"renamed": 1, "unchanged": 2}
    assert {item.id for item in library.items} == before
    assert known(library, "IMG_20150304_050607.png")["taken_at"] == "2015-03-04T05:06:07"


def test_what_the_user_said_stays_whatever_a_sidecar_says(library, photos, tmp_path):
    own = tmp_path / "own.csv"
    own.write_text("file,rating\nred.png,1\n")
    library.add(photos, metadata=own)
    xmp(photos / "red.xmp", Rating="4")
    library.add(photos)
    assert known(library)["rating"] == "1"
    (photos / "red.xmp").unlink()
    library.add(photos)
    assert known(library)["rating"] == "1"


def test_captions_beside_a_photo_and_its_sidecar_do_not_disturb_each_other(library, photos, toy):
    (photos / "red.txt").write_text("a white house")
    library.add(photos)
    xmp(photos / "red.xmp")
    assert counts(library.add(photos)) == {"updated": 1, "unchanged": 2}
    assert toy.encoded == {"image": 0, "text": 1}
    [item] = [item for item in library.items if item.path.endswith("red.png")]
    assert [part.text for part in item.texts] == ["a white house"]
    assert known(library)["taken_at"] == SUMMER


def test_an_imported_photo_keeps_its_vectors_and_columns_when_a_sidecar_comes(library, photos):
    with closing(sqlite3.connect(library.folder / "catalog.db")) as catalog, catalog:
        catalog.execute("UPDATE items SET hash = x'', taken_at = '2001-02-03T00:00:00'")
        catalog.execute("UPDATE items SET ctime_ns = NULL")
    xmp(photos / "red.xmp", Rating="3")
    before = library.search("red", k=3)
    assert counts(library.add(photos)) == {"updated": 1, "unchanged": 2}
    assert [(hit.id, hit.score) for hit in library.search("red", k=3)] == [
        (hit.id, hit.score) for hit in before
    ]
    assert known(library)["taken_at"] == "2001-02-03T00:00:00"
    assert known(library)["rating"] == "3"


def test_photos_of_an_earlier_version_tell_once_what_they_could_not_then(
    toy, photos, tmp_path, monkeypatch
):
    shutil.copy(photos / "red.png", photos / "2015-03-04 05.06.07.png")
    takeout(photos / "red.png.json")
    with mmsearch.index(photos, into=tmp_path / "idx"):
        pass
    with closing(sqlite3.connect(tmp_path / "idx" / "catalog.db")) as catalog, catalog:
        catalog.execute(  # as the migration leaves them
            "UPDATE items SET taken_at = NULL, sidecar_size = -1, sidecar_mtime_ns = -1"
        )
    toy.encoded.update(image=0)
    with mmsearch.open(tmp_path / "idx") as library, monkeypatch.context() as patch:
        patch.setattr("mmsearch.indexing.decoder.read_file", lambda _: pytest.fail("was read"))
        assert counts(library.add(photos)) == {"updated": 4}
        assert known(library)["taken_at"].startswith("2018")
        assert known(library, "2015-03-04 05.06.07.png")["taken_at"] == "2015-03-04T05:06:07"
        patch.setattr(Decoder, "__call__", lambda *_: pytest.fail("was looked at"))
        assert counts(library.add(photos)) == {"unchanged": 4}
    assert toy.encoded["image"] == 0


# ---------------------------------------------------------------------- hostile ones

BOMB = (
    '<!DOCTYPE x [<!ENTITY a "ha">'
    + "".join(
        f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]><x>&i;</x>"
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("red.xmp", b"<x:xmpmeta"),
        ("red.xmp", b""),
        ("red.xmp", bytes(64)),
        ("red.png.xmp", BOMB.encode()),
        ("red.xmp", b"<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><x>&a;</x>"),
        ("red.xmp", b"<a>" * 100_000),
        ("red.xmp", b" " * 20_000_000),
        ("red.png.json", b"{"),
        ("red.png.json", b"[" * 100_000),
        ("red.png.json", b"\xff\xfe\x00"),
        ("red.png.json", b" " * 3_000_000),
    ],
)
def test_a_bad_sidecar_is_a_failure_and_its_photo_is_indexed(library, photos, name, content):
    (photos / name).write_bytes(content)
    paint(photos / "red.png", "white")
    report = library.add(photos)
    assert counts(report) == {"updated": 1, "unchanged": 2, "skipped": 1}
    assert failed(library) == [name]
    again = library.add(photos)
    assert counts(again) == {"unchanged": 3, "skipped": 1}
    xmp(photos / name) if name.endswith("xmp") else takeout(photos / name)
    library.add(photos)
    assert failed(library) == []
    assert "taken_at" in known(library)


def test_a_bad_sidecar_that_goes_is_no_failure_any_more(library, photos):
    (photos / "red.xmp").write_bytes(b"<")
    library.add(photos)
    assert failed(library) == ["red.xmp"]
    (photos / "red.xmp").unlink()
    library.add(photos)
    assert failed(library) == []


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"photoTakenTime": 7}', '{"filename": "x"}'])
def test_json_of_other_programs_is_no_failure(library, photos, content):
    (photos / "red.png.json").write_text(content)
    (photos / "package.json").write_text("{")
    report = library.add(photos)
    assert report.skipped == 0
    assert (library.failures, report.warnings) == ([], [])


def test_facts_stay_while_their_sidecar_cannot_be_read(library, photos, monkeypatch):
    xmp(photos / "red.xmp")
    library.add(photos)
    xmp(photos / "red.xmp", taken=NEW_YEAR, Rating="2")
    opened = Path.open

    def fail(self: Path, *given: Any, **named: Any) -> Any:
        if self.name == "red.xmp":
            raise PermissionError(13, "Permission denied")
        return opened(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        library.add(photos)
    assert [failure.reason for failure in library.failures] == ["permission denied"]
    assert known(library)["taken_at"] == SUMMER
    library.add(photos)
    assert (known(library)["taken_at"], library.failures) == (NEW_YEAR, [])


# ---------------------------------------------------------------------- runs over parts


def test_a_photo_that_is_named_alone_follows_its_sidecars(toy, photos, tmp_path):
    photo = photos / "red.png"
    with mmsearch.index(photo, into=tmp_path / "idx") as library:
        xmp(photos / "red.xmp")
        xmp(photos / "green.xmp")
        assert counts(library.add(photo)) == {"updated": 1}
        assert known(library)["taken_at"] == SUMMER
        (photos / "red.xmp").unlink()
        assert counts(library.add()) == {"updated": 1}
        assert "taken_at" not in known(library)
        xmp(photos / "red.xmp")
        assert counts(library.add(photos / "red.xmp")) == {"updated": 1}
        assert names(library) == ["red.png"]


def test_a_change_of_a_sidecar_updates_its_photo_in_a_watched_folder(library, photos):
    sidecar = photos / "deep" / "blue.xmp"
    xmp(sidecar)
    assert counts(library.refresh([sidecar])) == {"updated": 1}
    assert known(library, "blue.png")["taken_at"] == SUMMER
    xmp(sidecar, taken=NEW_YEAR, Rating="1")
    assert counts(library.refresh([sidecar], unsettled=[str(sidecar)])) == {}  # it waits
    assert counts(library.refresh([sidecar])) == {"updated": 1}
    sidecar.unlink()
    assert counts(library.refresh([sidecar])) == {"updated": 1}
    assert "taken_at" not in known(library, "blue.png")
    (photos / "package.json").write_text("{}")
    assert library.refresh([photos / "package.json"]).unchanged == 0


# ---------------------------------------------------------------------- RAW photos


@pytest.fixture
def pair(toy, photos):
    """A JPEG with its RAW photo, which looks otherwise so that it is no copy."""
    pytest.importorskip("rawpy")
    from PIL import Image
    from raw_photos import dng

    Image.new("RGB", (32, 24), "white").save(photos / "white.jpg")
    (photos / "white.dng").write_bytes(dng(Image.new("RGB", (64, 48), "blue")))
    return photos


def test_a_raw_photo_beside_its_jpeg_is_one_item_until_both_are_wanted(pair, toy, tmp_path):
    with mmsearch.index(pair, into=tmp_path / "idx") as library:
        alone = names(library)
        assert alone == ["blue.png", "green.png", "red.png", "white.jpg"]
        assert counts(library.add(pair, raw_pairs="both")) == {"added": 1, "unchanged": 4}
        assert names(library) == sorted([*alone, "white.dng"])
        assert counts(library.add()) == {"unchanged": 5}  # it is remembered
        assert counts(library.add(raw_pairs="one")) == {"removed": 1, "unchanged": 4}
        assert names(library) == alone
        (pair / "white.jpg").unlink()
        assert counts(library.add()) == {"added": 1, "removed": 1, "unchanged": 3}
        assert "white.dng" in names(library)


def test_a_raw_photo_that_is_named_leaves_the_index_with_its_pair(pair, tmp_path):
    both = [pair / "white.jpg", pair / "white.dng"]
    with mmsearch.index(both, into=tmp_path / "idx", raw_pairs="both") as library:
        assert names(library) == ["white.dng", "white.jpg"]
        assert counts(library.add(both, raw_pairs="one")) == {"removed": 1, "unchanged": 1}
        assert names(library) == ["white.jpg"]


def test_pairs_are_one_or_both(library, photos):
    with pytest.raises(InvalidOption, match="one or both"):
        library.add(photos, raw_pairs="two")
    run = CliRunner().invoke(app, ["index", str(photos), "--raw-pairs", "two"])
    assert run.exit_code == 2


def test_the_command_takes_raw_pairs(pair, tmp_path, monkeypatch):
    monkeypatch.setenv("MMSEARCH_INDEX", str(tmp_path / "idx"))
    runner = CliRunner()
    assert "added 4" in runner.invoke(app, ["index", str(pair)]).stderr
    assert "added 1" in runner.invoke(app, ["index", "--raw-pairs", "both"]).stderr


# ---------------------------------------------------------------------- films


@pytest.fixture
def film(photos):
    """Writes a video of some seconds."""
    pytest.importorskip("av")
    import numpy as np
    from test_video import written

    def write(name: str, seconds: int) -> Path:
        grey = np.full((32, 32, 3), 128, np.uint8)
        return written(photos / name, [(grey, seconds)], rate=1)

    return write


def test_the_film_of_a_live_photo_is_no_video(toy, photos, film, tmp_path, monkeypatch):
    shutil.copy(photos / "red.png", photos / "red.jpg")
    film("red.MOV", 3)
    film("other.mov", 3)
    with mmsearch.index(photos, into=tmp_path / "idx", video=True) as library:
        assert names(library) == ["blue.png", "green.png", "other.mov", "red.jpg", "red.png"]
        monkeypatch.setattr("mmsearch.media.video.seconds", lambda _: pytest.fail("was read"))
        assert counts(library.add()) == {"unchanged": 5}
        (photos / "red.jpg").unlink()
        assert counts(library.add()) == {"added": 1, "removed": 1, "unchanged": 4}
        assert "red.MOV" in names(library)


def test_a_long_film_beside_a_still_is_a_video(toy, photos, film, tmp_path, monkeypatch):
    shutil.copy(photos / "red.png", photos / "red.jpg")
    film("red.mov", 15)
    with mmsearch.index(photos, into=tmp_path / "idx", video=True) as library:
        assert names(library) == ["blue.png", "green.png", "red.jpg", "red.mov", "red.png"]
        with monkeypatch.context() as patch:
            patch.setattr("mmsearch.media.video.seconds", lambda _: pytest.fail("was read"))
            assert counts(library.add()) == {"unchanged": 5}
        film("red.mov", 2)
        assert counts(library.add()) == {"updated": 1, "removed": 1, "unchanged": 3}
        film("red.mov", 12)
        assert counts(library.add()) == {"added": 1, "updated": 1, "unchanged": 3}


def test_a_film_that_was_an_item_of_an_earlier_version_is_none_any_more(
    toy, photos, film, tmp_path, monkeypatch
):
    film("red.mov", 3)
    with mmsearch.index(photos, into=tmp_path / "idx", video=True) as library:
        assert "red.mov" in names(library)
        shutil.copy(photos / "red.png", photos / "red.jpg")
        monkeypatch.setattr("mmsearch.media.video.seconds", lambda _: pytest.fail("was read"))
        assert counts(library.add()) == {"added": 1, "removed": 1, "unchanged": 3}
        assert "red.mov" not in names(library)


def test_a_still_that_is_named_alone_is_no_reason_to_index_its_film(toy, photos, film, tmp_path):
    shutil.copy(photos / "red.png", photos / "red.jpg")
    film("red.mov", 15)
    still = photos / "red.jpg"
    with mmsearch.index(still, into=tmp_path / "idx", video=True) as library:
        assert names(library) == ["red.jpg"]
        film("red.mov", 2)
        assert counts(library.add(photos / "red.mov")) == {"updated": 1}
        assert names(library) == ["red.jpg"]


def test_a_film_that_cannot_be_read_is_a_failure(toy, photos, tmp_path):
    pytest.importorskip("av")
    shutil.copy(photos / "red.png", photos / "red.jpg")
    (photos / "red.mov").write_bytes(b"\0\0\0\x14ftypqt  ")
    with mmsearch.index(photos, into=tmp_path / "idx", video=True) as library:
        assert failed(library) == ["red.mov"]
        assert "red.jpg" in names(library)


def test_a_film_counts_as_passed_over_only_without_its_still(toy, photos, tmp_path):
    for name in ("red.mov", "other.mov"):
        (photos / name).write_bytes(b"x")
    shutil.copy(photos / "red.png", photos / "red.jpg")
    with mmsearch.index(photos, into=tmp_path / "idx") as library:
        assert [group["files"] for group in library.status()["passed_over"]] == [1]


def test_a_sidecar_tells_of_a_video(toy, photos, film, tmp_path):
    film("trip.mp4", 2)
    takeout(photos / "trip.mp4.json")
    with mmsearch.index(photos, into=tmp_path / "idx", video=True) as library:
        assert known(library, "trip.mp4")["taken_at"].startswith("2018")
        xmp(photos / "trip.xmp", taken=NEW_YEAR)
        assert counts(library.add()) == {"updated": 1, "unchanged": 3}
        assert known(library, "trip.mp4")["taken_at"] == NEW_YEAR
