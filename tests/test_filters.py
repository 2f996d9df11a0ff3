from __future__ import annotations

import fnmatch
import itertools
import math
import os
import random
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmsearch.errors import InvalidFilter
from mmsearch.filters import KEYS, from_options, parse_condition, parse_where
from mmsearch.filters.match import bounding_box, kilometres, nanoseconds
from mmsearch.filters.model import Circle
from mmsearch.storage import ItemRecord
from mmsearch.storage.records import split_path
from mmsearch.storage.sql.schema import tags, vectors
from mmsearch.storage.sqlite import Catalog
from mmsearch.storage.sqlite.view import statement_of
from mmsearch.types import TextPart


@dataclass
class Thing:
    """An item as the oracle sees it."""

    root: str = "/photos"
    folder: str = ""
    name: str = "a.jpg"
    modality: str = "image"
    size: int = 10
    mtime_ns: int = 0
    details: dict[str, Any] = field(default_factory=dict)
    origins: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    heard: bool = False

    @property
    def relative(self) -> str:
        return f"{self.folder}/{self.name}".lstrip("/")

    @property
    def path(self) -> str:
        return os.path.join(self.root, self.relative)


def world_of(things: list[Thing], place: Path) -> Catalog:
    made = Catalog(place)
    for thing in things:
        texts = [TextPart("x", origin) for origin in thing.origins]
        made.put(
            [
                ItemRecord(
                    source_id=made.sources.add(thing.root),
                    folder=thing.folder,
                    name=thing.name,
                    kind=thing.modality,
                    stat=(thing.size, thing.mtime_ns),
                    hash=b"x",
                    media=thing.details,
                    texts=texts,
                )
            ]
        )
    made.metadata.set(enumerate((thing.meta for thing in things), 1))
    with made.database.write() as connection:
        space = connection.exec_driver_sql(
            "INSERT INTO spaces (name, fingerprint, dim, modalities, serves, backfills)"
            " VALUES ('toy', 'f', 1, '', '', '') RETURNING id"
        ).scalar_one()
        for number, thing in enumerate(things, 1):
            for tag in thing.tags:
                connection.execute(tags.insert().values(item_id=number, tag=tag, score=0.5))
            if thing.heard:
                row = {"space_id": space, "modality": "audio", "item_id": number, "position": 0}
                connection.execute(vectors.insert().values(**row, vector=b"ab"))
    return made


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Catalog]:
    made = world_of(request.param, tmp_path / "catalog.db")
    yield made
    made.close()


def matching(made: Catalog, *conditions: str, **options: Any) -> list[int]:
    return made.filters.matching(from_options(where=conditions, **options)).tolist()


def where(made: Catalog, **wanted: Any) -> list[int]:
    return made.filters.matching(parse_where(wanted)).tolist()


def of(*things: Thing) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("world", [list(things)], indirect=True)


# ---------------------------------------------------------------------- an oracle

ROOTS = ["/photos", "/", "/mnt/été"]
FOLDERS = ["", "2019", "2019/beach", "trip [1]/x", "100%", "été", "caf\udce9", "a\nb"]
NAMES = [
    "a.jpg",
    "A.JPG",
    "b_1.png",
    "éa.jpg",
    "e\u0301.jpg",
    "caf\udce9.jpg",
    "[x].jpg",
    "a'b;--.jpg",
]
NAMES += ["100%.jpg", "line\nend.jpg", "ﬁle.jpg", "İ.jpg", "\udc80\udce9.jpg", '"q".jpg']
CAMERAS = [None, "Canon EOS 5D", "NIKON D90", "Größe 1", "canon_eos", "5%", "\u212aodak"]
WORDS = ["Ann", "ann", "5", "5.0", "05", "-1e3", "7.25", "n/a", "", "2020-05-01", "Ä'; DROP", "ß"]
WORDS += ["9007199254740993", "9007199254740992", "true", "True", "FALSE", "a_b%c"]
TAGS = ["dog", "Dog", "a cat", "été"]
ORIGINS = ["passage", "sidecar", "caption", "page", "ocr", "speech"]
DATES = [
    "2019",
    "2019-12",
    "2019-12-31",
    "2020-01-01T00",
    "2020-01-01T00:00",
    "2020-01-01T00:00:01",
]
DATES += ["2020-01-01 00:00:00.5", "9999", "9999-12-31T23:59:59.999999", "0001", "2020", "1969"]
MOMENTS = ["2019-12-31T23:59:59", "2020-01-01T00:00:00", "2020-01-01T00:00:00.500000"]
MOMENTS += [
    "2020-01-01T00:00:01",
    "9999-12-31T23:59:59",
    "2021-06-01T12:00:00",
    "0001-01-01T00:00:00",
]
POINTS = [(48.2, 16.4), (90.0, 0.0), (-90.0, 77.0), (0.0, 180.0), (0.0, -180.0), (0.5, 179.9)]
POINTS += [(89.9, -170.0), (89.9, 10.0), (0.4, -179.8), (-33.0, 151.0), (48.21, 16.41)]


