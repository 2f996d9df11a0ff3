"""Sounds, videos, PDFs and words in media, from the file to the hit."""

from __future__ import annotations

import importlib
import io
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, Ear, paint, tone
from PIL import Image, ImageDraw, ImageFont
from raw_photos import dng

import mmsearch
from mmsearch import Span
from mmsearch.encoders.family import SingleModel
from mmsearch.encoders.registry import REGISTRY
from mmsearch.errors import InvalidOption, MissingExtra, PathNotFound
from mmsearch.media import kinds


@pytest.fixture
def sounds(toy, tmp_path: Path) -> Path:
    folder = tmp_path / "sounds"
    tone(folder / "low.wav", "low")
    tone(folder / "long.flac", "middle", "middle", "high", "middle")  # 20 s
    return folder


def one(hits):
    assert hits
    return hits[0]


# ---------------------------------------------------------------------- sounds


def test_a_sound_is_one_item_found_by_its_best_window(sounds, tmp_path):
    with mmsearch.index(sounds, tmp_path / "i", model="ear") as library:
        assert library.report.added == 2
        hit = one(library.search("high"))
        assert (Path(hit.path).name, hit.modality) == ("long.flac", "audio")
        assert hit.span == Span(10, 15, "second")
        assert hit.metadata["seconds"] == 20
        assert hit.signals["audio"].rank == 1


def test_spans_shows_each_window(sounds, tmp_path):
    with mmsearch.index(sounds, tmp_path / "i", model="ear") as library:
        hits = library.search("middle", k=20, spans=True)
        found = [hit.span for hit in hits if hit.path.endswith("long.flac")]
        assert sorted(span.start for span in found) == [0, 2.5, 5, 7.5, 10, 12.5, 15]
        assert found[-1] == Span(10, 15, "second")
        assert [hit.rank for hit in hits] == list(range(1, 9))
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert library.search("middle", k=2, spans=True) == hits[:2]


def test_an_ending_is_added_in_one_place(toy, tmp_path, monkeypatch):
    tone(tmp_path / "s" / "low.wav", "low").rename(tmp_path / "s" / "low.snd")
    with mmsearch.index(tmp_path / "s", tmp_path / "i", model="ear") as library:
        assert len(library) == 0
        monkeypatch.setitem(kinds.FORMATS, ".snd", kinds.Format("audio"))
        library.add()
        hit = one(library.search("low"))
        assert (Path(hit.path).name, hit.modality) == ("low.snd", "audio")


def test_a_sound_finds_sounds_and_itself_is_left_out_by_similar(sounds, tmp_path):
    with mmsearch.index(sounds, tmp_path / "i", model="ear") as library:
        hits = library.search(mmsearch.Query.audio(sounds / "low.wav"))
        assert [Path(hit.path).name for hit in hits] == ["low.wav", "long.flac"]
        (other,) = library.similar(sounds / "low.wav")
        assert Path(other.path).name == "long.flac"


def test_the_same_sound_has_the_same_vectors_bit_for_bit(sounds, tmp_path):
    found = []
    for name in ("i", "j"):
        with mmsearch.index(sounds, tmp_path / name, model="ear") as library:
            found.append(
                library.store.vectors.of(library.store.spaces.all()[0], "audio")[1].tobytes()
            )
    assert found[0] == found[1]


def test_a_text_beside_a_sound_is_its_caption(sounds, tmp_path):
    (sounds / "low.txt").write_text("a fog horn")
    with mmsearch.index(sounds, tmp_path / "i", model="ear") as library:
        hit = one(library.search("low"))
        assert (Path(hit.path).name, hit.caption) == ("low.wav", "a fog horn")


def test_sounds_that_no_model_hears_are_passed_over_and_it_is_said(sounds, tmp_path):
    paint(sounds / "red.png", "red")
    with mmsearch.index(sounds, tmp_path / "i", model="toy") as library:
        assert len(library) == 1
        assert "2 sounds" in " ".join(library.report.warnings)


def test_a_damaged_sound_is_a_failure_and_the_others_go_on(sounds, tmp_path):
    (sounds / "zip.wav").write_bytes(b"PK\x03\x04" + bytes(500))
    (sounds / "empty.mp3").touch()
    with mmsearch.index(sounds, tmp_path / "i", model="ear") as library:
        assert (library.report.added, library.report.skipped) == (2, 2)
        assert {Path(f.path).name: f.reason for f in library.failures}["empty.mp3"] == "0 bytes"


