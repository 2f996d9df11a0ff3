"""After any history of writes, a store in SQL holds what the store in memory holds.

The one is SQL and triggers, the other is dicts, written to be read.
"""

from __future__ import annotations

import random
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from memory_store import MemoryStore
from postgres_server import postgres_store

from mmsearch.storage import (
    DuplicateGone,
    FailureRecord,
    ItemBatch,
    ItemRecord,
    ItemVectors,
    Space,
    Store,
)
from mmsearch.storage.sqlite import Catalog
from mmsearch.types import Span, TextPart

ENCODER: Any = SimpleNamespace(
    name="toy", fingerprint="1", dim=4, modalities=frozenset({"image", "text", "audio"})
)
ROOT = "/photos"
FOLDERS = ["", "x", "x/été", "caf\udce9"]
NAMES = ["a.jpg", "b.jpg", "caf\udce9.jpg", "it's.jpg"]
MODALITIES = ["image", "text", "audio"]
STEPS = 25


class Twins:
    """A store in SQL and one in memory, to which the same is done; paths name items in both."""

    def __init__(self, stored: Store, dice: random.Random) -> None:
        self.stores: tuple[Store, ...] = stored, MemoryStore()  # type: ignore[assignment]
        self.dice = dice
        for store in self.stores:
            store.sources.add(ROOT)
            store.spaces.serve_with([ENCODER])
        self.followers = [Follower(store) for store in self.stores]

    def do(self, action: Any) -> None:
        """Do something to both; both refuse it, or neither."""
        outcomes = []
        for store in self.stores:
            try:
                outcomes.append(action(store))
            except DuplicateGone:
                outcomes.append("refused")
        assert outcomes[0] == outcomes[1]

    def items(self) -> dict[tuple[str, str], tuple[bytes, list[str]]]:
        """By path of the files there are: their content, and their texts."""
        store = self.stores[1]
        source = store.sources.all()[0][0]
        return {
            (folder, known.name): (
                known.hash,
                [part.text for part in store.items.get([known.id])[known.id].texts],
            )
            for folder in FOLDERS
            for known in store.files.known(source, folder).values()
        }

    # -------------------------------------------------------------- what is written

    def some(self, choices: Any, most: int) -> list[Any]:
        choices = list(choices)
        return self.dice.sample(choices, min(len(choices), self.dice.randint(0, most)))

    def vectors(self, number: int, modality: str) -> ItemVectors:
        dice, matrix = self.dice, np.zeros((number, 4), np.float16)
        for row in range(number):
            matrix[row, dice.randrange(4)] = dice.choice([1, -1, 0.5])
        spans = [Span(row, row + 1, "second") for row in range(number)]
        tokens = [np.full((2, 3), dice.randint(-9, 9), np.int8) for _ in range(number)]
        hubs = {
            asked: np.full(number, dice.choice([0.25, 0.5]), np.float32)
            for asked in self.some(["text", "image"], 2)
        }
        return ItemVectors(
            matrix,
            spans if modality != "text" and dice.random() < 0.5 else (),
            tokens if dice.random() < 0.3 else (),
            hubs,
        )

    def texts(self) -> list[TextPart]:
        spans = [None, Span(1, 3, "line")]
        return [
            TextPart(self.dice.choice(["a dog", "été"]), "caption", self.dice.choice(spans))
            for _ in range(self.dice.randint(0, 3))
        ]

    def record(self) -> tuple[dict[str, Any], Any, Any]:
        """What a record says, and the paths of the item that it changes and of its duplicate."""
        dice, there = self.dice, self.items()
        place = dice.choice(FOLDERS), dice.choice(NAMES)
        texts = self.texts() if dice.random() < 0.5 else None
        given: dict[str, Any] = {
            "folder": place[0],
            "name": place[1],
            "kind": dice.choice(["image", "video"]),
            "stat": (dice.randint(0, 9), dice.randint(0, 9)),
            "hash": dice.choice([b"1", b"2", b"3"]),
            "sidecar": dice.choice([None, (3, 4)]),
            "sidecar_name": dice.choice([None, "a.txt"]),
            "media": dice.choice([None, {"width": dice.randint(1, 9), "readings": "ocr"}]),
            "texts": texts,
            "ctime_ns": dice.choice([None, 7]),
            "vectors": {},
        }
        changed = duplicate = None
        if there and dice.random() < 0.6:
            duplicate = dice.choice(sorted(there))
            given["hash"] = there[duplicate][0] if dice.random() < 0.9 else b"other"
            if dice.random() < 0.5:  # moved, or looked at again
                changed = duplicate
        elif place in there:
            changed = place
        new = duplicate is None
        for modality in MODALITIES:
            number = dice.randint(0, 2)
            if modality == "text":
                if texts is None:
                    continue
                number = len(texts)
            if new or modality == "text":
                given["vectors"][modality] = self.vectors(number, modality)
        return given, changed, duplicate

    def put(self) -> None:
        made, places = [], set()
        for _ in range(self.dice.randint(1, 4)):
            given, changed, duplicate = self.record()
            touched = {(given["folder"], given["name"]), changed, duplicate} - {None}
            if not touched & places:  # as a scan makes them: each file once
                made.append((given, changed, duplicate))
                places |= touched
        failed = [
            (self.dice.choice(FOLDERS), name, self.dice.choice([None, (1, 2)]))
            for name in self.some([*NAMES, "a.txt"], 1)
        ]

        def action(store: Store) -> None:
            source, space = store.sources.all()[0][0], space_of(store)

            def id_at(place: Any) -> int | None:
                return None if place is None else store.files.at(source, *place).id

            records = []
            for given, changed, duplicate in made:
                fields = {(space.id, m): found for m, found in given["vectors"].items()}
                more = {"id": id_at(changed), "duplicate_of": id_at(duplicate), "vectors": fields}
                records.append(ItemRecord(source, **{**given, **more}))
            store.put(
                records,
                [
                    FailureRecord(source, *place, "bad", stat, retry=False)
                    for *place, stat in failed
                ],
            )

        self.do(action)

    def backfill(self) -> None:
        there = self.items()
        chosen = {
            place: (
                self.dice.choice([there[place][0], b"stale"]),
                self.dice.choice(MODALITIES),
                there[place][1] if self.dice.random() < 0.8 else ["other"],
            )
            for place in self.some(sorted(there), 3)
        }
        new = {
            place: self.vectors(len(texts) if modality == "text" else 1, modality)
            for place, (_, modality, texts) in chosen.items()
        }

        def action(store: Store) -> None:
            source, space = store.sources.all()[0][0], space_of(store)
            ids = {place: store.files.at(source, *place).id for place in chosen}
            store.vectors.backfill(
                {
                    (ids[place], hash_): {(space.id, modality): new[place]}
                    for place, (hash_, modality, _) in chosen.items()
                },
                {ids[place]: texts for place, (*_, texts) in chosen.items()},
            )

        self.do(action)

    def load(self) -> None:
        """A batch of an import, some of whose items are there."""
        dice = self.dice
        places = dice.sample([(f, n) for f in FOLDERS for n in NAMES], dice.randint(1, 5))
        numbers = list(range(len(places)))
        widths = [dice.choice([None, 5, 6]) for _ in numbers]
        texts: Any = [[], [], "caption", [], None, None, None]
        for number in numbers:
            for position, part in enumerate(self.texts()):
                for column, value in ((0, number), (1, position), (3, part.text)):
                    texts[column].append(value)
        of_image = self.some(numbers, 5)
        vectors = self.vectors(len(of_image), "image")
        blobs = [row.astype("<f2").tobytes() for row in vectors.matrix]
        image = [of_image, 0, None, None, None, blobs, [0.5] * len(blobs), None]
        stars = self.some(numbers, 3)
        said = [stars, "stars", [str(number) for number in stars], [float(n) for n in stars]]
        tagged: Any = [self.some(numbers, 3), "it's a dog"]
        tagged.append([0.5] * len(tagged[0]))
        with_texts, with_stars, with_tags = (dice.random() < 0.7 for _ in range(3))

        def action(store: Store) -> tuple[int, int]:
            source = store.sources.all()[0][0]
            batch = ItemBatch(
                [source] * len(places),
                [folder for folder, _ in places],
                [name for _, name in places],
                columns={"width": widths},
                texts=texts if with_texts else None,
                metadata=said if with_stars else None,
                tags=tagged if with_tags else None,
                vectors={"image": image},
            )
            with store.loader.loading(len(places)) as put_batch:
                return put_batch(batch, space_of(store))

        self.do(action)

    def remove(self) -> None:
        doomed = self.some(sorted(self.items()), 2)

        def action(store: Store) -> None:
            source = store.sources.all()[0][0]
            store.items.remove([store.files.at(source, *place).id for place in doomed])

        self.do(action)

    def remove_folder(self) -> None:
        folder = self.dice.choice(FOLDERS[1:])
        self.do(lambda store: store.items.remove_below(store.sources.all()[0][0], folder))

    def describe(self) -> None:
        said = {
            place: {"stars": self.dice.randint(1, 5)}
            for place in self.some(sorted(self.items()), 2)
        }
        dogs = dict.fromkeys(self.some(sorted(self.items()), 2), 0.5)

        def action(store: Store) -> None:
            source = store.sources.all()[0][0]
            store.metadata.set(
                [(store.files.at(source, *place).id, own) for place, own in said.items()]
            )
            ids = {store.files.at(source, *place).id: score for place, score in dogs.items()}
            store.tags.set({"dog": ids})

        self.do(action)