def some_things(number: int, seed: int = 1) -> list[Thing]:
    dice = random.Random(seed)
    places = list(itertools.product(ROOTS[:1] + ROOTS[2:], FOLDERS, NAMES))
    things = []
    for root, folder, name in dice.sample(places, number):
        point = dice.choice([*POINTS, None])
        details: dict[str, Any] = {
            "width": dice.choice([None, 640, 1920, 4000]),
            "height": dice.choice([None, 480, 1080, 3000]),
            "camera": dice.choice(CAMERAS),
            "taken_at": dice.choice([None, *MOMENTS]),
            "seconds": dice.choice([None, 0.5, 61.25]),
            "pages": dice.choice([None, 1, 12]),
        }
        if point:
            details |= {"latitude": point[0], "longitude": point[1]}
        meta = {
            key: dice.choice([None, *WORDS, 5, 7.25, True]) for key in ("rating", "who", "size")
        }
        moment = datetime.fromisoformat(dice.choice(MOMENTS[:4])).replace(tzinfo=UTC)
        things.append(
            Thing(
                root,
                folder,
                name,
                dice.choice(["image", "text", "audio", "video", "document"]),
                dice.choice([0, 10, 1000, 1024, 2_000_000]),
                round(moment.timestamp() * 1e6) * 1000,
                details,
                tuple(dice.sample(ORIGINS, dice.choice([0, 0, 1, 2]))),
                tuple(dice.sample(TAGS, dice.choice([0, 1, 2]))),
                meta,
                dice.choice([True, False]),
            )
        )
    return things


def stretch(written: str) -> tuple[str, str]:
    """What the moments of a date lie between, as texts that sort as they do: [first, after)."""
    written = written.replace(" ", "T")
    full = "0000-00-00T00:00:00.000000"
    lowest = written + full[len(written) :] if "." not in written else written.ljust(26, "0")
    highest = written + "~"  # sorts behind every moment that begins so
    return lowest.replace("-00", "-01"), highest


def timed(moment: str | None, op: str, value: Any) -> bool:
    if moment is None:
        return False
    moment = moment if "." in moment else moment + ".000000"
    if op == "$in":
        return any(timed(moment, "$eq", one) for one in value)
    first, after = stretch(value)
    return {
        "$eq": first <= moment < after,
        "$gte": moment >= first,
        "$gt": moment >= after,
        "$lt": moment < first,
        "$lte": moment < after,
    }[op]


def ordered(own: Any, op: str, value: Any) -> bool:
    if own is None:
        return False
    return {
        "$eq": lambda: own == value,
        "$in": lambda: own in value,
        "$gt": lambda: own > value,
        "$gte": lambda: own >= value,
        "$lt": lambda: own < value,
        "$lte": lambda: own <= value,
    }[op]()


def worded(names: list[str], op: str, value: Any) -> bool:
    def plain(text: str) -> str:
        return unicodedata.normalize("NFC", text.casefold())

    if op == "$contains":
        return any(plain(value) in plain(name) for name in names)
    if op == "$glob":
        return any(fnmatch.fnmatchcase(name, value) for name in names)
    return any(name == one for name in names for one in (value if op == "$in" else [value]))


def steps(path: str) -> list[str]:
    """A path and every folder above it."""
    return [path[:end] for end in range(1, len(path) + 1) if path[end : end + 1] in ("", "/")]


def named(name: str, pattern: str) -> bool:
    """A pattern of names is also the name that is written so."""
    return fnmatch.fnmatchcase(name, pattern) or name == pattern


def globbed(thing: Thing, pattern: str) -> bool:
    plain = pattern.removeprefix("./").rstrip("/")
    if not plain:
        return True
    if "/" not in plain:
        folders = [f"/{step}" for step in steps(thing.relative)[:-1]]
        inside = any(
            fnmatch.fnmatchcase(one, f"*/{plain}") or one.endswith(f"/{plain}") for one in folders
        )
        return inside or named(thing.name, plain)
    return any(named(way, plain) for way in steps(thing.relative) + steps(thing.path))


