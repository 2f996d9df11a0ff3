from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, paint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mmsearch
from mmsearch.collection import Collection
from mmsearch.collection.doctor import examine
from mmsearch.errors import InvalidOption
from mmsearch.spaces import index_cache
from mmsearch.spaces.index_cache import segment_folders
from mmsearch.storage.sql.index_settings import next_epoch
from mmsearch.vectors import EXACT, Segment, index_choice
from mmsearch.vectors.segment import checksum

NAMES = list(COLOURS)


def segments_of(library, facet: str = "image") -> list[str]:
    space = library.index.serving()[0][0]
    return [folder.name for folder in segment_folders(library.folder / "cache", space.id, facet)]


def found(library, query: str, k: int = 10) -> list[str]:
    return [Path(hit.path).name for hit in library.search(query, k=k, target="image")]


def scores(library, query: str) -> dict[str, float]:
    return {Path(hit.path).name: round(hit.score, 5) for hit in library.search(query)}


@pytest.fixture
def library(toy, tmp_path):
    for number, name in enumerate(["red", "green", "blue"]):
        paint(tmp_path / "photos" / f"{name}.png", name, size=(40 + number, 30))
    with mmsearch.index(tmp_path / "photos", tmp_path / "idx", model="toy") as made:
        yield made


@pytest.fixture
def never_rebuilt(monkeypatch):
    """Runs rebuild no segment, however large its delta."""
    monkeypatch.setattr(index_cache, "SMALL_SEGMENT", 0)
    monkeypatch.setattr(index_cache, "MAX_DELTA_SHARE", 1000)


def test_a_new_item_is_found_in_the_delta(library, tmp_path, never_rebuilt):
    before = segments_of(library)
    paint(tmp_path / "photos" / "white.png", "white")
    library.add()
    assert found(library, "white", 1) == ["white.png"]
    assert segments_of(library) == before
    with mmsearch.open(tmp_path / "idx") as again:
        assert found(again, "white", 1) == ["white.png"]
    assert segments_of(library) == before


def test_a_deleted_item_is_not_found_in_the_segment(library, tmp_path, never_rebuilt):
    before = segments_of(library)
    (tmp_path / "photos" / "red.png").unlink()
    library.add()
    with mmsearch.open(tmp_path / "idx") as again:
        for one in (library, again):
            assert "red.png" not in found(one, "red")
            assert len(found(one, "red")) == 2
    assert segments_of(library) == before


def test_a_changed_item_is_found_as_it_is_now(library, tmp_path, never_rebuilt):
    paint(tmp_path / "photos" / "red.png", "white", size=(99, 30))
    library.add()
    assert found(library, "white", 1) == ["red.png"]
    assert sorted(found(library, "red")) == ["blue.png", "green.png", "red.png"]


def test_a_run_rebuilds_a_small_segment(library, tmp_path):
    before = segments_of(library)
    paint(tmp_path / "photos" / "white.png", "white")
    library.add()
    after = segments_of(library)
    assert len(after) == 1
    assert after != before


def test_refreshing_does_not_rebuild_a_segment_each_time(library, tmp_path):
    before = segments_of(library)
    paint(tmp_path / "photos" / "white.png", "white")
    library.refresh([tmp_path / "photos"])
    assert segments_of(library) == before
    assert found(library, "white", 1) == ["white.png"]


def test_a_search_rebuilds_a_segment_with_a_large_delta(
    library, tmp_path, never_rebuilt, monkeypatch
):
    with mmsearch.open(tmp_path / "idx") as reader:
        assert found(reader, "white", 1)
        before = segments_of(library)
        paint(tmp_path / "photos" / "white.png", "white")
        paint(tmp_path / "photos" / "more.png", "white", size=(77, 30))
        library.add()
        assert segments_of(library) == before
        monkeypatch.setattr(index_cache, "MAX_DELTA", 1)
        assert set(found(reader, "white", 2)) == {"white.png", "more.png"}
    assert segments_of(library) != before


def test_a_segment_is_rebuilt_when_hubs_change_in_place(library, tmp_path):
    with mmsearch.open(tmp_path / "idx") as reader:
        assert found(reader, "red", 1) == ["red.png"]
        before = segments_of(library)
        with library.store.database.write() as connection:
            next_epoch(connection)
        assert found(reader, "red", 1) == ["red.png"]
        assert segments_of(library) != before


def test_deletions_are_forgotten_once_every_segment_knows_of_them(library, tmp_path, monkeypatch):
    monkeypatch.setattr(index_cache, "MAX_CHANGES", 0)
    with mmsearch.open(tmp_path / "idx") as reader:
        assert found(reader, "red", 1) == ["red.png"]
        for name in ("red", "green"):
            (tmp_path / "photos" / f"{name}.png").unlink()
            library.add()
        space = library.store.spaces.all()[0]
        assert library.store.changes.deleted_vectors(space, "image", 0)[0].tolist() == []
        assert found(reader, "red") == ["blue.png"]  # it knew of neither deletion


