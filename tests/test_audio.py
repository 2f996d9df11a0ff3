"""Sounds cut into windows: which, of what, and what is said of files that cannot be read."""

from __future__ import annotations

import io
import itertools
import os
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mmsearch.errors import MissingExtra, UnreadableFile
from mmsearch.media.audio import HOP, TAIL, WINDOW, probe, windows

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")

RATE = 16000
Wave = NDArray[np.float32]


def hum(seconds: float, rate: int = RATE, hertz: float = 300) -> Wave:
    at = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * hertz * at)).astype(np.float32)


def file_of(wave: Wave, rate: int = RATE, format: str = "WAV", **how: Any) -> bytes:  # noqa: A002
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=format, **how)
    return file.getvalue()


def spans(source: Any) -> list[tuple[float, float]]:
    return [(span.start, span.end) for span, _ in windows(source, RATE)]


def by_av(path: Path, codec: str, wave: Wave, rate: int = 44100) -> Path:
    """A file with one sound track, written by PyAV."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        track = container.add_stream(codec, rate=rate, layout="mono")
        suited = av.AudioResampler(track.codec_context.format, "mono", rate)
        for start in range(0, len(wave), 1024):
            frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], "fltp", "mono")
            frame.sample_rate, frame.pts = rate, start
            for ready in suited.resample(frame):
                container.mux(track.encode(ready))
        container.mux(track.encode())
    return path


# ---------------------------------------------------------------------- which windows


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.3, [(0, 0.3)]),
        (5, [(0, 5)]),
        (5.05, [(0, 5)]),  # what encoders add is no window of its own
        (6, [(0, 5), (2.5, 6)]),
        (7.5, [(0, 5), (2.5, 7.5)]),
        (12, [(0, 5), (2.5, 7.5), (5, 10), (7.5, 12)]),
    ],
)
def test_windows_start_each_two_and_a_half_seconds_until_one_reaches_the_end(
    seconds: float, expected: list[tuple[float, float]]
) -> None:
    assert spans(file_of(hum(seconds))) == expected


@given(st.integers(1, 20 * 1000))
@example(5100)
@example(7600)
def test_windows_cover_the_sound_and_each_adds_to_it(samples: int) -> None:
    rate = 1000
    content = file_of(hum(samples / rate, rate), rate)
    found = [span for span, _ in windows(content, rate)]
    seconds = samples / rate
    assert [span.start for span in found] == [HOP * n for n in range(len(found))]
    assert all(span.unit == "second" and span.start < span.end for span in found)
    assert all(span.end == span.start + WINDOW for span in found[:-1])
    assert seconds - TAIL - 1e-9 <= found[-1].end <= seconds + 1e-9
    assert all(after.end > before.end + TAIL for before, after in itertools.pairwise(found))


def test_a_window_holds_the_samples_of_its_span() -> None:
    wave = np.random.default_rng(0).uniform(-0.9, 0.9, 9 * RATE).astype(np.float32)
    for span, samples in windows(file_of(wave, subtype="FLOAT"), RATE):
        whole = wave[round(span.start * RATE) : round(span.end * RATE)]
        assert samples.shape == (5 * RATE,)
        assert samples.dtype == np.float32
        np.testing.assert_array_equal(samples[: len(whole)], whole)


def test_a_window_that_is_not_full_repeats_its_own_sound() -> None:
    wave = hum(1.5)
    [(_, samples)] = windows(file_of(wave, subtype="FLOAT"), RATE)
    np.testing.assert_array_equal(samples, np.resize(wave, 5 * RATE))


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000])
def test_a_sound_of_another_rate_sounds_the_same(rate: int) -> None:
    (_, found), *_ = windows(file_of(hum(6, rate), rate, subtype="FLOAT"), RATE)
    np.testing.assert_allclose(found[1000:-1000], hum(5)[1000:-1000], atol=2e-3)


def test_channels_are_mixed_to_their_mean() -> None:
    left, right = hum(5), hum(5, hertz=700)
    stereo = file_of(np.stack([left, right], axis=1), subtype="FLOAT")
    [(_, found)] = windows(stereo, RATE)
    np.testing.assert_allclose(found, (left + right) / 2, atol=1e-6)


def test_samples_stay_between_minus_one_and_one() -> None:
    [(_, found)] = windows(file_of(9 * hum(5), subtype="FLOAT"), RATE)
    assert (found.min(), found.max()) == (-1, 1)


def test_the_same_file_has_the_same_windows_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "clip.ogg"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.3, 0.3, 44100 * 8), 44100)
    first = list(windows(path, RATE))
    for again in (list(windows(path, RATE)), list(windows(path.read_bytes(), RATE))):
        for (span, samples), (other, others) in zip(first, again, strict=True):
            assert span == other
            np.testing.assert_array_equal(samples, others)


def test_a_long_sound_is_never_held_whole(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 22050, 2, subtype="PCM_16") as file:
        for _ in range(600):
            file.write(np.zeros((22050, 2), np.int16))
    tracemalloc.start()
    try:
        count = sum(1 for _ in windows(path, RATE))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 239  # of 10 minutes
    assert most < 8 * 2**20  # all of it would be 38 MiB in mono


# ---------------------------------------------------------------------- kinds of files


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("WAV", {}),
        ("WAV", {"subtype": "PCM_24"}),
        ("FLAC", {}),
        ("OGG", {}),
        ("MP3", {}),
        ("AIFF", {}),
        ("OGG", {"subtype": "OPUS"}),
        ("CAF", {}),
        ("AU", {}),
        ("W64", {}),
        ("RF64", {}),
    ],
)
def test_kinds_are_told_by_content_not_by_ending(
    tmp_path: Path, kind: str, how: dict[str, str]
) -> None:
    path = tmp_path / "sound.raw"
    path.write_bytes(file_of(hum(4, 48000), 48000, kind, **how))
    [(span, found)] = windows(path, RATE)
    assert span.end == pytest.approx(4, abs=0.3)  # Opus, as libsndfile writes it, loses its end
    spectrum = np.abs(np.fft.rfft(found[:RATE]))
    assert int(spectrum.argmax()) == 300


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.m4a", "aac"),
        ("a.mp4", "aac"),
        ("a.mkv", "pcm_f32le"),
        ("a.ac3", "ac3"),
        ("a.wv", "wavpack"),
    ],
)
def test_other_sounds_are_read_through_pyav(tmp_path: Path, name: str, codec: str) -> None:
    path = by_av(tmp_path / name, codec, hum(6, 44100))
    first, last = windows(path, RATE)
    assert (first[0].start, first[0].end, last[0].start) == (0, 5, 2.5)
    assert last[0].end == pytest.approx(6, abs=0.05)
    assert int(np.abs(np.fft.rfft(first[1][:RATE])).argmax()) == 300


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = by_av(tmp_path / "a.m4a", "aac", hum(1, 44100))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtra, match=r"mmsearch\[av\]"):
        list(windows(path, RATE))


def test_without_pyav_a_damaged_header_is_still_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UnreadableFile, match=r"^damaged$"):
        list(windows(b"RIFF\x24\0\0\0WAVE", RATE))


def test_a_video_without_sound_says_so(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as container:
        track = container.add_stream("mpeg4", rate=5)
        track.width = track.height = 64
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")
            container.mux(track.encode(frame))
        container.mux(track.encode())
    with pytest.raises(UnreadableFile, match=r"^no sound$"):
        list(windows(path, RATE))


def test_a_probe_says_how_a_sound_was_recorded() -> None:
    info = probe(file_of(np.zeros((44100, 2), np.float32), 44100))
    assert (info.seconds, info.channels, info.sample_rate) == (1, 2, 44100)


# ---------------------------------------------------------------------- files that cannot be read


def wav(rate: int = RATE, channels: int = 1, samples: bytes = b"\0" * 64000) -> bytes:
    """A WAV file with a header that says what one likes."""
    block = 2 * channels % 65536
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * block % 2**32, block, 16)
    body = b"fmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(samples))
    return b"RIFF" + struct.pack("<I", len(body) + len(samples) + 4) + b"WAVE" + body + samples


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.wav", b"a" * 500)
    return file.getvalue()


def holding(value: float) -> bytes:
    return file_of(np.full(RATE, value, np.float32), subtype="FLOAT")


BAD = {
    "empty": (b"", "0 bytes"),
    "a zip": (zipped(), "not a sound"),
    "a text": (b"ffconcat version 1.0\nfile '/etc/passwd'\n", "not a sound"),
    "no samples": (wav(samples=b""), "0 seconds"),
    "no number": (holding(np.nan), "damaged"),
    "nothing finite": (holding(np.inf), "damaged"),
    "one sample a second": (wav(rate=1), "1 samples a second"),
    "too many samples a second": (wav(rate=10**9), "1000000000 samples a second"),
    "many channels": (wav(channels=1000), "1000 channels"),
    "hours of which nothing is there": (wav()[:40] + b"\xff\xff\xff\x7e", "truncated"),
    "a header alone": (b"RIFF\x24\0\0\0WAVE", "damaged"),
}


@pytest.mark.parametrize(("content", "reason"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_refused_with_a_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.wav"
    path.write_bytes(content)
    for source in (path, content):
        with pytest.raises(UnreadableFile, match=f"^{reason}$"):
            list(windows(source, RATE))


# ---------------------------------------------------------------------- files that break off


def heard(source: Any) -> tuple[float, bool]:
    """Where the last window ends, and whether the sound was said to break off."""
    said: list[bool] = []
    last = [span for span, _ in windows(source, RATE, breaks_off=lambda: said.append(True))][-1]
    return last.end, bool(said)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF", "RF64", "W64", "AU"])
@pytest.mark.parametrize("left", [0.2, 0.5, 0.9])
def test_a_file_that_breaks_off_is_heard_up_to_there(kind: str, left: float) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 44100 * 8)
    content = file_of(noise, 44100, kind)
    end, said = heard(content[: int(left * len(content))])
    assert said
    assert 8 * left - 0.8 < end < 8 * left + 0.2
    assert heard(content) == (pytest.approx(8, abs=0.01), False)


def test_so_is_one_that_ffmpeg_reads(tmp_path: Path) -> None:
    path = by_av(tmp_path / "a.mka", "aac", hum(8, 44100))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    end, _ = heard(path)
    assert 2 < end < 6


def test_damage_after_the_beginning_ends_a_sound_and_is_said() -> None:
    content = bytearray(
        file_of(np.random.default_rng(0).uniform(-0.5, 0.5, 8 * RATE), RATE, "FLAC")
    )
    half = len(content) // 2
    content[half : half + 300] = bytes(300)
    assert heard(bytes(content)) == (pytest.approx(4, abs=0.4), True)


def test_nothing_heard_before_the_break_is_a_refusal() -> None:
    content = file_of(hum(8), RATE, "OGG")
    with pytest.raises(UnreadableFile, match=r"^(truncated|damaged)$"):
        list(windows(content[:200], RATE))


# ---------------------------------------------------------------------- unusual but good files


@pytest.mark.parametrize("riff", [0, 0xFFFFFFFF])
@pytest.mark.parametrize("data", [0, 0xFFFFFFFF])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_a_wav_whose_recorder_never_wrote_its_sizes_is_heard(
    riff: int, data: int, subtype: str
) -> None:
    content = bytearray(file_of(hum(3), subtype=subtype))
    struct.pack_into("<I", content, 4, riff)
    struct.pack_into("<I", content, content.index(b"data") + 4, data)
    assert heard(bytes(content)) == (3, False)
    assert probe(bytes(content)).seconds == 3


LONG_SIZES = {
    "none": struct.pack("<QQQ", 0, 0, 0),
    "none of the samples": struct.pack("<QQQ", 96_152, 0, 48_000),
    "all ones": b"\xff" * 24,
}


@pytest.mark.parametrize("data", [0, 0xFFFFFFFF])
@pytest.mark.parametrize("sizes", LONG_SIZES.values(), ids=LONG_SIZES)
def test_so_is_an_rf64(sizes: bytes, data: int) -> None:
    content = bytearray(file_of(hum(3), format="RF64"))
    place = content.index(b"ds64") + 8
    content[place : place + 24] = sizes
    struct.pack_into("<I", content, content.index(b"data") + 4, data)
    assert heard(bytes(content)) == (3, False)
    assert probe(bytes(content)).seconds == 3


@pytest.mark.parametrize("stated", [0, 4000])
@pytest.mark.parametrize("kind", ["WAV", "RF64"])
def test_a_header_that_states_only_the_beginning_does_not_end_the_sound(
    kind: str, stated: int
) -> None:
    content = file_of(hum(3), format=kind)
    picture = b"LIST" + struct.pack("<I", 100_000) + bytes(100_000)
    place = content.index(b"data")
    size = struct.pack("<I", stated)
    assert heard(content[:place] + picture + b"data" + size + content[place + 8 :]) == (3, False)


def test_what_follows_the_samples_of_a_wav_is_not_heard() -> None:
    tags = b"id3 " + struct.pack("<I", 200_000) + bytes(200_000)
    assert heard(wav(samples=bytes(2 * RATE)) + tags) == (1, False)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_no_number_is_silent(value: float) -> None:
    wave = hum(3)
    wave[5:9] = value
    [(span, samples)] = windows(file_of(wave, subtype="FLOAT"), RATE)
    assert span.end == 3
    np.testing.assert_allclose(samples[:20], [*hum(3)[:5], 0, 0, 0, 0, *hum(3)[9:20]], atol=1e-6)


def test_an_aiff_whose_recorder_never_wrote_its_sizes_is_heard() -> None:
    content = bytearray(file_of(hum(3), RATE, "AIFF"))
    for place in (4, content.index(b"SSND") + 4, content.index(b"COMM") + 10):
        content[place : place + 4] = bytes(4)
    assert heard(bytes(content)) == (3, False)


def test_a_flac_that_was_streamed_does_not_know_its_length() -> None:
    content = bytearray(file_of(hum(3), RATE, "FLAC"))
    content[21] &= 0xF0  # the number of samples, in 36 bits
    content[22:26] = bytes(4)
    assert heard(bytes(content)) == (3, False)


def test_a_wav_without_samples_is_not_filled_with_what_follows() -> None:
    tags = b"LIST" + struct.pack("<I", 4) + b"INFO"
    content = wav(samples=b"") + tags
    with pytest.raises(UnreadableFile, match="0 seconds"):
        spans(content)


@pytest.mark.parametrize(
    "before",
    [
        bytes(1),
        bytes(5000),
        bytes(3 << 20),
        b"ICY 200 OK\r\nicy-name: x\r\n\r\n",
        b"\x12\x34\xff\xfb" * 99,
        b"ID3\3\0\0\0\0\7\x68" + bytes(1000) + b"ID3\4\0\x10\0\1\0\0" + bytes(1 << 14) + bytes(10),
        b"ID3\3\0\0\0\0\0\x10" + bytes(5000),
    ],
    ids=["a zero", "zeros", "MBs of them", "an answer", "half a frame", "tags", "a longer tag"],
)
def test_an_mp3_may_begin_with_something_else(before: bytes) -> None:
    content = file_of(hum(4, 44100), 44100, "MP3")
    assert heard(before + content) == (pytest.approx(4, abs=0.05), False)
    assert probe(before + content).seconds == pytest.approx(4, abs=0.05)


@pytest.mark.parametrize("kind", ["MP3", "FLAC", "OGG"])
def test_tags_around_a_sound_are_no_part_of_it(kind: str) -> None:
    content = file_of(hum(4, 44100), 44100, kind)
    tagged = b"ID3\3\0\0\0\0\7\x68" + bytes(1000) + content + b"TAG" + bytes(125)
    assert heard(tagged) == (pytest.approx(4, abs=0.01), False)


@pytest.mark.parametrize(("rate", "channels"), [(44100, 1), (48000, 2), (16000, 1), (22050, 2)])
def test_an_mp3_whose_bit_rate_varies_need_not_state_its_length(rate: int, channels: int) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * rate).astype(np.float32)
    wave = np.stack([np.concatenate([0 * hum(2, rate), noise, hum(3, rate)])] * channels, axis=1)
    content = file_of(wave, rate, "MP3", bitrate_mode="VARIABLE")
    silent = content.replace(b"Xing", bytes(4)).replace(b"Info", bytes(4))
    for source, seconds in ((silent, 9), (silent + b"junk" * 999 + silent, 18)):
        assert heard(source) == (pytest.approx(seconds, abs=0.2), False)
        assert probe(source).seconds == pytest.approx(seconds, abs=0.2)
    *_, (span, samples) = windows(silent, RATE)
    last = round((7.5 - span.start) * RATE)
    assert int(np.abs(np.fft.rfft(samples[last : last + RATE])).argmax()) in range(299, 302)


def test_so_may_aac(tmp_path: Path) -> None:
    content = by_av(tmp_path / "a.aac", "aac", hum(4, 44100)).read_bytes()
    for before in (b"", bytes(5000), b"ICY 200 OK\r\n\r\n"):
        (tmp_path / "b.aac").write_bytes(before + content)
        assert heard(tmp_path / "b.aac") == (pytest.approx(4, abs=0.1), False)


@pytest.mark.parametrize("how", [{}, {"subtype": "OPUS"}])
def test_all_streams_of_a_chain_are_heard(how: dict[str, str], tmp_path: Path) -> None:
    low = file_of(hum(3, 48000, 440), 48000, "OGG", **how)
    high = file_of(np.stack([hum(4, 24000, 3000)] * 2, axis=1), 24000, "OGG", **how)
    path = tmp_path / "chain.ogg"
    path.write_bytes(low + high)
    assert heard(path) == (pytest.approx(7, abs=0.05), False)
    assert probe(path).seconds == pytest.approx(7, abs=0.05)
    *_, (span, samples) = windows(path, RATE)
    assert span.start == 2.5
    spectrum = np.abs(np.fft.rfft(samples[RATE : 2 * RATE]))
    assert int(spectrum.argmax()) == 3000
    assert heard((low + high)[:-2000])[1]


def test_an_ogg_that_is_damaged_inside_is_said_to_break_off() -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 8 * RATE)
    content = file_of(noise, RATE, "OGG")
    half = len(content) // 2
    end, said = heard(content[:half] + b"junk" * 999 + content[half:])
    assert (end > 3, said) == (True, True)
    assert heard(content + b"junk" * 999 + content)[1] is False


def test_two_mp3_joined_to_one_are_both_heard() -> None:
    joined = file_of(hum(3, 44100), 44100, "MP3") + file_of(hum(4, 44100, 3000), 44100, "MP3")
    assert heard(joined) == (pytest.approx(7, abs=0.15), False)
    tag = b"TAG" + bytes(125)
    assert heard(file_of(hum(3, 44100), 44100, "MP3") + tag) == (pytest.approx(3, abs=0.05), False)


@pytest.mark.parametrize("swapped", [False, True])
def test_channels_of_opposite_phase_are_no_silence(swapped: bool) -> None:
    left = hum(9)
    channels = [-left, 0.9 * left] if swapped else [left, -left]
    found = [samples for _, samples in windows(file_of(np.stack(channels, 1)), RATE)]
    assert all(np.abs(samples).max() > 0.45 for samples in found)
    mono = [samples for _, samples in windows(file_of(channels[0]), RATE)]
    np.testing.assert_allclose(found, mono, atol=1e-4)


def test_independent_channels_are_still_mixed() -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (5 * RATE, 2)).astype(np.float32)
    [(_, found)] = windows(file_of(noise, subtype="FLOAT"), RATE)
    np.testing.assert_array_equal(found, noise.mean(axis=1))


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="no such file"):
        probe(tmp_path / "none.wav")
    with pytest.raises(UnreadableFile, match="not a regular file"):
        probe(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(UnreadableFile, match="not a regular file"):
        probe(tmp_path / "pipe.wav")


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
@given(data=st.data())
def test_damage_is_an_unreadable_file_or_a_sound_never_a_crash(
    kind: str, data: st.DataObject
) -> None:
    content = bytearray(file_of(hum(1, 22050), 22050, kind))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        for _, samples in windows(bytes(content), RATE):
            assert samples.shape == (5 * RATE,)
            assert np.abs(samples).max() <= 1
    except UnreadableFile:
        pass


def test_decoders_write_nothing_to_the_terminal(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 44100 * 3)
    content = file_of(noise, 44100, "MP3")
    (tmp_path / "cut.mp3").write_bytes(content[: len(content) // 2])
    (tmp_path / "junk.mp3").write_bytes(content[:4000] + os.urandom(3000) + content[4000:])
    code = (
        "import sys; from mmsearch.media.audio import windows\n"
        "for path in sys.argv[1:]:\n"
        "    list(windows(path, 16000, breaks_off=lambda: print('breaks off')))\n"
        "print('heard', file=sys.stderr)"
    )
    paths = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True
    )
    assert done.stderr == "heard\n"
    assert done.stdout == "breaks off\n" * 2