def read(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def said(own: Any, op: str, value: Any) -> bool:
    if own is None:
        return False
    own = str(own).lower() if isinstance(own, bool) else str(own)
    if op in ("$contains", "$glob"):
        return worded([own], op, value)
    if op == "$in":
        return any(said(own, "$eq", one) for one in value)
    written = str(value).lower() if isinstance(value, bool) else str(value)
    texts = [written]
    if written.lower() in ("true", "false"):  # the same however it is spelt
        texts += [written.lower(), written.title(), written.upper()]
    number = None if value is True else read(texts[0])
    mine = read(own)
    if op == "$eq":
        same = None not in (number, mine) and number == mine and abs(number or 0) < 2**53
        return own in texts or same
    return ordered(mine, op, number) if number is not None else ordered(own, op, texts[0])


def holds(thing: Thing, key: str, op: str, value: Any) -> bool:  # noqa: PLR0911
    """Whether one condition holds, in plain Python."""
    if op in ("$ne", "$nin"):
        return not holds(thing, key, {"$ne": "$eq", "$nin": "$in"}[op], value)
    get = thing.details.get
    changed = (
        datetime.fromisoformat("1970-01-01") + timedelta(microseconds=thing.mtime_ns // 1000)
    ).isoformat()
    names = {
        "path": [thing.path, thing.relative],
        "name": [thing.name],
        "folder": [os.path.dirname(thing.path), thing.folder],
        "camera": [get("camera")] if get("camera") else [],
        "tag": list(thing.tags),
    }
    if op == "$exists":
        there = {
            "camera": bool(names["camera"]),
            "tag": bool(thing.tags),
            "date": True,
            "taken": get("taken_at") is not None,
            "modified": True,
            "megapixels": None not in (get("width"), get("height")),
        }
        own = thing.meta if key.startswith("meta.") or key in ("rating", "who") else thing.details
        return there.get(key, own.get(key.removeprefix("meta.")) is not None) is value
    if key == "path" and op == "$glob":
        return globbed(thing, value)
    if key in ("path", "name", "folder") and op == "$glob":
        return any(named(name, value) for name in names[key])
    if key in names:
        return worded(names[key], op, value)
    if key in ("taken", "modified", "date"):
        moment = {"taken": get("taken_at"), "modified": changed}
        return timed(moment.get(key, get("taken_at") or changed), op, value)
    if key == "near":
        if get("latitude") is None:
            return False
        return kilometres(get("latitude"), get("longitude"), Circle(*value)) <= value[2]
    if key == "has":
        captioned = {"caption", "sidecar"} & {*thing.origins}
        texts = {"passage", "page", "ocr", "speech"} & {*thing.origins}
        video = thing.modality == "video" and (thing.heard or "speech" in thing.origins)
        has = {
            "caption": bool(captioned),
            "gps": get("latitude") is not None,
            "text": bool(texts),
            "sound": thing.modality == "audio" or video,
        }
        return any(has[one] for one in ([value] if op == "$eq" else value))
    if key in ("modality", "size"):
        return ordered(getattr(thing, key), op, value)
    if key == "megapixels":
        sides = get("width"), get("height")
        pixels = None if None in sides else sides[0] * sides[1] / 1e6
        return ordered(pixels, op, value)
    if key in ("rating", "who", "meta.size"):
        return said(thing.meta.get(key.removeprefix("meta.")), op, value)
    return ordered(get(key), op, value)


def passes(thing: Thing, wanted: dict[str, Any]) -> bool:
    for key, value in wanted.items():
        if key == "$not":
            ok = not passes(thing, value)
        elif key in ("$and", "$or"):
            ok = {"$and": all, "$or": any}[key](passes(thing, one) for one in value)
        elif isinstance(value, dict):
            ok = all(holds(thing, key, op, one) for op, one in value.items())
        elif isinstance(value, list) and key != "near":
            ok = holds(thing, key, "$in", value)
        elif value is None:
            ok = holds(thing, key, "$exists", False)
        else:
            ok = holds(thing, key, "$eq", value)
        if not ok:
            return False
    return True


def asking(key: str, values: st.SearchStrategy[Any], *more: str) -> st.SearchStrategy[Any]:
    """A condition on one key, in each of the ways that it is written."""
    lists = st.lists(values, max_size=3)
    equal = st.one_of(values, lists if key != "near" else values)
    plain = st.sampled_from(["$eq", "$ne"])
    choices = [equal, st.dictionaries(plain, values, min_size=1)]
    if key != "near":
        choices.append(st.dictionaries(st.sampled_from(["$in", "$nin"]), lists, min_size=1))
    if "<" in more:
        compare = st.sampled_from(["$gt", "$gte", "$lt", "$lte"])
        choices.append(st.dictionaries(compare, values, min_size=1))
    if "exists" in more:
        choices += [st.none(), st.fixed_dictionaries({"$exists": st.booleans()})]
    if "words" in more:
        compare = st.sampled_from(["$contains", "$glob"])
        parts = values.map(str).filter(bool)
        choices.append(st.dictionaries(compare, st.one_of(parts, patterns(parts)), min_size=1))
    return st.one_of(choices).map(lambda wanted: {key: wanted})


def patterns(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Parts of values with wildcards in and about them."""
    wild = st.sampled_from(["*", "?", "[a-z]", "[!a]", "%", "_", "**", "É", ""])
    cut = st.tuples(values, st.integers(0, 8), st.integers(0, 8))
    part = cut.map(lambda c: c[0][c[1] : c[1] + c[2]])
    return st.tuples(wild, part, wild, part, wild).map("".join).filter(bool)


paths = st.builds(
    lambda root, folder, name: os.path.join(root, folder, name).rstrip("/") or "/",
    st.sampled_from(["", "/photos", "/mnt/été", "./"]),
    st.sampled_from(FOLDERS),
    st.sampled_from(["", *NAMES]),
)
numbers = st.sampled_from([0, 0.3072, 1, 10, 12, 61.25, 640, 1000, 1024, 1920, 2e6, -1])
conditions = st.one_of(
    asking("path", paths, "words"),
    asking("name", st.sampled_from(NAMES), "words"),
    asking("folder", st.sampled_from([*FOLDERS, "/photos/2019", "/photos"]), "words"),
    asking("camera", st.sampled_from(CAMERAS[1:]), "words", "exists"),
    asking("tag", st.sampled_from([*TAGS, "none"]), "words", "exists"),
    asking("modality", st.sampled_from(["image", "video", "audio", "text", "document"])),
    asking("has", st.sampled_from(["caption", "gps", "text", "sound"])),
    asking(
        "near",
        st.tuples(st.sampled_from(POINTS), st.sampled_from([0, 1, 30, 500, 2e4])).map(
            lambda found: [*found[0], found[1]]
        ),
    ),
    *(asking(key, st.sampled_from(DATES), "<", "exists") for key in ("taken", "modified", "date")),
    asking("size", numbers, "<"),
    *(
        asking(key, numbers, "<", "exists")
        for key in ("width", "height", "megapixels", "seconds", "pages")
    ),
    *(
        asking(key, st.sampled_from([*WORDS, 5, 7.25, True, 2**53 + 1]), "<", "words", "exists")
        for key in ("rating", "who", "meta.size")
    ),
)
wheres = st.recursive(
    conditions,
    lambda deeper: st.one_of(
        st.dictionaries(st.sampled_from(["$and", "$or"]), st.lists(deeper, min_size=1, max_size=3)),
        deeper.map(lambda one: {"$not": one}),
        st.tuples(deeper, conditions).map(lambda two: two[0] | two[1]),
    ),
    max_leaves=4,
)

THINGS = some_things(90)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    made = world_of(THINGS, tmp_path_factory.mktemp("world") / "catalog.db")
    yield made
    made.close()


@given(wanted=wheres)
@example(wanted={})
@example(wanted={"$not": {"width": {"$gt": 1}}})
@example(wanted={"$or": [{"camera": None}, {"path": "x"}]})
def test_what_passes_is_what_plain_python_says(full: Catalog, wanted: dict[str, Any]):
    found = full.filters.matching(parse_where(wanted)).tolist()
    assert found == [id_ for id_, thing in enumerate(THINGS, 1) if passes(thing, wanted)]


# ---------------------------------------------------------------------- never SQL text

HOSTILE = st.one_of(
    st.text(min_size=1, max_size=20).filter(lambda text: "\0" not in text),
    st.sampled_from(["'; DROP TABLE items; --", '"', "') OR 1=1 --", ":x", "?", "%(x)s", "\\"]),
).map(lambda text: f"zq{text}")


@settings(max_examples=40)
@given(text=HOSTILE, op=st.sampled_from(["$eq", "$ne", "$contains", "$glob", "$in"]))
def test_what_a_user_types_never_becomes_sql_text(full: Catalog, text: str, op: str):
    value = [text, "zqx"] if op == "$in" else text
    for key in ("path", "name", "folder", "camera", "tag", "rating", f"meta.{text}"):
        try:
            filter_ = parse_where({"$or": [{key: {op: value}}, {"$not": {key: {op: value}}}]})
        except InvalidFilter:  # half a character
            continue
        compiled = statement_of(filter_).compile(
            full.database.engine, compile_kwargs={"render_postcompile": True}
        )
        assert "zq" not in str(compiled).lower()
        held = b" ".join(
            one if isinstance(one, bytes) else str(one).encode("utf-8", "surrogateescape")
            for one in compiled.params.values()
        )
        assert text[:2].encode() in held
        if not key.startswith("meta."):
            assert len(full.filters.matching(filter_)) == len(THINGS)
    assert len(full) == len(THINGS)


@given(key=HOSTILE)
def test_a_key_that_no_item_has_is_refused_whatever_it_is(full: Catalog, key: str):
    with pytest.raises(InvalidFilter):
        full.filters.matching(parse_where({key: 1}))


# ---------------------------------------------------------------------- dates


def dated(taken: str | None = None, modified: str = "1970-01-01") -> Thing:
    moment = datetime.fromisoformat(modified).replace(tzinfo=UTC)
    name = f"{taken}{modified}.jpg"
    return Thing(name=name, mtime_ns=int(moment.timestamp()) * 10**9, details={"taken_at": taken})


@of(dated("2019-12-31T23:59:59"), dated("2020-01-01T00:00:00"), dated("2020-12-31T23:59:59"))
def test_after_takes_in_the_whole_year_and_before_none_of_it(world: Catalog):
    assert matching(world, after="2020") == [2, 3]
    assert matching(world, before="2020") == [1]
    assert matching(world, "taken > 2020") == []
    assert matching(world, "taken <= 2020") == [1, 2, 3]


@of(
    dated("2020-03-01T10:00:00", "2000-01-01"), dated(None, "2020-03-01"), dated(None, "2001-01-01")
)
def test_the_date_is_when_it_was_taken_and_else_when_it_was_modified(world: Catalog):
    assert matching(world, after="2020-03", before="2020-04") == [1, 2]
    assert matching(world, "taken = 2020-03") == [1]
    assert matching(world, "modified = 2020-03-01") == [2]


@of(dated("2020-03-01T10:00:00"))
def test_a_date_may_be_given_as_python_has_it(world: Catalog):
    assert where(world, taken=date(2020, 3, 1)) == [1]
    assert where(world, taken={"$gte": datetime.fromisoformat("2020-03-01T10:00")}) == [1]
    assert where(world, taken={"$gt": datetime.fromisoformat("2020-03-01T10:00")}) == []
    assert where(world, taken=2020) == [1]


@pytest.mark.parametrize(
    "written", ["2020-13", "2021-02-29", "1/2/2020", "20", "", "2020-01-01Z", "٢٠٢٠"]
)
def test_what_is_no_date_is_refused(written: str):
    with pytest.raises(InvalidFilter, match="date"):
        from_options(after=written)


@given(st.datetimes())
def test_a_moment_is_nanoseconds_since_1970_as_far_as_64_bits_reach(moment: datetime):
    since = moment - datetime(1970, 1, 1)  # noqa: DTZ001 - both in UTC
    micros = since // timedelta(microseconds=1)
    assert nanoseconds(moment) == max(-(2**63), min(micros * 1000, 2**63 - 1))


# ---------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("7", 7),
        ("7 B", 7),
        ("1.5k", 1_500),
        ("500kB", 500_000),
        ("2MB", 2_000_000),
        ("1GB", 10**9),
        ("3TB", 3 * 10**12),
        ("1KiB", 2**10),
        ("0.5 mib", 2**19),
        ("1GiB", 2**30),
        (".5TiB", 2**39),
    ],
)
def test_a_size_is_bytes_or_powers_of_1000_or_1024(written: str, size: int):
    assert parse_condition(f"size < {written}") == parse_where({"size": {"$lt": size}})


# ---------------------------------------------------------------------- places


def placed(latitude: float, longitude: float) -> Thing:
    details = {"latitude": latitude, "longitude": longitude}
    return Thing(name=f"{latitude} {longitude}.jpg", details=details)


def chord_kilometres(a: tuple[float, float], b: tuple[float, float]) -> float:
    """The distance once more, from the points' coordinates in space."""
    (x, y, z), (u, v, w) = (
        (
            math.cos(math.radians(lat)) * math.cos(math.radians(lon)),
            math.cos(math.radians(lat)) * math.sin(math.radians(lon)),
            math.sin(math.radians(lat)),
        )
        for lat, lon in (a, b)
    )
    across = math.sqrt((y * w - z * v) ** 2 + (z * u - x * w) ** 2 + (x * v - y * u) ** 2)
    return 6371.0088 * math.atan2(across, x * u + y * v + z * w)


latitudes = st.one_of(st.floats(-90, 90), st.sampled_from([-90.0, 90.0, 89.99, -89.99, 0.0]))
longitudes = st.one_of(st.floats(-180, 180), st.sampled_from([-180.0, 180.0, 179.99, -179.99]))


@given(
    lat=latitudes,
    lon=longitudes,
    km=st.one_of(st.floats(0, 20_100), st.sampled_from([0.01, 1.0, 100.0])),
    step=st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
)
def test_near_is_every_place_within_the_great_circle_distance(lat, lon, km, step):
    near = (max(-90.0, min(90.0, lat + step[0])), (lon + step[1] + 180) % 360 - 180)
    assert kilometres(lat, lon, Circle(*near, km)) == pytest.approx(
        chord_kilometres((lat, lon), near), rel=1e-6, abs=1e-5
    )
    if kilometres(lat, lon, Circle(*near, km)) <= km:  # then no box may leave it out
        (low, high), stretches = bounding_box(Circle(*near, km))
        assert low <= lat <= high
        assert any(west <= lon <= east for west, east in stretches)


@of(
    placed(0.0, 179.95), placed(0.0, -179.95), placed(0.0, 180.0), placed(0.0, -180.0), placed(0, 0)
)
def test_a_circle_goes_on_beyond_the_antimeridian(world: Catalog):
    assert matching(world, near="0,179.99,20") == [1, 2, 3, 4]
    assert matching(world, near="0,-180,1") == [3, 4]


@of(
    placed(89.9, 0.0),
    placed(89.9, 180.0),
    placed(89.9, -90.0),
    placed(-89.9, 0.0),
    placed(89.0, 0.0),
)
def test_a_circle_about_a_pole_has_every_longitude(world: Catalog):
    assert matching(world, near="90,77,12") == [1, 2, 3]
    assert matching(world, near="89.95,45,20") == [1, 2, 3]


@of(placed(48.2, 16.37), Thing(name="nowhere.jpg"))
def test_what_has_no_place_is_near_nothing(world: Catalog):
    assert matching(world, near="48.2,16.37,20100") == [1]
    assert where(world, **{"$not": {"near": (48.2, 16.37, 20_100)}}) == [2]


@pytest.mark.parametrize("near", ["1,2", "91,0,1", "0,181,1", "0,0,-1", "a,b,c", "nan,0,1", ""])
def test_what_is_no_place_is_refused(near: str):
    with pytest.raises(InvalidFilter, match="near"):
        from_options(near=near)


# ---------------------------------------------------------------------- paths

TREE = (
    Thing(folder="2019/beach", name="a.jpg"),
    Thing(folder="2019", name="b.JPG"),
    Thing(folder="", name="beach.png"),
    Thing(folder="trip [1]", name="c.jpg"),
    Thing(folder="line\nend", name="caf\udce9.jpg"),
)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.jpg", [1, 4, 5]),
        ("beach*", [1, 3]),  # a file's name, and a folder's
        ("beach", [1]),
        ("2019/", [1, 2]),
        ("./2019", [1, 2]),
        ("2019/beach", [1]),
        ("2019/*.jpg", [1]),  # as in --exclude, a star takes in slashes
        ("**/a.jpg", [1]),
        ("**/beach.png", [3]),
        ("/photos/2019/**/b.JPG", [2]),
        ("/photos/2019", [1, 2]),
        ("/photos", [1, 2, 3, 4, 5]),
        ("/photo", []),
        ("*/2019/*", [1, 2]),
        ("*[[]1]*", [4]),
        ("trip [1]", [4]),  # the name that is written so
        ("trip [1]/", [4]),
        ("trip [1]/c.jpg", [4]),
        ("/photos/trip [1]", [4]),
        ("trip [2]", []),
        ("[b]each*", [1, 3]),
        ("caf?.jpg", [5]),
        ("caf\udce9.jpg", [5]),
        ("*\n*", [5]),
        ("line*", [5]),
        ("%", []),
        ("nothing", []),
    ],
)
@of(*TREE)
def test_a_path_is_matched_as_a_shell_does(world: Catalog, pattern: str, found: list[int]):
    assert matching(world, path=[pattern]) == found


PATHS_AND_URLS = [
    "https://a.org",
    "https://a.org/b/c.jpg",
    "https://a.org/d/",
    "http://a//b//c.jpg",
    "s3://b/k=v?x=1",
    "/x.jpg",
    "a//b.jpg",
    "./a.jpg",
    "./b/a.jpg",
    "../a.jpg",
    "/",
]


@of()
@pytest.mark.parametrize("path", PATHS_AND_URLS)
def test_what_was_imported_is_found_by_its_path(world: Catalog, path: str):
    folder, name = split_path(path)
    source = world.sources.imported()
    world.put([ItemRecord(source, folder, name, "image", (1, 1), hash=b"")])
    assert matching(world, path=[path]) == [1]
    assert matching(world, f"path = {path}") == [1]
    assert where(world, path={"$contains": path[1:] or "/"}) == [1]
    assert where(world, path={"$in": ["other.jpg", path]}) == [1]
    assert matching(world, f"path != {path}") == []


@of(Thing(folder="2019/beach", name="a.jpg"))
@pytest.mark.parametrize("folder", ["2019/beach", "2019/beach/", "/photos/2019/beach/"])
def test_a_folder_may_be_written_with_a_slash_after_it(world: Catalog, folder: str):
    assert matching(world, f"folder = {folder}") == [1]


@of(
    Thing(name="[x].jpg", details={"camera": "[x]"}),
    Thing(name="x.jpg", details={"camera": "x"}),
)
def test_brackets_in_a_pattern_of_names_may_be_part_of_the_name(world: Catalog):
    assert where(world, name={"$glob": "[x].jpg"}) == [1, 2]
    assert where(world, camera={"$glob": "[x]"}) == [2]


@of(Thing(root="/mnt/caf\udce9", folder="x"), Thing(name="b.jpg"))
def test_files_of_a_source_whose_name_is_not_utf8_are_found_by_their_path(world: Catalog):
    for wanted in (
        {"path": "/mnt/caf\udce9/x/a.jpg"},
        {"path": {"$glob": "/mnt/caf\udce9"}},
        {"path": {"$glob": "/mnt/caf*/x/*"}},
        {"path": {"$contains": "\udce9/x"}},
        {"folder": "/mnt/caf\udce9/x"},
    ):
        assert where(world, **wanted) == [1]


@of(*TREE)
def test_of_several_paths_one_must_match(world: Catalog):
    assert matching(world, path=["beach.png", "trip*"]) == [3, 4]


def test_a_path_from_the_folder_we_are_in_is_understood(tmp_path: Path, monkeypatch):
    root = tmp_path / "photos"
    (root / "trip [1]").mkdir(parents=True)
    made = world_of(
        [Thing(str(root), "trip [1]", "c.jpg"), Thing(str(root), "", "d.jpg")], tmp_path / "c.db"
    )
    monkeypatch.chdir(tmp_path)
    assert matching(made, path=["photos/trip [1]"]) == [1]
    assert matching(made, path=["photos"]) == [1, 2]
    assert matching(made, path=["photos/*.jpg"]) == [1, 2]
    monkeypatch.chdir(root / "trip [1]")
    assert matching(made, path=["../d.*"]) == [2]
    assert matching(made, path=["."]) == [1]
    made.close()


# ---------------------------------------------------------------------- other options


@of(
    Thing(name="a", details={"width": 1920, "height": 1080, "camera": "Canon EOS 5D"}),
    Thing(name="b", details={"width": 1080, "height": 1920, "camera": "NIKON D90"}, tags=("dog",)),
    Thing(name="c", modality="text", origins=("passage",)),
    Thing(name="d", modality="video", origins=("sidecar", "speech"), tags=("dog", "beach")),
)
def test_all_options_must_hold(world: Catalog):
    assert matching(world, min_size="1920x1080") == [1]
    assert matching(world, min_size="1000X1000") == [1, 2]
    assert matching(world, camera="canon") == [1]
    assert matching(world, modality=["text,video"]) == [3, 4]
    assert matching(world, has=["text"]) == [3, 4]
    assert matching(world, has=["caption,sound"]) == [4]
    assert matching(world, tag=["dog"]) == [2, 4]
    assert matching(world, tag=["dog", "beach"]) == [4]
    assert matching(world, "size >= 1", "tag in dog,cat", "camera ~ nikon") == [2]
    assert matching(world) == [1, 2, 3, 4]


OPTIONS: dict[str, Any] = {
    "path": ["*.jpg"],
    "modality": ["image"],
    "after": "2019",
    "before": "2021",
    "camera": "canon",
    "near": "48,16,10",
    "min_size": "100x100",
    "has": ["gps"],
    "tag": ["dog"],
    "where": ["size > 1"],
}


@given(st.sets(st.sampled_from(sorted(OPTIONS))))
def test_options_given_together_are_all_of_their_conditions(chosen: set[str]):
    together = from_options(**{name: OPTIONS[name] for name in chosen})
    alone = [from_options(**{name: OPTIONS[name]}) for name in chosen]
    assert set(together.conditions) == {one for filter_ in alone for one in filter_.conditions}


@of(Thing(name="a"), Thing(name="b"), Thing(name="c"))
def test_at_most_the_wanted_number_of_ids_is_returned(world: Catalog):
    assert world.filters.matching(parse_where(None), most=2).tolist() == [1, 2]
    assert world.filters.matching(parse_where(None)).dtype == np.int64


# ---------------------------------------------------------------------- conditions in words

RATED = (
    Thing(name="a", meta={"rating": 5, "who": "Ann", "Shot by": "x, y"}),
    Thing(name="b", meta={"rating": 4.5, "who": "bob"}),
    Thing(name="c", meta={"rating": "n/a"}),
    Thing(name="d"),
)


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("rating = 5", [1]),
        ("rating=5.0", [1]),
        ("rating==5", [1]),
        ("rating != 5", [2, 3, 4]),
        ("rating < 5", [2]),
        ("rating <= 5", [1, 2]),
        ("rating>4.5", [1]),
        ("rating >= 4.5", [1, 2]),
        ("rating in 4.5, 5", [1, 2]),
        ("rating not in 4.5,5", [3, 4]),
        ("rating", [1, 2, 3]),
        ("!rating", [4]),
        ("who ~ AN", [1]),
        ("who !~ an", [2, 3, 4]),
        ('who = "Ann"', [1]),
        ('Shot by = "x, y"', [1]),
        ('Shot by in "x, y",z', [1]),
        ("meta.who = Ann", [1]),
        ("rating = n/a", [3]),
    ],
)
@of(*RATED)
def test_a_written_condition(world: Catalog, condition: str, found: list[int]):
    assert matching(world, condition) == found


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("a b c", "write 'key = value'"),
        ("= 3", "write 'key = value'"),
        ("", "write 'key = value'"),
        ("rating =", "no value stands after ="),
        ("width = big", "'big' is not a number"),
        ("width ~ 3", "width takes no"),
        ("modality = photo", "'photo' is none of image, text"),
        ("has = dog", "caption, gps, text, sound"),
        ("size > many", "500kB"),
        ("path > a", "it takes"),
        ("camera = a\0b", "NUL"),
        (f"camera = {'a' * 5000}", "at most 4,096"),
    ],
)
def test_a_condition_that_makes_no_sense_says_what_would(condition: str, says: str):
    with pytest.raises(InvalidFilter) as caught:
        parse_condition(condition)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 300


