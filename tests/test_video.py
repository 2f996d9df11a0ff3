# Videos give local times without a zone, as photos do.
# ruff: noqa: DTZ001

import io
import subprocess
import sys
import zipfile
from datetime import UTC, datetime
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmsearch.errors import MissingExtra, UnreadableFile
from mmsearch.media import shots, video

av = pytest.importorskip("av")

RED, GREEN, BLUE, GREY = (220, 20, 20), (20, 200, 30), (20, 30, 220), (128, 128, 128)


def plain(colour, size=(160, 90)):
    return np.broadcast_to(np.uint8(colour), (size[1], size[0], 3))


def view(seed, size=(160, 90)):
    """Something like a photo: areas and texture."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (5, 8, 3), dtype=np.uint8))
    fine = Image.fromarray(random.integers(0, 256, (45, 80, 3), dtype=np.uint8))
    return np.asarray(Image.blend(coarse.resize(size), fine.resize(size), 0.25))


def written(
    path, pictures, codec="libx264", rate=25, times=None, sound=False, tags=None, **options
):
    """A video of (picture, frames) pairs, or of pictures."""
    with av.open(str(path), "w", options=options.pop("container", {})) as container:
        container.metadata.update(tags or {})
        stream = container.add_stream(codec, rate=rate)
        stream.options = {key: str(value) for key, value in options.items()}
        listener = container.add_stream("aac", rate=16_000) if sound else None
        number = 0
        for item in pictures:
            picture, count = item if isinstance(item, tuple) else (item, 1)
            for _ in range(count):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                if number == 0:
                    stream.width, stream.height, stream.pix_fmt = (
                        frame.width,
                        frame.height,
                        "yuv420p",
                    )
                frame.pts = number if times is None else round(times[number] * 1000)
                frame.time_base = Fraction(1, rate) if times is None else Fraction(1, 1000)
                container.mux(stream.encode(frame))
                number += 1
        container.mux(stream.encode())
        if listener:
            silence = np.zeros((1, 1024), np.float32)
            for index in range(16):
                heard = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
                heard.sample_rate, heard.pts = 16_000, index * 1024
                container.mux(listener.encode(heard))
            container.mux(listener.encode())
    return path


def starts(path):
    return [frame.span.start for frame in video.frames(path, at_least=20)]


def colour_of(picture):
    return tuple(picture.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0)))


def is_near(one, other, by=20):
    return np.abs(np.subtract(one, other, dtype=float)).max() <= by


def refused(path):
    """The reason for which a file is not read."""
    reasons = set()
    for read in (lambda: list(video.frames(path, at_least=20)), lambda: video.info(path)):
        with pytest.raises(UnreadableFile) as caught:
            read()
        reasons.add(str(caught.value))
    (reason,) = reasons
    return reason


# ---------------------------------------------------------------------- frames of the whole


def test_frames_at_a_rate_show_each_moment(tmp_path):
    path = written(tmp_path / "a.mp4", [(plain(RED), 55), (plain(GREEN), 25), (plain(BLUE), 45)])
    for rate, colours in ((1, "RRRGB"), (0.5, "RR"), (0.4, "RG"), (0.1, "R"), (2, "RRRRRGGBBB")):
        found = video.frames_at_rate(path, rate, seconds=5.0, side=45)
        assert found.shape == (len(colours), 45, 80, 3)
        expected = [{"R": RED, "G": GREEN, "B": BLUE}[letter] for letter in colours]
        shown = found.mean(axis=(1, 2))
        assert all(map(is_near, shown, expected))


def test_a_video_of_few_frames_gives_them_more_than_once(tmp_path):
    path = written(tmp_path / "a.mp4", [(plain(RED), 2), (plain(BLUE), 2)])
    assert len(video.frames_at_rate(path, 50, seconds=0.16, side=45)) == 8


# ---------------------------------------------------------------------- shots

KINDS = {
    "one key frame at all": ("a.mp4", "libx264", {"g": 1000, "sc_threshold": 0}),
    "key frames at cuts": ("a.mkv", "libx264", {}),
    "two key frames a second": ("a.avi", "mpeg4", {"g": 12}),
    "mpeg": ("a.mpg", "mpeg2video", {"g": 12}),
    "webm": ("a.webm", "libvpx", {"deadline": "realtime"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_shot_has_one_frame_that_begins_at_the_cut(tmp_path, kind):
    name, codec, options = KINDS[kind]
    colours = [RED, GREEN, BLUE, GREY]
    path = written(tmp_path / name, [(plain(c), 50) for c in colours], codec, **options)
    found = list(video.frames(path, at_least=20))
    assert len(found) == 4
    for frame, colour, cut in zip(found, colours, (0, 2, 4, 6), strict=True):
        assert abs(frame.span.start - cut) <= (
            0.55 if "key frames a" in kind or kind == "mpeg" else 0.2
        )
        assert is_near(colour_of(frame.picture), colour)


def test_cuts_are_found_between_noisy_pictures_that_move(tmp_path):
    random = np.random.default_rng(3)
    pictures = []
    for shot in range(4):
        wide = view(shot, (260, 100))
        for step in range(60):
            part = wide[5:95, step : step + 160].astype(int)
            pictures.append(np.uint8(np.clip(part + random.normal(0, 6, part.shape), 0, 255)))
    found = starts(written(tmp_path / "a.mp4", pictures))
    assert found == pytest.approx([0, 2.4, 4.8, 7.2], abs=0.2)


def test_a_long_shot_has_a_frame_every_ten_seconds(tmp_path):
    path = written(tmp_path / "a.mp4", [(view(1), 300)], rate=10)
    spans = [frame.span for frame in video.frames(path, at_least=20)]
    assert len(spans) == 4
    assert max(span.end - span.start for span in spans) <= 10.1


def test_a_flash_makes_no_shot(tmp_path):
    pictures = [(view(1), 40), (plain((255, 255, 255)), 6), (view(1), 40)]
    assert starts(written(tmp_path / "a.mp4", pictures)) == [0]


@pytest.mark.parametrize("seconds_between_keys", [1, 20])
def test_a_pan_makes_no_shots(tmp_path, seconds_between_keys):
    wide = view(4, (480, 90))
    pictures = [wide[:, 3 * step // 2 : 3 * step // 2 + 160] for step in range(200)]
    path = written(tmp_path / "a.mp4", pictures, g=25 * seconds_between_keys, sc_threshold=0)
    assert starts(path) == [0]


def test_a_cut_is_the_border_though_a_picture_has_just_become_due(tmp_path):
    path = written(tmp_path / "a.mp4", [(view(1), 93), (view(2), 40)], rate=10)
    assert starts(path) == pytest.approx([0, 9.4], abs=0.15)


def test_flicker_makes_no_storm(tmp_path):
    pictures = [(view(1), 4), (view(2), 4)] * 20
    assert len(starts(written(tmp_path / "a.mp4", pictures))) <= 3


def test_a_dissolve_makes_one_shot_more(tmp_path):
    one, other = view(1).astype(float), view(2).astype(float)
    between = [np.uint8(one + (other - one) * step / 40) for step in range(40)]
    path = written(tmp_path / "a.mp4", [(view(1), 75), *between, (view(2), 75)])
    found = list(video.frames(path, at_least=45))
    assert 2 <= len(found) <= 3
    assert is_near(np.asarray(found[-1].picture).mean((0, 1)), other.mean((0, 1)), 6)


def test_a_picture_is_taken_clear_of_a_blended_cut(tmp_path):
    blend = np.uint8((view(1).astype(int) + view(2)) // 2)
    path = written(tmp_path / "a.mp4", [(view(1), 50), (blend, 3), (view(2), 50)])
    found = list(video.frames(path, at_least=45))
    assert len(found) == 2
    difference = np.asarray(found[1].picture, int) - view(2)
    assert np.abs(difference).mean() < 12


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(0.04, 25)), min_size=1, max_size=12),
    st.sampled_from([0.04, 0.12, 0.5, 1.0]),
)
def test_spans_are_contiguous_and_reach_from_0_to_the_end(stretches, step):
    glances = [np.full((2, 2, 3), level / 4, np.float32) for level in range(5)]
    finder, found, time, end = shots.ShotFinder(), [], 0.0, 0.0
    for level, length in stretches:
        end += length
        while time < end:
            found.append(finder.feed(time, glances[level], level))
            time += step
    found = [*filter(None, found), *finder.finish(time)]
    assert found[0].start == 0
    assert found[-1].end == time
    assert all(one.end == other.start for one, other in pairwise(found))
    assert all(0 < shot.end - shot.start <= 10 + step for shot in found)


# ---------------------------------------------------------------------- pictures

TURNS = {  # the matrix of a track header: where x and y of a stored pixel go (ISO 14496-12, 8.3.2)
    0: ("00010000 00000000", "00000000 00010000", "left top"),
    90: ("00000000 00010000", "ffff0000 00000000", "right top"),
    180: ("ffff0000 00000000", "00000000 ffff0000", "right bottom"),
    270: ("00000000 ffff0000", "00010000 00000000", "left bottom"),
    "mirrored": ("ffff0000 00000000", "00000000 00010000", "right top"),
    "upside down": ("00010000 00000000", "00000000 ffff0000", "left bottom"),
    "mirrored, 90": ("00000000 ffff0000", "ffff0000 00000000", "right bottom"),
    "mirrored, 270": ("00000000 00010000", "00010000 00000000", "left top"),
}


@pytest.mark.parametrize("turned", TURNS)
def test_a_video_of_a_turned_phone_comes_upright(tmp_path, turned):
    picture = plain(GREY).copy()
    picture[:45, :80] = BLUE
    path = written(tmp_path / "a.mp4", [(picture, 10)])
    across, down, corner = TURNS[turned]
    identity = bytes.fromhex("00010000 00000000 00000000 00000000 00010000")
    matrix = bytes.fromhex(across) + bytes(4) + bytes.fromhex(down)
    data = path.read_bytes()
    place = data.index(identity, data.index(b"tkhd"))
    path.write_bytes(data[:place] + matrix + data[place + len(matrix) :])
    (frame,) = video.frames(path, at_least=40)
    width, height = frame.picture.size
    info = video.info(path)
    is_high = across.startswith("00000000")
    assert (info.width, info.height) == ((90, 160) if is_high else (160, 90))
    assert (width > height) == (info.width > info.height)
    pixels = np.asarray(frame.picture).astype(int)
    rows, columns = np.nonzero(pixels[:, :, 2] - pixels[:, :, 0] > 90)
    found = "left" if columns.mean() < width / 2 else "right"
    assert f"{found} {'top' if rows.mean() < height / 2 else 'bottom'}" == corner


@pytest.mark.parametrize(
    ("primaries", "transfer", "written_as", "seen_as"),
    [
        ("bt709", "bt709", (200, 60, 60), (200, 60, 60)),
        ("smpte432", "iec61966-2-1", (184, 75, 66), (200, 60, 60)),  # Display P3
        ("bt2020", "arib-std-b67", (161, 161, 161), (188, 188, 188)),  # HLG: half of white
    ],
)
def test_a_video_is_seen_in_the_colours_that_it_states(
    tmp_path, primaries, transfer, written_as, seen_as
):
    options = {"x264-params": f"colorprim={primaries}:transfer={transfer}"}
    path = written(tmp_path / "a.mp4", [(plain(written_as), 10)], **options)
    [frame] = video.frames(path, at_least=20)
    assert is_near(colour_of(frame.picture), seen_as, by=6)


@pytest.mark.parametrize(
    ("size", "stated", "chroma"),
    [
        ((320, 180), None, (93, 113, 197)),
        ((1280, 720), None, (81, 121, 197)),
        ((320, 180), "bt709", (81, 121, 197)),
        ((1280, 720), "smpte170m", (93, 113, 197)),
    ],
)
def test_colours_of_unstated_matrix_are_those_that_players_show(tmp_path, size, stated, chroma):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height = size
        stream.options = {"x264-params": f"colormatrix={stated}"} if stated else {}
        for _ in range(3):
            frame = av.VideoFrame(*size, "yuv420p")
            for plane, level in zip(frame.planes, chroma, strict=True):
                plane.update(bytes([level]) * plane.buffer_size)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    [frame] = video.frames(path, at_least=20)
    assert is_near(colour_of(frame.picture), (200, 40, 60), by=4)


def test_pictures_are_shrunk_to_twice_what_is_asked_for(tmp_path):
    path = written(tmp_path / "a.mp4", [(view(1, (320, 180)), 5)])
    (small,) = video.frames(path, at_least=30)
    (whole,) = video.frames(path, at_least=300)
    assert small.picture.size == (107, 60)
    assert whole.picture.size == (320, 180)
    assert small.picture.mode == "RGB"


def test_pixels_that_are_not_square_are_evened_out(tmp_path):
    path = tmp_path / "a.mp4"
    written(path, [(view(1), 5)], **{"x264-params": "sar=2/1"})
    (frame,) = video.frames(path, at_least=300)
    assert frame.picture.size == (320, 90)
    assert (video.info(path).width, video.info(path).height) == (320, 90)


# ---------------------------------------------------------------------- what the file says


def test_length_size_and_sound_are_told(tmp_path):
    path = written(tmp_path / "a.mp4", [(view(1), 50)])
    info = video.info(path)
    assert (info.seconds, info.width, info.height, info.taken_at) == (2.0, 160, 90, None)
    assert not video.has_sound(path)
    assert video.has_sound(written(tmp_path / "b.mp4", [(view(1), 25)], sound=True))


def test_the_time_it_was_taken_is_local(tmp_path):
    tags = {"creation_time": "2023-12-24T18:30:00.000000Z"}
    path = written(tmp_path / "a.mp4", [(view(1), 5)], tags=tags)
    local = datetime(2023, 12, 24, 18, 30, tzinfo=UTC).astimezone().replace(tzinfo=None)
    assert video.info(path).taken_at == local


def test_apples_local_time_goes_first():
    tags = {
        "creation_time": "2023-12-24T18:30:00.000000Z",
        "com.apple.quicktime.creationdate": "2023-12-25T03:30:00+0900",
    }
    assert video._taken_at(tags) == datetime(2023, 12, 25, 3, 30)
    assert video._taken_at({"creation_time": "1904-01-01T00:00:00Z"}) is None
    assert video._taken_at({"creation_time": "yesterday"}) is None


VIENNA = (48.2082, 16.3738)


@pytest.mark.parametrize(
    ("name", "tags", "options"),
    [
        ("a.mp4", {"location": "+48.2082+016.3738/"}, {}),  # ©xyz and loci, as Android writes them
        ("a.mov", {"location": "+48.2082+016.3738/"}, {}),
        ("a.mkv", {"LOCATION": "+48.2082+016.3738+171.2/"}, {}),
        (
            "a.mov",
            {"com.apple.quicktime.location.ISO6709": "+48.2082+016.3738+171.203/"},
            {"movflags": "use_metadata_tags"},
        ),
    ],
)
def test_the_place_of_a_video_is_read(tmp_path, name, tags, options):
    path = written(tmp_path / name, [(view(1), 5)], tags=tags, container=options)
    info = video.info(path)
    assert (info.latitude, info.longitude) == pytest.approx(VIENNA, abs=1e-4)
    assert info.camera is None


@pytest.mark.parametrize(
    ("tags", "camera"),
    [
        (
            {"com.apple.quicktime.make": "Apple", "com.apple.quicktime.model": "iPhone 12"},
            "Apple iPhone 12",
        ),
        ({"com.android.manufacturer": "Google", "com.android.model": "Pixel 7"}, "Google Pixel 7"),
        ({"make": "Canon", "model": "Canon EOS R5"}, "Canon EOS R5"),
        ({"com.apple.quicktime.model": "iPhone 12"}, "iPhone 12"),
    ],
)
def test_the_camera_of_a_video_is_read(tmp_path, tags, camera):
    options = {"movflags": "use_metadata_tags"}
    path = written(tmp_path / "a.mov", [(view(1), 5)], tags=tags, container=options)
    assert video.info(path).camera == camera


@pytest.mark.parametrize(
    ("written_as", "place"),
    [
        ("+48.2082+016.3738/", VIENNA),
        ("-33.8583+151.2100+5/", (-33.8583, 151.21)),
        ("+4812.49+01622.43/", (48.2082, 16.3738)),
        ("+481229.5-0162225.7/", (48.2082, -16.3738)),
        ("+48+016CRSWGS_84/", (48, 16)),
        ("+00.0000+000.0000/", (None, None)),
        ("+91.0000+016.0000/", (None, None)),
        ("48.2082, 16.3738", (None, None)),
        ("Vienna", (None, None)),
    ],
)
def test_a_place_is_written_as_iso_6709_has_it(written_as, place):
    assert video._position({"location": written_as}) == pytest.approx(place, abs=1e-3)


def test_a_recording_that_does_not_say_its_length_is_looked_through(tmp_path):
    path = written(tmp_path / "a.mkv", [(view(1), 75)], container={"live": "1"})
    assert video.info(path).seconds == pytest.approx(3, abs=0.15)


# ---------------------------------------------------------------------- odd and damaged files


def test_frames_of_unequal_length_keep_their_times(tmp_path):
    times = [0, 0.1, 0.15, 1.0, 1.5, 3.0, 3.1, 4.0, 4.05, 4.9]
    pictures = [(view(1), 5), (view(2), 5)]
    found = starts(written(tmp_path / "a.mp4", pictures, rate=30, times=times))
    assert found == pytest.approx([0, 3.0], abs=0.2)


def test_frames_without_times_follow_each_other(tmp_path, monkeypatch):
    path = written(tmp_path / "a.avi", [(plain(RED), 50), (plain(BLUE), 50)], "mpeg4", g=100)
    decoded = video._decoded

    def timeless(packet):
        for frame in decoded(packet):
            frame.pts = None
            yield frame

    monkeypatch.setattr(video, "_decoded", timeless)
    assert starts(path) == pytest.approx([0, 2], abs=0.2)


def test_one_frame_is_a_video(tmp_path):
    path = written(tmp_path / "a.mp4", [view(1)])
    (frame,) = video.frames(path, at_least=20)
    assert frame.span.start == 0
    assert 0 < frame.span.end <= 0.1


def test_the_start_of_a_video_that_breaks_off_is_read(tmp_path):
    pictures = [(view(seed), 50) for seed in range(8)]
    path = written(tmp_path / "a.mkv", pictures)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    said = []
    found = list(video.frames(path, at_least=20, breaks_off=lambda: said.append(path)))
    assert 2 <= len(found) < 8
    assert found[-1].span.end < 14
    assert said == [path]


def test_a_whole_video_is_not_said_to_break_off(tmp_path):
    for name in ("a.mp4", "a.mkv", "a.avi", "a.mts"):
        codec = "mpeg4" if name == "a.avi" else "libx264"
        path = written(tmp_path / name, [(view(1), 50)], codec, sound=True)
        said = []
        list(video.frames(path, at_least=20, breaks_off=lambda: said.append(name)))  # noqa: B023
        assert not said


def test_sound_without_pictures_is_no_video(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        heard = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        heard.sample_rate = 16_000
        container.mux(stream.encode(heard))
        container.mux(stream.encode())
    assert refused(path) == "no video in it"
    assert video.has_sound(path)


def test_the_cover_of_a_song_is_no_video(tmp_path):
    cover = io.BytesIO()
    Image.fromarray(view(1)).save(cover, "JPEG")
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        picture = container.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt = 160, 90, "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        packet = av.Packet(cover.getvalue())
        packet.stream, packet.pts, packet.dts = picture, 0, 0
        heard = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        heard.sample_rate = 16_000
        container.mux(packet)
        container.mux(stream.encode(heard))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        assert container.streams.video
    assert refused(path) == "no video in it"


def test_what_is_no_video_is_told(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"")
    assert refused(path) == "0 bytes"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a", "b" * 999)
    path.write_bytes(archive.getvalue())
    assert refused(path) == "not a video"
    Image.fromarray(view(1)).save(path, "JPEG")
    assert refused(path) == "not a video"
    assert refused(tmp_path) == "not a regular file"
    assert refused(tmp_path / "none.mp4") == "no such file or directory"
    assert refused("a\0b.mp4") == "no such file"


def test_a_file_without_its_index_is_damaged(tmp_path):
    path = written(tmp_path / "a.mp4", [(view(1), 50)])
    path.write_bytes(path.read_bytes()[:-1500])  # the index stands at the end
    assert refused(path) == "damaged"


def test_a_playlist_is_not_followed(tmp_path):
    target = written(tmp_path / "secret.mp4", [(view(1), 25)])
    for text in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{target}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{target}'\n",
    ):
        path = tmp_path / "list.mp4"
        path.write_text(text)
        assert refused(path) == "not a video"


def test_names_that_look_like_addresses_or_are_not_unicode_are_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "a.mp4", [(view(1), 5)])
    for name in ("http:x.mp4", "a\udce9.mp4", "-"):
        (tmp_path / name).write_bytes((tmp_path / "a.mp4").read_bytes())
        assert starts(name) == [0]


def test_damage_makes_no_noise(tmp_path):
    path = written(tmp_path / "a.mkv", [(view(seed), 30) for seed in range(4)])
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 300] = bytes(range(100)) * 3
    path.write_bytes(data)
    code = f"from mmsearch.media import video; list(video.frames({str(path)!r}, at_least=20))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_the_file_is_closed_when_nobody_looks_on(tmp_path):
    path = written(tmp_path / "a.mp4", [(view(seed), 50) for seed in range(3)])
    found = video.frames(path, at_least=20)
    next(found)
    container = found.gi_frame.f_locals["container"]
    found.close()
    with pytest.raises(AssertionError):
        list(container.demux())


def test_a_missing_package_is_told_with_what_to_install(monkeypatch):
    monkeypatch.setattr(video, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"mmsearch\[av\]"):
        video.require()