def test_a_segment_older_than_the_log_of_deletions_is_not_used(library, tmp_path, monkeypatch):
    monkeypatch.setattr(index_cache, "MAX_CHANGES", 0)
    old = tmp_path / "old"
    shutil.copytree(tmp_path / "idx" / "cache", old)
    (tmp_path / "photos" / "red.png").unlink()
    library.add()
    shutil.rmtree(tmp_path / "idx" / "cache")
    shutil.copytree(old, tmp_path / "idx" / "cache")
    with mmsearch.open(tmp_path / "idx") as again:
        assert "red.png" not in found(again, "red")


def test_a_segment_of_another_catalog_is_not_used(library, tmp_path):
    paint(tmp_path / "other" / "white.png", "white")
    with mmsearch.index(tmp_path / "other", tmp_path / "idx2", model="toy"):
        pass
    shutil.rmtree(tmp_path / "idx2" / "cache")
    shutil.copytree(tmp_path / "idx" / "cache", tmp_path / "idx2" / "cache")
    with mmsearch.open(tmp_path / "idx2") as again:
        assert found(again, "white") == ["white.png"]


def test_a_segment_ahead_of_the_catalog_is_not_used(library, tmp_path):
    """As after a power cut that took the last transactions with it."""
    for about in (tmp_path / "idx" / "cache").glob("image-*/about.json"):
        said = json.loads(about.read_text())
        said["revision"] += 5
        said["sum"] = checksum(said)
        about.write_text(json.dumps(said))
    before = segments_of(library)
    with mmsearch.open(tmp_path / "idx") as again:
        assert found(again, "red", 1) == ["red.png"]
    assert segments_of(library) != before


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_after_any_changes_every_reader_finds_what_a_fresh_index_finds(toy, tmp_path_factory, data):
    place = tmp_path_factory.mktemp("any")
    photos = place / "photos"
    paint(photos / "first.png", "red")
    with (
        pytest.MonkeyPatch.context() as patch,
        mmsearch.index(photos, place / "idx", model="toy") as library,
        mmsearch.open(place / "idx") as reader,
    ):
        patch.setattr(index_cache, "SMALL_SEGMENT", 0)
        patch.setattr(index_cache, "MAX_DELTA_SHARE", data.draw(st.sampled_from([0.5, 1000])))
        patch.setattr(index_cache, "MAX_CHANGES", data.draw(st.sampled_from([0, 10**6])))
        for step in range(data.draw(st.integers(1, 5))):
            for number in data.draw(st.lists(st.integers(0, 5), max_size=3)):
                path = photos / f"{number}.png"
                if path.exists() and data.draw(st.booleans()):
                    path.unlink()
                else:
                    colour = data.draw(st.sampled_from(NAMES))
                    paint(path, colour, size=(30 + step, 20 + number))
            library.add()
            if data.draw(st.booleans()):
                reader.search("red")
        with mmsearch.index(photos, place / "fresh", model="toy") as fresh:
            for colour in NAMES:
                for one in (library, reader):
                    assert scores(one, colour) == scores(fresh, colour)


def test_a_thread_with_an_older_snapshot_finds_what_was_there_then(library, tmp_path):
    before, seen = found(library, "red"), []
    inside, go_on = threading.Event(), threading.Event()

    def older() -> None:
        with library.store.snapshot():
            inside.set()
            go_on.wait(60)
            seen.append(found(library, "red"))

    thread = threading.Thread(target=older)
    thread.start()
    inside.wait(60)
    paint(tmp_path / "photos" / "crimson.png", "red", size=(77, 30))
    (tmp_path / "photos" / "red.png").unlink()
    with mmsearch.open(tmp_path / "idx") as other:
        other.add()
    after = found(library, "red")  # what this thread has found is not for the other one
    go_on.set()
    thread.join()
    assert before[0] == "red.png"
    assert "crimson.png" in after
    assert "red.png" not in after
    assert seen == [before]


@pytest.fixture
def mixed(tmp_path):
    """2,000 pictures, after a few that have captions too."""
    rows = np.random.default_rng(0).standard_normal((2000, 8))
    with Collection(tmp_path / "mixed", create=True) as made:
        told = [{"path": f"t{n}", "caption": "words"} for n in range(20)]
        made.add_vectors(rows[:20], told, text_vectors=rows[20:40])
        made.add_vectors(rows, [{"path": f"p{n}"} for n in range(2000)])
        yield made