@given(st.text(max_size=30))
def test_any_condition_is_understood_or_refused(text: str):
    try:
        parse_condition(text)
    except InvalidFilter:
        return


@pytest.mark.parametrize(
    "wanted",
    [
        {"$nor": []},
        {"$or": []},
        {"$or": {"camera": "x"}},
        {"$not": [{"camera": "x"}]},
        {"camera": {}},
        {"camera": {"$regex": "x"}},
        {"camera": {"$exists": 1}},
        {"camera": {"$in": "abc"}},
        {"camera": {"$contains": ""}},
        {"camera": 5},
        {"camera": "\ud800"},
        {"width": math.nan},
        {"width": 10**400},
        {"width": True},
        {"near": 5},
        {"rating": object()},
        {"rating": 10**5000},
        {"taken": datetime(2020, 1, 1, tzinfo=UTC)},
        {5: "x"},
        ["camera"],
        "camera = x",
    ],
)
def test_a_mapping_that_makes_no_sense_is_refused(wanted: Any):
    with pytest.raises(InvalidFilter):
        parse_where(wanted)


@of(Thing())
def test_a_filter_that_is_too_long_or_too_deep_is_refused(world: Catalog):
    deep: dict[str, Any] = {"width": 1}
    for _ in range(2000):
        deep = {"$not": deep}
    with pytest.raises(InvalidFilter, match="deep"):
        parse_where(deep)
    for wanted in (
        {"$or": [{"width": number} for number in range(1000)]},
        {"width": list(range(20_000))},
        {"taken": ["2020"] * 1000},
    ):
        with pytest.raises(InvalidFilter, match="at most"):
            where(world, **wanted)
    assert where(world, width=list(range(9_000))) == []
    assert where(world, **{"$or": [{"path": f"{number}"} for number in range(249)]}) == []