def test_a_sound_that_breaks_off_is_found_by_what_is_left_and_it_is_said(toy, tmp_path):
    path = tone(tmp_path / "s" / "cut.wav", "high", "low", "middle")  # 15 s
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    tone(tmp_path / "s" / "whole.wav", "low")
    with mmsearch.index(tmp_path / "s", tmp_path / "i", model="ear") as library:
        assert (library.report.added, library.report.skipped) == (2, 0)
        (said,) = [one for one in library.report.warnings if "truncated" in one]
        assert "cut.wav" in said
        assert "whole.wav" not in said
        hit = one(library.search("high"))
        assert Path(hit.path).name == "cut.wav"
        assert hit.metadata["seconds"] == pytest.approx(7.5, abs=0.1)
        library.add()
        assert library.report.unchanged == 2


def test_ctrl_c_does_not_wait_for_a_long_sound_to_end(toy, tmp_path, monkeypatch):
    class Slow(Ear):
        windows = 0

        def encode(self, modality, batch):
            if modality == "audio":
                if not Slow.windows:
                    signal.setitimer(signal.ITIMER_REAL, 0.2)
                Slow.windows += len(batch)
                time.sleep(0.05)
            return super().encode(modality, batch)

    monkeypatch.setitem(REGISTRY, "ear", SingleModel("ear", Slow))
    tone(tmp_path / "s" / "a.wav", *["low"] * 12, seconds=100)  # 480 windows

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            mmsearch.index(tmp_path / "s", tmp_path / "i", model="ear")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert 0 < Slow.windows < 400


@pytest.mark.parametrize("ending", ["jfif", "jpe", "JFIF", "mpo", "hif", "dib", "jp2", "pnm"])
def test_photos_with_rarer_endings_are_taken_in(toy, tmp_path, ending):
    paint(tmp_path / "p" / "red.png", "red").rename(tmp_path / "p" / f"red.{ending}")
    with mmsearch.index(tmp_path / "p", tmp_path / "i") as library:
        assert one(library.search("red")).path.endswith(ending)


# ---------------------------------------------------------------------- bringing it all up to date


def test_without_paths_everything_indexed_before_is_brought_up_to_date(toy, photos, tmp_path):
    with mmsearch.index(photos, tmp_path / "i") as library:
        paint(photos / "white.png", "white")
        library.add()
        assert library.report.added == 1


def test_without_paths_files_that_were_named_one_by_one_stay_alone(toy, photos, tmp_path):
    with mmsearch.index(photos / "red.png", tmp_path / "i") as library:
        library.add()
        assert len(library) == 1
        library.add(photos)
        paint(photos / "white.png", "white")
        library.add()
        assert len(library) == 4


def test_a_path_that_is_not_there_is_said(toy, photos, tmp_path):
    with mmsearch.index(photos, tmp_path / "i") as library, pytest.raises(PathNotFound):
        library.add("/nowhere")


# ---------------------------------------------------------------------- videos