@pytest.mark.parametrize("facet", ["image", "text"])
@pytest.mark.parametrize("after", [0, 1, 19, 21, 40, 1000, 2039, 2040, 9999])
def test_new_vectors_are_read_in_order_of_id(mixed, facet, after):
    catalog = mixed.store
    with catalog.database.read() as connection:
        asked = "SELECT id FROM vectors WHERE modality = ? AND id > ? ORDER BY id"
        due = [row[0] for row in connection.exec_driver_sql(asked, (facet, after))]
    parts = list(catalog.vectors.new(catalog.spaces.all()[0], facet, after, page=7))
    assert [id_ for part in parts for id_ in part.vector_ids.tolist()] == due


@pytest.mark.parametrize(("facet", "after"), [("image", 2035), ("text", 30)])
def test_reading_new_vectors_reads_little_else(mixed, facet, after):
    catalog, steps = mixed.store, []
    with catalog.snapshot(), catalog.database.read() as connection:
        driver = connection.connection.driver_connection
        driver.set_progress_handler(lambda: steps.append(1), 10)
        found = sum(
            len(part.ids) for part in catalog.vectors.new(catalog.spaces.all()[0], facet, after)
        )
        driver.set_progress_handler(None, 0)
    assert found
    assert 10 * len(steps) < 2040  # less than a step for each row of the other facet, or of its own


def test_a_search_answers_although_the_disk_is_too_full_for_its_index(library, monkeypatch):
    def full(*_: object) -> None:
        raise RuntimeError("write error in rows.f16: No space left on device")  # as FAISS has it

    monkeypatch.setattr("faiss.write_index", full)
    before = set((library.folder / "cache").iterdir())
    library.add(kind="HNSW8")
    assert found(library, "red", 1) == ["red.png"]
    assert set((library.folder / "cache").iterdir()) == before


# ---------------------------------------------------------------------- which kind


def test_the_kind_that_the_user_wants_is_remembered_and_shown(library, tmp_path, monkeypatch):
    library.add(kind="HNSW8", recall=0.9)
    with mmsearch.open(tmp_path / "idx") as again:
        (about,) = [one for one in again.status()["indexes"] if one["facet"] == "image"]
        assert (about["kind"], about["rows"]) == ("HNSW8", 3)
        assert set(about["recall"]) == {"image"}
        assert found(again, "red", 1) == ["red.png"]
        again.add(kind="auto")
        (about,) = [one for one in again.status()["indexes"] if one["facet"] == "image"]
        assert about["kind"] == EXACT


def test_1_bit_codes_are_built_for_few_vectors_if_asked_for(library):
    library.add(kind="1-bit")
    (about,) = [one for one in library.status()["indexes"] if one["facet"] == "image"]
    assert (about["asked"], about["kind"]) == ("1-bit", "RR64,IVF1,RaBitQ")
    assert found(library, "red", 1) == ["red.png"]


def test_a_kind_unknown_to_faiss_is_refused_and_changes_nothing(library):
    with pytest.raises(InvalidOption, match="factory string"):
        library.add(kind="quick")
    assert library.status()["indexes"][0]["kind"] == EXACT


def test_a_kind_that_needs_more_vectors_gives_a_warning(library):
    report = library.add(kind="IVF64,Flat")
    assert any("IVF64,Flat cannot be made of 3 vectors" in one for one in report.warnings)
    assert not any("virtual" in one for one in report.warnings)
    assert not library.add(kind="exact").warnings


@pytest.mark.parametrize("recall", [0, -1, 1.5, float("nan")])
def test_a_recall_outside_its_range_is_refused(library, recall):
    with pytest.raises(InvalidOption, match="share"):
        library.add(recall=recall)


def test_a_large_collection_gets_codes_of_measured_recall(library, tmp_path, monkeypatch):
    monkeypatch.setattr(index_choice, "EXACT_BYTES", 10)
    for number in range(30):
        paint(tmp_path / "photos" / f"{number}.png", NAMES[number % 4], size=(20 + number, 30))
    library.add()
    (about,) = [one for one in library.status()["indexes"] if one["facet"] == "image"]
    assert about["kind"].endswith("RaBitQ")
    assert about["recall"]["image"] >= 0.98
    assert "ten nearest" in about["why"]


def test_a_segment_of_another_version_is_rebuilt_by_a_search_and_no_damage(library, tmp_path):
    before = found(library, "red", 3)
    (segment,) = (library.folder / "cache").glob("image-*")
    about = json.loads((segment / "about.json").read_text()) | {"format": 1}
    (segment / "about.json").write_text(json.dumps(about))
    library.close()
    assert [one.state for one in examine(tmp_path / "idx") if one.check == "caches"] == ["ok"]
    with mmsearch.open(tmp_path / "idx") as again:
        assert found(again, "red", 3) == before
    (rebuilt,) = (tmp_path / "idx" / "cache").glob("image-*")
    assert Segment.open(rebuilt).about["format"] != 1