def test_filters_add_up_and_can_be_kept_in_sets():
    one, two = parse_where({"camera": "x"}), parse_where({"width": [1, 2]})
    assert one & two == parse_where({"camera": "x", "width": [1, 2]})
    assert len({one, two, parse_where({"camera": "x"})}) == 2
    assert not parse_where({})


# ---------------------------------------------------------------------- keys and attributes


def test_the_documentation_lists_every_key_as_it_is_declared():
    text = (Path(__file__).parent.parent / "docs" / "commands.md").read_text(encoding="utf-8")
    _, _, table = text.partition("| key | |\n| --- | --- |\n")
    rows = table.partition("| any other |")[0].splitlines()
    assert rows == [f"| `{key.name}` | {key.help} |" for key in KEYS.values()]
    assert all(key.help for key in KEYS.values())


@of(*RATED)
def test_an_unknown_key_is_refused_with_the_known_ones(world: Catalog):
    with pytest.raises(InvalidFilter) as caught:
        matching(world, "camra = x")
    assert "did you mean 'camera'" in str(caught.value)
    assert "of metadata: Shot by, rating, who" in str(caught.value)


@of(Thing(meta={"size": "XL"}), Thing(name="b", size=7))
def test_a_key_of_the_users_own_named_like_a_built_in_one_is_reached_by_meta(world: Catalog):
    assert matching(world, "meta.size = XL") == [1]
    assert matching(world, "size = 7") == [2]
    with pytest.raises(InvalidFilter, match=r"metadata: meta\.size"):
        matching(world, "colour = red")