def film(path: Path, *scenes: tuple[str, float], sound: str | None = None) -> Path:
    """A video of coloured scenes of some seconds each, with a tone if asked for."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        picture = out.add_stream("mpeg4", rate=10)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        voice = out.add_stream("aac", rate=16_000) if sound else None
        for colour, seconds in scenes:
            for _ in range(round(seconds * 10)):
                frame = np.full((48, 64, 3), COLOURS[colour], np.uint8)
                out.mux(picture.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(picture.encode())
        if voice is not None:
            from conftest import PITCHES

            length = round(sum(seconds for _, seconds in scenes) * 16_000)
            wave = 0.5 * np.sin(2 * np.pi * PITCHES[sound] * np.arange(length) / 16_000)
            for start in range(0, length, 1024):
                some = wave[None, start : start + 1024].astype(np.float32)
                piece = av.AudioFrame.from_ndarray(some, format="fltp", layout="mono")
                piece.sample_rate, piece.pts = 16_000, start
                out.mux(voice.encode(piece))
            out.mux(voice.encode())
    return path


def test_a_video_is_found_by_its_shots_and_by_its_sound(toy, tmp_path):
    film(tmp_path / "v" / "a.mp4", ("red", 4), ("blue", 5), sound="high")
    film(tmp_path / "v" / "b.mp4", ("green", 6), sound="low")
    into = tmp_path / "i"
    with mmsearch.index(tmp_path / "v", into, model=["toy", "ear"], video=True) as library:
        hit = one(library.search("blue"))
        assert (Path(hit.path).name, hit.modality) == ("a.mp4", "video")
        assert hit.span.unit == "second"
        assert hit.span.start == pytest.approx(4, abs=1)
        assert hit.span.end == pytest.approx(9, abs=0.3)
        assert Path(one(library.search("low", target="audio")).path).name == "b.mp4"
        assert hit.metadata["seconds"] == pytest.approx(9, abs=0.3)


@pytest.mark.parametrize("ending", [".mts", ".m2ts", ".wmv", ".flv", ".vob", ".ogv", ".3g2"])
def test_videos_of_cameras_and_discs_are_taken_in(toy, tmp_path, ending):
    codecs = {".wmv": "wmv2", ".flv": "flv1", ".ogv": "libtheora", ".vob": "mpeg2video"}
    av = pytest.importorskip("av")
    path = tmp_path / "v" / f"a{ending}"
    path.parent.mkdir()
    with av.open(str(path), "w") as out:
        try:
            picture = out.add_stream(codecs.get(ending, "mpeg4"), rate=25)
        except (ValueError, av.error.FFmpegError, av.codec.codec.UnknownCodecError):
            pytest.skip("no such encoder here")
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        frame = np.full((48, 64, 3), COLOURS["red"], np.uint8)
        for _ in range(50):
            out.mux(picture.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(picture.encode())
    with mmsearch.index(
        tmp_path / "v", tmp_path / "i", model=["toy", "ear"], video=True
    ) as library:
        assert Path(one(library.search("red")).path) == path
        assert not library.report.failures


def test_videos_are_passed_over_until_asked_for_and_then_remembered(toy, tmp_path):
    film(tmp_path / "v" / "a.mp4", ("red", 2))
    with mmsearch.index(tmp_path / "v", tmp_path / "i") as library:
        assert len(library) == 0
        (warning,) = library.report.warnings
        assert warning == "passed over 1 video (to include videos: `mmsearch index --video`)"
        library.add(video=True)
        library.add(tmp_path / "v")
        assert (len(library), library.report.unchanged) == (1, 1)
        library.add(video=False)
        assert len(library) == 0


def test_a_second_model_is_given_videos_too(toy, tmp_path):
    film(tmp_path / "v" / "a.mp4", ("red", 4), ("blue", 5), sound="high")
    mmsearch.index(tmp_path / "v", tmp_path / "i", video=True).close()
    with mmsearch.index(tmp_path / "v", tmp_path / "i", model=["second", "ear"]) as library:
        assert one(library.search("blue")).span.start == pytest.approx(4, abs=1)
        assert library.encoder.name == "second"
        assert one(library.search("high", target="audio")).modality == "video"


def test_what_needs_a_package_that_is_not_there_is_said_before_anything_is_done(
    toy, photos, tmp_path, monkeypatch
):
    def missing():
        raise MissingExtra("--video", "av")

    monkeypatch.setattr("mmsearch.media.video.require", missing)
    with pytest.raises(MissingExtra, match=r"pip install 'mmsearch\[av\]'"):
        mmsearch.index(photos, tmp_path / "i", video=True)
    with mmsearch.open(tmp_path / "i") as library:
        assert len(library) == 0
        library.add(photos)  # what could not be turned on is not remembered
        assert len(library) == 3


# ---------------------------------------------------------------------- documents


def pdf(path: Path, *pages: str) -> Path:
    """A PDF of coloured pages with a line of text each."""
    pytest.importorskip("pypdfium2")
    path.parent.mkdir(parents=True, exist_ok=True)
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    kids = []
    for text in pages:
        red, green, blue = (c / 255 for c in COLOURS[text.split()[0]])
        drawn = f"{red} {green} {blue} rg 0 0 200 200 re f 0 g BT /F1 9 Tf 5 190 Td ({text}) Tj ET"
        kids.append(f"{len(objects) + 1} 0 R")
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] /Resources << /Font << /F1 << "
            "/Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> "
            f"/Contents {len(objects) + 2} 0 R >>"
        )
        objects.append(f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    out = b"%PDF-1.4\n"
    places = []
    for number, body in enumerate(objects, start=1):
        places.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    out += (
        f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\n"
        f"startxref\n{len(out)}\n%%EOF\n"
    ).encode()
    path.write_bytes(out)
    return path


def test_a_pdf_is_found_by_what_its_pages_say_and_look_like(toy, tmp_path):
    pdf(tmp_path / "d" / "a.pdf", "red one", "blue two", "green three")
    pdf(tmp_path / "d" / "b.pdf", "white four")
    with mmsearch.index(tmp_path / "d", tmp_path / "i", pdf=True) as library:
        seen = one(library.search("green"))
        assert (seen.modality, seen.span) == ("document", Span(3, 3, "page"))
        read = one(library.search("blue two", target="text"))
        assert (read.span, read.caption) == (Span(2, 2, "page"), "blue two")
        assert read.metadata["pages"] == 3
        both = one(library.search("blue two", target=["image", "text"]))
        assert both.span == Span(2, 2, "page")


def test_each_page_of_a_pdf_is_a_hit_of_its_own_with_spans(toy, tmp_path):
    pdf(tmp_path / "d" / "a.pdf", "red one", "blue two", "green three")
    with mmsearch.index(tmp_path / "d", tmp_path / "i", pdf=True) as library:
        hits = library.search("blue", target=["image", "text"], spans=True, k=5)
        assert hits[0].span.start == 2
        assert sorted(hit.span.start for hit in hits) == [1, 2, 3]
        assert hits[0].signals.keys() == {"image", "text", "words"}
        assert hits[0].caption == "blue two"


# ---------------------------------------------------------------------- words in pictures


def written(path: Path, *lines: str) -> Path:
    picture = Image.new("RGB", (700, 300), "white")
    draw = ImageDraw.Draw(picture)
    for row, line in enumerate(lines):
        draw.text((30, 30 + 90 * row), line, "black", font=ImageFont.load_default(size=48))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return path


def test_writing_in_pictures_becomes_text_when_asked_for_later_too(toy, tmp_path):
    pytest.importorskip("rapidocr")
    written(tmp_path / "p" / "sign.png", "BLUE LAGOON", "Open all day")
    paint(tmp_path / "p" / "red.png", "red")
    with mmsearch.index(tmp_path / "p", tmp_path / "i") as library:
        assert library.status()["vectors"] == {"image": 2}
        before = toy.encoded["image"]
        library.add(ocr=True)
        assert toy.encoded["image"] == before  # what is stored is not encoded again
        hit = one(library.search("blue lagoon", target="text"))
        assert Path(hit.path).name == "sign.png"
        (item,) = (item for item in library.items if item.path.endswith("sign.png"))
        assert {part.origin for part in item.texts} == {"ocr"}
        library.add()
        assert (library.report.updated, library.report.unchanged) == (0, 2)


def test_a_caption_stays_beside_the_writing_that_was_read(toy, tmp_path):
    pytest.importorskip("rapidocr")
    written(tmp_path / "p" / "sign.png", "BLUE LAGOON")
    (tmp_path / "p" / "sign.txt").write_text("our red holiday")
    with mmsearch.index(tmp_path / "p", tmp_path / "i", ocr=True) as library:
        (item,) = library.items
        assert [part.origin for part in item.texts] == ["ocr", "sidecar"]
        assert one(library.search("white")).caption == "our red holiday"


def test_a_limit_without_sense_is_refused(toy, photos, tmp_path):
    with pytest.raises(InvalidOption):
        mmsearch.index(photos, tmp_path / "i", max_megapixels=0)


# ---------------------------------------------------------------------- packages that are broken


def jpeg_xl(picture: Image.Image) -> bytes:
    importlib.import_module("pillow_jxl")
    out = io.BytesIO()
    picture.save(out, "JXL")
    return out.getvalue()


def pdf_page(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PDF")
    return out.getvalue()


@pytest.mark.parametrize(
    ("package", "extra", "ending", "make"),
    [
        ("rawpy", "raw", ".dng", dng),
        ("pillow_jxl", "jxl", ".jxl", jpeg_xl),
        ("pypdfium2", "pdf", ".pdf", pdf_page),
        ("anydoc", "docs", ".rtf", lambda _: rb"{\rtf1 Words.\par}"),
    ],
)
def test_a_package_that_cannot_be_imported_is_no_damage_of_the_file(
    toy, tmp_path, monkeypatch, package, extra, ending, make
):
    pytest.importorskip(package)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / f"a{ending}").write_bytes(make(Image.new("RGB", (64, 64), "red")))
    (tmp_path / "broken" / package).mkdir(parents=True)
    why = "libgomp.so.1: cannot open shared object file"
    (tmp_path / "broken" / package / "__init__.py").write_text(f"raise ImportError({why!r})")
    with monkeypatch.context() as broken:
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            broken.delitem(sys.modules, name)
        broken.syspath_prepend(tmp_path / "broken")
        library = mmsearch.index(tmp_path / "files", tmp_path / "i", pdf=ending == ".pdf")
        (failure,) = library.report.failures
        assert why in failure.reason
        assert f"pip install --force-reinstall 'mmsearch[{extra}]'" in failure.reason
    with library:
        library.add()  # the file is as it was
        assert (library.report.added, library.report.failures) == (1, [])
