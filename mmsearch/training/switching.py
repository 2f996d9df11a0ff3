"""Switches a tuned model on in place of its base, and undoes that. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mmsearch.encoders.tuned import TunedEncoder, base_name
from mmsearch.errors import InvalidOption
from mmsearch.indexing.file_contents import ReadOptions
from mmsearch.indexing.index_run import IndexRun
from mmsearch.indexing.media_options import MediaOptions
from mmsearch.search.duplicate_threshold import threshold_key
from mmsearch.spaces.encoder_pool import languages_setting, token_setting

if TYPE_CHECKING:
    from mmsearch.collection import Collection
    from mmsearch.storage import Space
    from mmsearch.types import Progress, Report


def switch_on(
    collection: Collection, space: Space, encoder: TunedEncoder, progress: Progress | None
) -> Report:
    """Let a tuned encoder serve in place of a space, whose vectors are projected.

    The space stays stored. If this fails or is interrupted, the index is as it was before.
    """
    index, store = collection.index, collection.store
    with index.writing("tuning"), _or_as_it_was(collection, space, encoder):
        drop_tuned(collection)  # a killed run may have left some
        added = store.spaces.add(encoder)
        as_encoded = store.settings.get(languages_setting(space)) or ""
        store.settings.set(languages_setting(added), as_encoded)
        index.query_banks.put_tuned(added, encoder, index.query_banks.bank(space))
        index.encoders.requested = [encoder]
        report = run_index(collection, progress)
        tuned = next(one for one in store.spaces.all() if one.id == added.id)
        if tuned.backfills:  # any vectors still missing are missing from the base's space as well
            store.spaces.switch_to(tuned)
    return report


def run_index(
    collection: Collection, progress: Progress | None, *, update_models: bool = False
) -> Report:
    """Backfill spaces and update everything derived from them; no folder is scanned."""
    media = MediaOptions().resolve(collection.store)
    run = IndexRun(collection.index, ReadOptions(), media, update_models=update_models)
    run.run([], progress)
    return run.report


@contextmanager
def _or_as_it_was(collection: Collection, space: Space, encoder: TunedEncoder) -> Iterator[None]:
    """Undo the switch to a tuned space if the block fails or is interrupted."""
    try:
        yield
    except BaseException:
        spaces = collection.store.spaces
        collection.index.encoders.requested = []
        now = next(one for one in spaces.all() if one.id == space.id)
        if now.serves != space.serves:
            spaces.serve_with([encoder.base], space.serves)
            spaces.switch_to(next(one for one in spaces.all() if one.id == space.id))
        drop_tuned(collection)
        raise


def tuned_spaces(collection: Collection) -> list[Space]:
    """The tuned spaces of an index, whether or not they serve."""
    spaces = collection.store.spaces.all()
    return [one for one in spaces if base_name(one.name) is not None and not one.is_imported]


def drop_tuned(collection: Collection) -> None:
    """Delete the tuned spaces that serve nothing."""
    settings = collection.store.settings
    for space in tuned_spaces(collection):
        if not space.serves:
            # another space may get its id later
            of_space = token_setting(space), languages_setting(space), threshold_key(space, "image")
            for key in of_space:
                if settings.get(key):
                    settings.set(key, "")
            collection.store.spaces.drop(space)
            collection.index.vector_indexes.drop(space)
    collection.index.vector_indexes.clear()


def undo(collection: Collection, progress: Progress | None) -> Report:
    """As `mmsearch.training.undo_tuning`."""
    index, spaces = collection.index, collection.store.spaces
    with index.writing("undoing the tuning"):
        if not (tuned := tuned_spaces(collection)):
            raise InvalidOption("this index is not tuned: there is nothing to undo")
        drop_tuned(collection)  # a killed run may have left some
        for space in tuned:
            encoder = index.encoder(space) if space.serves else None
            if isinstance(encoder, TunedEncoder):
                spaces.serve_with([encoder.base], space.serves)
        report = run_index(collection, progress)
        drop_tuned(collection)
        if left := [space.name for space in tuned_spaces(collection)]:
            raise InvalidOption(
                f"{' and '.join(left)} still serves: {' '.join(report.warnings)}. Once that is "
                "settled, undo the tuning again"
            )
    return report


def check_not_tuned(collection: Collection) -> None:
    """Check that no tuned space serves.

    Raises:
        InvalidOption: one does.
    """
    if any(space.serves for space in tuned_spaces(collection)):
        raise InvalidOption(
            "this index is tuned already: undo that first with `mmsearch tune --undo`"
        )