def own(world: Catalog, item_id: int) -> Any:
    """The user's metadata of an item."""
    return world.items.get([item_id])[item_id].metadata.get("meta")


@of(*RATED)
def test_metadata_come_back_as_they_were_given(world: Catalog):
    assert own(world, 1) == {"rating": "5", "who": "Ann", "Shot by": "x, y"}
    assert own(world, 2) == {"rating": "4.5", "who": "bob"}
    assert own(world, 4) is None


@of(*RATED)
def test_new_metadata_replace_the_old_and_deleted_items_are_left_out(world: Catalog):
    world.metadata.set(
        [(1, {"n": "007", "big": 2**60 + 1, "ok": True, "no": None}), (99, {"n": 1})]
    )
    assert own(world, 1) == {"n": "007", "big": str(2**60 + 1), "ok": "true"}
    assert own(world, 2) == {"rating": "4.5", "who": "bob"}
    assert where(world, n=7) == [1]
    assert where(world, ok=True) == [1]
    assert where(world, big=2**60) == []


@of(Thing(), Thing(name="b"))
def test_metadata_may_hold_what_json_can_spell(world: Catalog):
    world.metadata.set([(1, {"a\0": "x\0y", "half": "\ud83d", "nan": math.nan, "": ""})])
    assert own(world, 1) == {"a\ufffd": "x\ufffdy", "half": "\ufffd", "nan": "nan", "": ""}