class Follower:
    """What a cache holds that reads only what was added and what was deleted."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rows: dict[str, dict[int, tuple[int, bytes]]] = {}
        self._seen: dict[str, tuple[int, int]] = {}

    def vectors(self, modality: str) -> list[tuple[str, bytes]]:
        """Path and vector of each row, sorted."""
        store, space = self._store, space_of(self._store)
        rows = self._rows.setdefault(modality, {})
        added, change = self._seen.get(modality, (0, 0))
        deleted, change = store.changes.deleted_vectors(space, modality, change)
        for vector_id in deleted.tolist():
            rows.pop(vector_id, None)
        for new in store.vectors.new(space, modality, added):
            vectors = [row.tobytes() for row in new.rows]
            ids = new.vector_ids.tolist()
            rows |= dict(zip(ids, zip(new.ids.tolist(), vectors, strict=True), strict=True))
            added = max(ids)
        self._seen[modality] = added, change
        items = store.items.get([item for item, _ in rows.values()])
        return sorted((items[item].path, vector) for item, vector in rows.values())


def space_of(store: Store) -> Space:
    return store.spaces.all()[0]


def contents(store: Store) -> Any:
    """All that a store holds, by path."""
    space, source = space_of(store), store.sources.all()[0][0]
    path = {item.id: item.path for item in store.items.all()}
    complete = {
        item.path: (item.kind, item.columns, item.texts, item.metadata, item.tags, item.vectors)
        for page in store.items.complete(space)
        for item in page
    }
    files = {
        (folder, name): (*known[2:-1], known.readings)
        for folder in store.files.folders(source, "")
        for name, known in store.files.known(source, folder).items()
    }
    failures = [(failure.path, failure.reason) for failure in store.failures.all()]
    fields = {}
    for modality in MODALITIES:
        owners, _, positions = store.vectors.of(space, modality)
        keys = [(path[item], at) for item, at in zip(owners, positions, strict=True)]
        hubs = [store.hubs.of(space, modality, asked) for asked in ("text", "image")]
        tokens = store.token_embeddings.of(space, modality, list(path))
        missing = store.vectors.missing(space, modality, ["image", "video"])
        fields[modality] = (
            {key: str(pair) for key, pair in zip(keys, zip(*hubs, strict=True), strict=True)},
            {(path[item], at): matrix.tolist() for (item, at), matrix in tokens.items()},
            sorted((where, hash_) for _, where, hash_ in missing),
        )
    return complete, files, failures, fields


@pytest.mark.parametrize(
    ("engine", "seed"),
    [*(("sqlite", seed) for seed in range(8)), ("postgres", 0)],
)
def test_after_any_history_both_stores_hold_the_same(tmp_path: Path, engine: str, seed: int):
    with ExitStack() as stack:
        if engine == "postgres":
            check_history(stack.enter_context(postgres_store()), seed)
        else:
            check_history(stack.enter_context(closing(Catalog(tmp_path / "catalog.db"))), seed)


def check_history(stored: Store, seed: int) -> None:
    dice = random.Random(seed)
    twins = Twins(stored, dice)
    actions = [twins.put] * 5 + [twins.backfill, twins.load, twins.remove, twins.describe]
    for _ in range(STEPS):
        before = [(contents(store)[-1], store.state().revision) for store in twins.stores]
        dice.choice([*actions, twins.remove_folder])()
        for (vectors, revision), store in zip(before, twins.stores, strict=True):
            assert contents(store)[-1] == vectors or store.state().revision > revision
        assert contents(twins.stores[0]) == contents(twins.stores[1])
        for modality in MODALITIES:
            seen = [follower.vectors(modality) for follower in twins.followers]
            assert seen[0] == seen[1]
