"""What a query asks for: which parts go to which encoder, and how their vectors add up."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from mmsearch.catalog import Space
from mmsearch.errors import InvalidQuery, PathNotFound, UnreadableFile, UnsupportedModality
from mmsearch.lanes import served
from mmsearch.types import Encoder, Modality, Part, Query

if TYPE_CHECKING:
    from mmsearch.types import Vectors

BATCH = 64
"""Query parts encoded in one call: decoded pictures are large."""

LONGEST = 240
"""Windows of a sound that are listened to when it is a query: ten minutes."""

Combine = Literal["early", "late"]


@dataclass(frozen=True, slots=True)
class Ask:
    """One ranking to be made for a query.

    Attributes:
        facet: What is searched.
        space: In which encoder's space.
        parts: What is added up to be searched for.
        weight: What the ranking counts among the query's others.
        via: Where the part is encoded, if not in that space: texts near it lead over.
    """

    facet: Modality
    space: Space
    parts: tuple[Part, ...]
    weight: float = 1.0
    via: Space | None = None


def parts_of(query: str | Query) -> tuple[Part, ...]:
    """The parts of a query that count.

    Raises:
        InvalidQuery: there are none, or only such as push away, or a weight is no number.
    """
    asked = query if isinstance(query, Query) else Query.text(query)
    for part in asked.parts:
        if not math.isfinite(part.weight):
            raise InvalidQuery(f"a weight is a number, not {part.weight}")
        if part.modality == "text":
            _words(part.content)
    parts = tuple(part for part in asked.parts if part.weight != 0)
    if not any(part.weight > 0 for part in parts):
        raise InvalidQuery(
            "the query says only what is not wanted: say what to look for as well"
            if parts
            else "the query is empty: say in words what to look for"
        )
    return parts


def plan(
    query: str | Query,
    targets: Sequence[Modality],
    combine: Combine,
    spaces: Sequence[Space],
    present: Mapping[int, Sequence[Modality]],
) -> list[Ask]:
    """The rankings that answer a query: one a facet, or one a facet and part.

    Args:
        query: What is asked.
        targets: The facets to search.
        combine: "early" adds the parts' vectors up; "late" ranks for each part on its own.
        spaces: All there are, the preferred one first.
        present: By space id, the facets it has vectors of.

    Raises:
        InvalidQuery: nothing is asked for.
        UnsupportedModality: no space can take one of the parts; the message names it.
    """
    if combine not in ("early", "late"):
        raise InvalidQuery(f"parts are combined 'early' or 'late', not {combine!r}")
    parts = parts_of(query)
    groups = [parts] if combine == "early" else [(part,) for part in parts]
    answering = served(spaces)
    asks = []
    for facet in targets:
        holding = [
            space
            for space in spaces
            if facet in answering.get(space.id, ()) and facet in present.get(space.id, ())
        ]
        for group in groups if holding else []:
            weight = group[0].weight if combine == "late" else 1.0
            asks.append(_ask(facet, group, weight, holding, spaces, present))
    if not asks:  # nothing to search in; the parts are checked all the same
        _check_parts(parts, spaces)
    return asks


def _ask(
    facet: Modality,
    parts: tuple[Part, ...],
    weight: float,
    holding: Sequence[Space],
    spaces: Sequence[Space],
    present: Mapping[int, Sequence[Modality]],
) -> Ask:
    if len(parts) == 1:
        parts = (Part(parts[0].modality, parts[0].content),)  # of one, the length says nothing
    needed = {part.modality for part in parts}
    for space in holding:
        if needed <= space.modalities:
            return Ask(facet, space, parts, weight)
    _check_parts(parts, spaces)
    if len(parts) == 1:
        for space in spaces:
            both = [other for other in holding if "text" in present.get(other.id, ())]
            if needed <= space.modalities and "text" in present.get(space.id, ()) and both:
                return Ask(facet, both[0], parts, weight, via=space)
    odd = next(p for p in parts if not any(p.modality in s.modalities for s in holding))
    names = " and ".join(repr(space.name) for space in holding)
    raise UnsupportedModality(
        f"{told(odd)} cannot be compared with what is searched ({facet}): {names} does not take "
        f"{odd.modality}, and the index holds no captions or texts that could lead over. Index a "
        "model that takes both (mmsearch index --model mini), or captions (--captions FILE)"
    )


def _check_parts(parts: Sequence[Part], spaces: Sequence[Space]) -> None:
    answering = served(spaces)
    live = [space for space in spaces if space.id in answering]
    for part in parts:
        if live and not any(part.modality in space.modalities for space in live):
            names = " and ".join(repr(space.name) for space in live)
            raise UnsupportedModality(
                f"{told(part)} cannot be searched with: {names} cannot encode {part.modality}; "
                "add a model that can, `mmsearch index --model mini` say"
            )


def told(part: Part) -> str:
    """A part, for a message."""
    content = part.content if isinstance(part.content, (str, os.PathLike)) else "given"
    kind = {"text": "the text", "image": "the picture", "audio": "the sound"}[part.modality]
    return f"{kind} {os.fspath(content)!r}"


# ---------------------------------------------------------------------- vectors


def encode_parts(encoder: Encoder, parts: Sequence[Part]) -> Vectors:
    """Unit vectors (len(parts), dim), those of a modality encoded together.

    Raises:
        InvalidQuery: a part is empty.
        PathNotFound: a part's file does not exist.
        UnreadableFile: a part's file cannot be used.
    """
    import numpy as np

    out = np.zeros((len(parts), encoder.dim), dtype=np.float32)
    for modality in sorted({part.modality for part in parts}):
        rows = [row for row, part in enumerate(parts) if part.modality == modality]
        if modality == "audio":
            for row in rows:
                out[row] = _heard(parts[row].content, encoder)
            continue
        prepare = _words if modality == "text" else _picture
        for start in range(0, len(rows), BATCH):
            some = rows[start : start + BATCH]
            ready = [
                encoder.prepare(modality, prepare(parts[row].content, encoder)) for row in some
            ]
            out[some] = encoder.encode(modality, ready)
    return out


def combined(vectors: Vectors, weights: Sequence[float]) -> Vectors:
    """Σ wᵢ·vᵢ, of unit length again (dim,); the order of the parts makes no difference.

    Raises:
        InvalidQuery: the parts cancel each other out.
    """
    import numpy as np

    terms = vectors.astype(np.float64) * np.asarray(weights, np.float64)[:, None]
    total = np.sort(terms, axis=0).sum(axis=0)
    length = np.linalg.norm(total)
    if length < 1e-6:
        raise InvalidQuery("the parts of the query cancel each other out")
    added: Vectors = (total / length).astype(np.float32)
    return added


def _words(content: Any, encoder: Encoder | None = None) -> str:
    del encoder
    if not isinstance(content, str):
        raise InvalidQuery(f"a text query is a string, not {type(content).__name__}")
    if not content.strip():
        raise InvalidQuery("the query is empty: say in words what to look for")
    # a shell may hand over bytes that are not UTF-8, which no tokenizer takes
    return content.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _picture(content: Any, encoder: Encoder) -> Any:
    from PIL.Image import Image

    from mmsearch.media.image import load_image, upright

    if isinstance(content, Image):
        return upright(content)
    path = _file(content, "an image query is a path or a PIL image", "picture")
    try:
        return load_image(path, at_least=encoder.image_size)[0]
    except UnreadableFile as error:
        raise UnreadableFile(f"{path!r} cannot be searched with: {error}") from error


def _heard(content: Any, encoder: Encoder) -> Vectors:
    """The mean over a sound's windows."""
    import numpy as np

    from mmsearch.media.audio import windows

    path = _file(content, "a sound query is a path", "sound")
    try:
        pieces = islice(windows(path, encoder.sample_rate), LONGEST)
        ready = [encoder.prepare("audio", piece) for _, piece in pieces]
    except UnreadableFile as error:
        raise UnreadableFile(f"{path!r} cannot be searched with: {error}") from error
    heard = encoder.encode("audio", ready)
    return combined(heard, np.ones(len(heard)).tolist())


def _file(content: Any, wanted: str, what: str) -> str:
    if not isinstance(content, (str, os.PathLike)):
        raise InvalidQuery(f"{wanted}, not {type(content).__name__}")
    path = os.fsdecode(content)
    if not os.path.exists(path):
        raise PathNotFound(f"there is no file {path!r}")
    if os.path.isdir(path):
        raise UnreadableFile(f"{path!r} is a folder: give one {what} in it")
    return path