@of(Thing(), Thing(name="caf\udce9.jpg", folder="x"), Thing(root="/mnt/b", name="c"))
def test_places_are_read_page_by_page(world: Catalog):
    expected = [
        (1, "/photos", "", "a.jpg"),
        (2, "/photos", "x", "caf\udce9.jpg"),
        (3, "/mnt/b", "", "c"),
    ]
    assert list(world.files.all(page=1)) == list(world.files.all()) == expected


@of(Thing(root="/", folder="", name="a.jpg"), Thing(root="/", folder="etc", name="b.jpg"))
def test_a_source_may_be_the_root_of_the_disk(world: Catalog):
    assert matching(world, path=["/etc/*"]) == [2]
    assert where(world, path="/a.jpg") == [1]
    assert where(world, folder="/") == [1]
    assert where(world, folder="/etc") == [2]


COMPOSED, APART = (unicodedata.normalize(form, "Café/Réal.jpg") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("stored", [COMPOSED, APART, f"{APART[:5]}/{COMPOSED[5:]}"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_may_be_composed_or_apart(catalog_of, stored, form):
    folder, name = os.path.split(stored)
    catalog = catalog_of(folder, name, {"Räting": unicodedata.normalize("NFD", "Öd")})

    def asked(text: str) -> str:
        return unicodedata.normalize(form, text)

    for condition in (
        "name = Réal.jpg",
        "name in x,Réal.jpg",
        "path = Café/Réal.jpg",
        "folder = Café",
        "name ~ réal",
        "räting = Öd",
        "RÄTING ~ öd",
    ):
        assert catalog.filters.matching(parse_condition(asked(condition))).tolist() == [1], (
            condition
        )
    for pattern in ("Café", "Réal*", "Café/R*", "Café/Réal.jpg", "**/Réal.jpg"):
        found = catalog.filters.matching(from_options(path=[asked(pattern)]))
        assert found.tolist() == [1], pattern


@pytest.mark.parametrize("key", ["x = y", "a in b", "two words", "!no", "size", "it's", "Rating"])
def test_any_key_of_the_metadata_can_be_asked_for(catalog_of, key):
    catalog = catalog_of("", "a.jpg", {key: "5"})
    for condition in (f'meta."{key}" = 5', f'meta."{key}"', f'meta."{key}" in 4,5'):
        assert catalog.filters.matching(parse_condition(condition)).tolist() == [1], condition


def test_a_key_is_found_in_any_case_unless_there_is_one_written_so(catalog_of):
    catalog = catalog_of("", "a.jpg", {"Stars": "5", "stars": "4", "Place": "Rome"})
    for condition, found in (
        ("Stars = 5", [1]),
        ("stars = 5", []),
        ("STARS = 5", [1]),
        ("STARS = 4", [1]),
        ("!place", []),
        ("place != Rome", []),
    ):
        assert catalog.filters.matching(parse_condition(condition)).tolist() == found, condition


@pytest.fixture
def catalog_of(tmp_path: Path):
    catalog = Catalog(tmp_path / "catalog.db")

    def make(folder: str, name: str, metadata: dict[str, str]) -> Catalog:
        source = catalog.sources.add("/photos")
        catalog.put([ItemRecord(source, folder, name, "image", (1, 1), hash=b"")])
        catalog.metadata.set([(1, metadata)])
        return catalog

    yield make
    catalog.close()
