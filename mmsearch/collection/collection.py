"""One index: what users of the package work with."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Collection as SizedContainer
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mmsearch.collection.search_methods import by_any_query, by_path, by_queries, by_query
from mmsearch.encoders import runtime_of
from mmsearch.errors import InvalidOption, InvalidQuery, PathNotFound
from mmsearch.home import path_text
from mmsearch.search.setting_formats import IDS, item_id, one_or_several, whole
from mmsearch.search.settings import Settings, settings_of
from mmsearch.storage.place import IndexLike, place_of
from mmsearch.types import Facets, Failure, Hit, Item, Query, Ranking, Report, SearchPage

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from mmsearch.collection.ask import Answer
    from mmsearch.collection.copy import Copied
    from mmsearch.collection.language_model import Reply
    from mmsearch.encoders import Encoder, Runtime
    from mmsearch.indexing.bulk.export import Exported
    from mmsearch.indexing.bulk.vector_files import Files
    from mmsearch.search.describe import Description
    from mmsearch.search.duplicates import Group
    from mmsearch.search.searcher import Searcher
    from mmsearch.storage import ListedItem, Store
    from mmsearch.storage.sqlite import Catalog
    from mmsearch.types import Modality, Progress

DEFAULTS = Settings()

TAGGING_WAIT = 5.0
"""Seconds that tagging by hand waits for another thread or process that writes."""

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


class Items:
    """Everything in a collection: `len()` of it, or one item after the other in order of id."""

    def __init__(self, collection: Collection) -> None:
        self._items = collection.index.store.items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return self._items.all()


class Collection:
    """An index, open; also a context manager.

    Args:
        folder: The index folder, or the address of an index on a server.
        model: The name of an encoder, or several; None and "auto" take those that the index was
            built with. The next `add` encodes everything stored for another one, which answers
            from then on.
        how: What encoders run on.
        create: Create the index if there is none.
        restore: Restore a damaged catalog from its newest backup; `create` does so as well.

    Attributes:
        place: Where the index lives.
        folder: The index folder; that of a server's index only holds caches.
        report: The result of the last run of indexing on this object, if any.
        index: What indexing and searching work on: the store, encoders, vector indexes, lock.

    Raises:
        IndexNotFound: there is no index, and `create` is False.
        CatalogDamaged: the catalog is damaged, and is not to be restored or has no backup.
        IndexUnusable: the catalog is not one, or was made by a newer version; or the server fails.
        InvalidOption: the address cannot be used.
        MissingExtra: the packages that talk to the server are not installed.
        UnknownModel: no encoder has this name.
        ModelUnavailable: the weights of an encoder are not on this machine.
    """

    def __init__(
        self,
        folder: IndexLike,
        *,
        model: str | Sequence[str] | None = None,
        how: Runtime | None = None,
        create: bool = False,
        restore: bool = False,
    ) -> None:
        from mmsearch.spaces.open_or_create import open_or_create  # SQLAlchemy takes long to import

        self.place = place_of(folder)
        self.folder = self.place.folder
        self.report: Report | None = None
        models = [] if model is None else one_or_several(model)
        self.index = open_or_create(
            self.place, models, how or runtime_of(), create=create, restore=restore
        )

    @property
    def store(self) -> Store:
        """What is stored, whatever engine stores it."""
        return self.index.store

    @property
    def _catalog(self) -> Catalog | None:
        """The store, if it is SQLite's: for what only that can do, or needs."""
        from mmsearch.storage.sqlite import Catalog

        return self.store if isinstance(self.store, Catalog) else None

    # ------------------------------------------------------------------ what is stored

    @property
    def encoder(self) -> Encoder:
        """The preferred encoder of this index, loaded when first needed.

        Raises:
            IndexUnusable: the index has no model yet, or other weights are installed.
            ModelUnavailable: the weights are not on this machine.
        """
        return self.index.preferred_encoder()

    def __len__(self) -> int:
        return len(self.store)

    @property
    def items(self) -> Items:
        """Everything stored, in order of id."""
        return Items(self)

    @property
    def failures(self) -> list[Failure]:
        """Files that could not be used, in all runs so far, by path."""
        return self.store.failures.all()

    def status(self) -> dict[str, Any]:
        """What is stored: folder, models, sources, items, vectors, failures, bytes.

        `passed_over` has the files that the last complete walk of each indexed path passed over, in
        groups that one step would include: {"kind": of the files, "what": their name,
        "files": how many, "cure": that step}.
        """
        from mmsearch.collection.upkeep import status

        return status(self.index)

    def item(self, id_: int) -> Item:
        """What is stored of one item: path, kind, texts and metadata.

        Raises:
            PathNotFound: the index has no item of this id.
            InvalidOption: it is no whole number.
        """
        with suppress(InvalidQuery):  # no item can have such an id
            if found := self.store.items.get([item_id(id_)]):
                return found[id_]
        raise PathNotFound(f"no item of the index has the id {id_}")

    def listed(self, *, where: Any = None, limit: int | None = None) -> Iterator[ListedItem]:
        """The items in order of id, without texts or vectors: for millions of them.

        Args:
            where: Only items that pass this filter, as for `search`.
            limit: At most so many.

        Raises:
            InvalidFilter: the filter cannot be parsed, or names a key that no item has.
            InvalidOption: `limit` is not a whole number from 0 on.
        """
        from mmsearch.filters import parse_where

        wanted = parse_where(where)
        ids = self.store.filters.matching(wanted) if wanted else None
        limit = None if limit is None else whole("limit", limit, least=0, most=math.inf)
        return self.store.items.listed(ids, limit)

    # ------------------------------------------------------------------ indexing

    def add(  # noqa: PLR0913 - keywords, all optional
        self,
        paths: Paths | None = None,
        *,
        captions: str | os.PathLike[str] | None = None,
        exclude: str | Sequence[str] = (),
        include_hidden: bool = False,
        max_megapixels: float = 200.0,
        video: bool | None = None,
        pdf: bool | None = None,
        ocr: bool | None = None,
        transcribe: bool | None = None,
        whisper: str | None = None,
        raw_pairs: str | None = None,
        metadata: str | os.PathLike[str] | None = None,
        details: bool | None = None,
        backups: int | None = None,
        kind: str | None = None,
        recall: float | None = None,
        on: str | None = None,
        progress: Progress | None = None,
    ) -> Report:
        """Bring folders or files up to date in the index; `report` holds the result as well.

        Args:
            paths: Folders (searched to any depth) and files; left out, all that was ever indexed.
            captions: A tsv, csv or jsonl file of file names and captions.
            exclude: Shell patterns of names, or of paths below one of `paths`, to leave out. This
                and the next are stored with the paths, for runs without any; given without paths,
                they are stored with all that were ever given.
            include_hidden: Also files and folders whose names begin with a dot.
            max_megapixels: Larger pictures are refused.
            video: Whether to index videos. For this and the next three, None means as in the last
                run; in the first one, no.
            pdf: Whether to index PDFs.
            ocr: Whether to read the writing in pictures.
            transcribe: Whether to transcribe the speech in sounds and videos.
            whisper: The model for it: a size ("base"), a repository or a folder; remembered.
            raw_pairs: "one" makes one item of a RAW photo and the JPEG or HEIC of the same name
                beside it, the latter; "both" makes two. Remembered, at first "one".
            metadata: A csv, tsv or jsonl file of file names and further facts about them: keys
                that `where` can filter by.
            details: Whether to keep token embeddings of pictures and texts, at most 4 KB each,
                for `rerank="fusion"`; remembered, at first they are kept.
            backups: How many backups of the catalog to keep beside it, at most one an hour; 0 makes
                none and deletes none. Remembered, at first one.
            kind: The kind of vector index that answers searches: "auto" (by size, and only kinds
                measured to be good enough), "exact", "1-bit" (the codes that "auto" chooses for
                many vectors), or a FAISS factory string; remembered.
            recall: The share of the nearest vectors that a search finds on average, at least, for
                queries of any kind and under any filter; 1 compares every vector. Remembered, at
                first 0.98.
            on: Where files are decoded and encoded: "ray" on workers of this machine,
                "ray://HOST:10001" on those of a Ray cluster; None in this process. `report.lost`
                has the files that died with a worker, which the next run does.
            progress: Called with (files done, files in all or None).

        Raises:
            PathNotFound: one of `paths`, or `captions`, does not exist.
            InvalidOption: `max_megapixels` is not above 0, `backups` is not a whole number from 0
                on, or `raw_pairs`, `kind` or `recall` is not valid.
            IndexBusy: another process is writing to the index.
            InvalidCaptions: the captions file cannot be parsed.
            MissingExtra: packages that an option needs are not installed.
            ModelUnavailable: there is no model to transcribe with.
            StorageFailed: the catalog cannot be written (a full disk?); earlier batches stay.
            KeyboardInterrupt: passed on; what was stored stays, and `report` says what it is.
        """
        from mmsearch.indexing.file_contents import ReadOptions
        from mmsearch.indexing.index_run import IndexRun
        from mmsearch.indexing.media_options import MediaOptions
        from mmsearch.indexing.scopes import add_scopes, previous_scopes
        from mmsearch.indexing.user_metadata import MetadataFile
        from mmsearch.media.captions import CaptionFile

        roots = None if paths is None else existing(paths)
        backups = None if backups is None else whole("backups", backups, least=0)
        options = ReadOptions(max_megapixels=max_megapixels)
        caption_file = None if captions is None else CaptionFile(os.fspath(captions))
        metadata_file = None if metadata is None else MetadataFile(metadata)
        index, store = self.index, self.index.store
        with index.writing("indexing"):
            if catalog := self._catalog:
                catalog.loader.restore_indexes()
            media = MediaOptions(video, pdf, ocr, transcribe, whisper, raw_pairs).resolve(store)
            index.configure(
                backups_kept=backups, token_embeddings=details, kind=kind, recall=recall
            )
            run = IndexRun(
                index,
                options,
                media,
                caption_file=caption_file,
                metadata=metadata_file,
                on=on,
                update_models=True,
            )
            self.report = run.report
            walk: Any = {"exclude": one_or_several(exclude), "include_hidden": include_hidden}
            if roots is None:
                scopes = previous_scopes(store, run.report.warnings, **walk)
            else:
                scopes = add_scopes(store, roots, **walk)
            run.run(scopes, progress)
        return run.report

    def ask_for(self, paths: Paths) -> dict[str, bool]:
        """Add index roots: paths that are indexed from the next `refresh` on.

        Returns:
            The folders to watch for changes, by absolute path: True with all below.

        Raises:
            PathNotFound: one of them does not exist.
            IndexBusy: another process is writing to the index.
        """
        from mmsearch.indexing.scopes import add_index_roots

        return add_index_roots(self.index, existing(paths))

    def asked_folders(self) -> dict[str, bool]:
        """The folders of all that was ever indexed, by absolute path: True with all below."""
        from mmsearch.indexing.scopes import root_folders

        return root_folders(self.index.store)

    def refresh(
        self,
        paths: Paths | None = None,
        *,
        unsettled: SizedContainer[str] = (),
        progress: Progress | None = None,
    ) -> Report:
        """Update the index for what changed on disk, among everything that was ever indexed.

        `report` holds the result as well.

        Args:
            paths: Absolute paths of files and folders that were added, changed or removed: the
                folders of files are scanned, and folders with all below; left out, everything.
                Paths outside of what was ever indexed are ignored.
            unsettled: Absolute paths of files that are still being written, to be left as they
                were.
            progress: Called with (files done, files in all or None).

        Raises:
            PathNotFound: a folder vanished while it was read: try again.
            IndexBusy: another process is writing to the index.
            StorageFailed: the catalog cannot be written (a full disk?); earlier batches stay.
            KeyboardInterrupt: passed on; what was stored stays, and `report` says what it is.
        """
        from mmsearch.indexing.file_contents import ReadOptions
        from mmsearch.indexing.index_run import IndexRun
        from mmsearch.indexing.media_options import MediaOptions
        from mmsearch.indexing.scopes import known_scopes, touched_scopes

        self.report = Report()
        store = self.index.store
        with self.index.writing("keeping up to date"):
            if paths is None:
                scopes = known_scopes(store)
            else:
                scopes = touched_scopes(store, _names(paths), unsettled)
            if scopes:
                media = MediaOptions().resolve(store)
                run = IndexRun(self.index, ReadOptions(), media, update_models=True)
                self.report = run.report
                run.run(scopes, progress, soon_again=True)
        return self.report

    def remove(self, path: str | os.PathLike[str]) -> int:
        """Remove a file, or everything in a folder, from the index; the disk is not touched.

        Returns:
            How many items were removed.

        Raises:
            PathNotFound: the index holds nothing there.
            IndexBusy: another process is writing to the index.
        """
        from mmsearch.collection.upkeep import remove

        with self.index.writing("removing"):
            return remove(self.index, path_text(path))

    def drop_space(self, model: str) -> None:
        """Delete the vectors of one of several models.

        Raises:
            InvalidOption: the index has none of this name, or no other to answer instead.
            IndexBusy: another process is writing to the index.
        """
        with self.index.writing("dropping vectors"):
            for space in self.index.encoders.drop(model):
                self.index.vector_indexes.drop(space)
            self.index.vector_indexes.clear()
            if catalog := self._catalog:
                catalog.shrink()

    # ------------------------------------------------------------------ vectors made elsewhere

    def add_vectors(  # noqa: PLR0913 - keywords, all optional
        self,
        vectors: Any,
        metadata: Any = None,
        *,
        model: str | None = None,
        facet: Modality = "image",
        captions: Sequence[str | Sequence[str] | None] | None = None,
        text_vectors: Any = None,
        root: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> Report:
        """Store vectors that were made elsewhere, with what is known of each; `report` as well.

        A row with the path of a stored item updates it: its vectors of that facet are replaced; its
        captions stay unless new ones are given, and its metadata unless the rows have any, which
        then replace all that was stored. After an interruption, or a row that cannot be used, what
        was stored before stays: 20,000 rows are stored at a time.

        Args:
            vectors: (n, dim) numbers, memory-mapped if need be, or arrays of them one after the
                other; rows are brought to unit length.
            metadata: Of each row: mappings, columns as a mapping, a pyarrow table or a data
                frame. `path` (or `image_path`, `file`, `url`, `key`, `id`, …) names the item,
                `caption` (or `text`, …) is its text; `modality`, `width`, `height`, `taken`,
                `camera`, `latitude`, `longitude`, `seconds`, `pages` and `size` are known to
                filters; all else is metadata to filter by. Without a path items are numbered.
            model: The encoder that made the vectors. If it can be loaded here, the index can be
                searched in words; otherwise by vectors, by example, and by words as they are
                written.
            facet: The modality that the vectors are made of: "image", "text" or "audio".
            captions: Of each row, a text, several or none, instead of those in the metadata.
            text_vectors: (n, dim) of the captions, one a row, made by the same model.
            root: A folder: rows whose path is that of a file in it are stored as that file, which
                `add` then finds unchanged.
            progress: Called with (rows done, rows in all), then with items whose words are done.

        Raises:
            InvalidOption: a row has no direction, or another number of dimensions; the arguments
                differ in their number of rows; the vectors do not fit the index.
            InvalidMetadata: a path, a column or a value cannot be stored.
            PathNotFound: there is no folder `root`.
            IndexBusy: another process is writing to the index.
            StorageFailed: the catalog cannot be written; what was stored before stays.
        """
        from mmsearch.indexing.bulk.import_run import ImportRun
        from mmsearch.indexing.bulk.sources import array_chunks, length_of

        if text_vectors is not None and facet == "text":
            raise InvalidOption("text_vectors stand beside vectors of pictures or sounds")
        chunks = array_chunks(vectors, metadata, captions, text_vectors)
        run = ImportRun(self.index, model, facet, root)
        self.report = run.report
        run.run(chunks, length_of(vectors), progress)
        return run.report

    def import_files(
        self,
        files: Files,
        *,
        metadata: Files = (),
        text_vectors: Files = (),
        model: str | None = None,
        facet: Modality = "image",
        root: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> Report:
        """`add_vectors` from files, which are read in chunks.

        Args:
            files: `.npy` files of vectors, `.parquet` files with a column of them, or folders: of
                shards as clip-retrieval writes them (`img_emb`, `text_emb`, `metadata`), or of
                what `export` wrote.
            metadata: A `.parquet`, `.csv`, `.tsv` or `.jsonl` file for each file of vectors, if
                they are not beside these.
            text_vectors: A `.npy` file for each file of vectors.
            model: As for `add_vectors`; left out, the one that an export names.
            facet: The modality that the vectors are made of.
            root: The folder of the files that they were made of.
            progress: Called with (rows done, rows in all).

        Raises:
            PathNotFound: one of the files does not exist.
            InvalidOption: a file cannot be used, or two differ in their number of rows.
            MissingExtra: `.parquet` needs a package that is not installed.
        """
        from mmsearch.indexing.bulk.import_run import ImportRun, model_of
        from mmsearch.indexing.bulk.vector_files import chunks_in, shards_in

        shards = shards_in(files, metadata, text_vectors)
        model, fingerprint = model_of(self.index, shards, model)
        run = ImportRun(self.index, model, facet, root, fingerprint)
        self.report = run.report
        chunks = chunks_in(shards, run.report.warnings.append)
        run.run(chunks, sum(shard.rows for shard in shards), progress)
        return run.report

    def export(
        self,
        dest: str | os.PathLike[str],
        *,
        format: str | None = None,  # noqa: A002 - what everybody calls it
        where: Any = None,
        vectors: bool = True,
        space: str | None = None,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Exported:
        """Write all that is known of the items, and their vectors, to files others can read.

        The files are a snapshot of the index, and are written whole or not at all.
        `import_files` reads them.

        Args:
            dest: A file, for "parquet"; a folder, for "npy": `vectors.npy` and `items.jsonl`.
            format: "parquet" or "npy"; left out, "parquet" unless `dest` is a folder.
            where: Only items that pass this filter, as for `search`.
            vectors: Whether the vectors are written too.
            space: The model whose vectors are written; left out, the preferred one.
            overwrite: Replace files that exist.
            progress: Called with (items done, items in all).

        Raises:
            InvalidOption: there is no such format or model, or a file exists.
            MissingExtra: "parquet" needs a package that is not installed.
            StorageFailed: the files cannot be written.
        """
        from mmsearch.indexing.bulk.export import export, space_to_export

        chosen = space_to_export(self.index.store, space)
        return export(
            self.index.store,
            path_text(dest),
            format,
            where=where,
            space=chosen if vectors else None,
            overwrite=overwrite,
            progress=progress,
        )

    # ------------------------------------------------------------------ searching

    @by_query(Settings)
    def search(self, query: str | Query, settings: Settings) -> list[Hit]:
        """The k best hits for one query, best first; fewer when the collection is smaller.

        Args:
            query: Words, or `Query.image(...)`, or several: `Query.text("a dog") -
                Query.text("snow")`.
            settings: Each by keyword: `search("a dog", k=20, target="image")`.

        Raises:
            InvalidQuery: the query is empty or k is below 1.
            InvalidOption, InvalidFilter: a setting cannot have such a value.
            UnknownTarget: there is no such modality.
            UnsupportedModality: none of the index's models takes one of the parts.
            PathNotFound, UnreadableFile: the example file cannot be used.
        """
        return self._searcher().search([query], settings)[0]

    @by_any_query(Settings)
    def search_page(
        self, query: str | Query | None = None, settings: Settings = DEFAULTS
    ) -> SearchPage:
        """`search`, with how many items could be hits, and where hits become weak.

        `offset` and `k` choose the page; the pages of a query fit together as long as k and the
        index are the same.

        Args:
            query: As for `search`; None for everything that passes the filter, the newest first
                (with `sort="oldest"` the oldest): no other settings make a difference then.
            settings: Each by keyword.
        """
        return self._searcher().page(query, settings)

    @by_any_query(Settings)
    def facets(self, query: str | Query | None = None, settings: Settings = DEFAULTS) -> Facets:
        """How many items have each kind, year, month, folder, camera and tag.

        Args:
            query: Counted are its good matches (`SearchPage.weak_from`), or, where confidence is
                not known, all that pass the filter; None counts these, too.
            settings: Each by keyword; `k`, `offset` and `sort` make no difference.
        """
        return self._searcher().facets(query, settings)

    @by_queries(Settings)
    def search_many(self, queries: Sequence[str | Query], settings: Settings) -> list[list[Hit]]:
        """`search` for each query, encoded in batches; a list of hits for each."""
        return self._searcher().search(_several(queries), settings)

    @by_queries(Settings)
    def rank_many(self, queries: Sequence[str | Query], settings: Settings) -> list[Ranking]:
        """The items that `search_many` finds, as (id, score) pairs.

        Faster, as no hits are looked up: for thousands of queries, or deep rankings. `spans` makes
        no difference.
        """
        return self._searcher().rank(_several(queries), settings)

    @by_queries(Settings)
    def search_vectors(self, queries: ArrayLike, settings: Settings) -> list[list[Hit]]:
        """`search` for queries that are encoded already: vectors (n, dim) of `encoder`.

        They are normalised. `combine`, `lexical` and `hubness` make no difference, as neither the
        words nor the modality of the queries is known.

        Raises:
            InvalidQuery: they are not numbers of this shape, or a row is all zeros or not finite.
        """
        return self._searcher().search_vectors(queries, settings)

    @by_path(Settings)
    def similar(self, path: str | os.PathLike[str], settings: Settings) -> list[Hit]:
        """Items that resemble a file, the file itself left out; it need not be in the index.

        A file is a query of one part, and no words are looked up: `combine` and `lexical` make no
        difference.
        """
        return self._searcher().similar(path_text(path), settings)

    @by_path(Settings)
    def similar_page(self, path: str | os.PathLike[str], settings: Settings) -> SearchPage:
        """`similar`, as `search_page` returns it."""
        return self._searcher().similar_page(path_text(path), settings)

    def _searcher(self) -> Searcher:
        from mmsearch.search.searcher import Searcher

        return Searcher(self.index)

    # ------------------------------------------------------------------ language models

    def ask(
        self,
        question: str,
        *,
        llm: str | None = None,
        model: str | None = None,
        k: int = 6,
        **settings: Any,
    ) -> Answer:
        """The answer of a language model to a question, from the best hits for it.

        The model is given a thumbnail of each hit, its captions, title, keywords and tags, the
        passage that matched, its date, name and folder. Nothing is sent before the answer is
        iterated over, which gives the text in pieces as they come:

            for piece in library.ask("which beach were we at in 2019?"): print(piece, end="")

        If no item passes the filters, the answer is "Not in your files.", and no model is asked. If
        all matches are weak, the model is told so.

        Args:
            question: In words.
            llm: The base URL of an OpenAI-compatible server, "http://localhost:11434/v1"; left out,
                `$OPENAI_BASE_URL`. `$OPENAI_API_KEY` is sent there if it is set.
            model: The name of the model; left out, the first that the server lists.
            k: How many hits it is given: six pictures and their texts fit small models.
            settings: Others of the search, as for `search`.

        Raises:
            InvalidOption: there is no address, or it is invalid; a setting has an invalid value.
            InvalidQuery, InvalidFilter, UnknownTarget: as `search`.
            MissingExtra: the package `openai` is not installed.
            PathNotFound: all files that were found have changed since they were indexed, or are
                gone.
            LanguageModelFailed: while iterating: the server cannot be reached, refuses, breaks off
                or is too slow.
        """
        from mmsearch.collection.ask import ask
        from mmsearch.collection.language_model import LanguageModel

        chosen = settings_of({"k": k, **settings})
        return ask(self.index, question, LanguageModel(llm, model), chosen)

    def write_caption(
        self,
        path: str | os.PathLike[str],
        *,
        llm: str | None = None,
        model: str | None = None,
        keep: bool = False,
    ) -> Reply:
        """A caption of a file, written by a language model; iterating over it gives the text.

        Args:
            path: A photo, video or document, of which a picture is sent, or a text; indexed or not.
            llm: As for `ask`; so is `model`.
            model: The name of a model that takes pictures.
            keep: Whether to add the finished caption to those of the item: it can be searched at
                once, and later indexing runs keep it.

        Raises:
            PathNotFound: there is no such file; with `keep`, it is not in the index, or has changed
                since it was indexed.
            UnreadableFile: it has neither a picture nor a text.
            InvalidOption: as `ask`; or the file is of a kind that has no captions.
            MissingExtra: the package `openai` is not installed.
            LanguageModelFailed: while iterating, as `ask`.
            IndexBusy, StorageFailed: at the end of the iteration: the caption cannot be stored.
        """
        from mmsearch.collection.ask import write_caption
        from mmsearch.collection.language_model import LanguageModel

        return write_caption(self.index, path_text(path), LanguageModel(llm, model), keep=keep)

    # ------------------------------------------------------------------ labels and duplicates

    def tag(
        self,
        labels: Sequence[str] | None = None,
        *,
        min_confidence: float | None = None,
        target: str | None = None,
        progress: Progress | None = None,
    ) -> dict[str, int]:
        """Tag items with the labels that fit them; by label, how many have it.

        A filter on `tag` then finds them. Labels are remembered for `tag_new`.

        Args:
            labels: Words, such as "dog" or "a birthday party"; left out, all that were given
                before, which keep their confidence and target unless these are given.
            min_confidence: The confidence from which an item gets a label; left out, 0.6.
            target: "image" labels by what items show, "audio" by sound; None by both.
            progress: Called with (vectors compared, vectors in all).

        Raises:
            InvalidOption: there is no label, the confidence is not from 0 to 1, or the index has no
                vectors to compare with.
            UnknownTarget: the target is neither.
            IndexBusy: another process is writing to the index.
        """
        from mmsearch.search.tagging import tag_items

        with self.index.writing("tagging"):
            counts = tag_items(
                self.index,
                labels,
                min_confidence=min_confidence,
                target=target,
                progress=progress,
            )
            self.store.words.refresh()
            self.index.keep_backup()
        return counts

    def tag_new(self, *, progress: Progress | None = None) -> dict[str, int]:
        """Tag items that were added or changed since with the remembered labels.

        Raises:
            IndexBusy: another process is writing to the index.
        """
        from mmsearch.search.tagging import tag_new

        with self.index.writing("tagging"):
            counts = tag_new(self.index, progress)
            self.store.words.refresh()
            self.index.keep_backup(changed=bool(counts))
        return counts

    def untag(self, labels: Sequence[str] | None = None) -> int:
        """Remove labels from all items, or all labels; returns how many tags that removed.

        Raises:
            IndexBusy: another process is writing to the index.
        """
        from mmsearch.search.tagging import forget_labels

        with self.index.writing("tagging"):
            removed = forget_labels(self.index.store, labels)
            self.store.words.refresh()
            self.index.keep_backup(changed=bool(removed))
        return removed

    def add_tag(self, tag: str, ids: Iterable[int]) -> int:
        """Tag some items by hand; returns how many of them have the tag now.

        A tag given by hand stays whatever `tag` and `tag_new` find, also of the same name; only
        `remove_tag` and `untag` remove it. Ids of items that are gone are left out.

        Raises:
            InvalidOption: the tag is empty, too long, or not text; an id is no whole number.
            IndexBusy: another process is writing to the index.
        """
        return self._tag_by_hand(self.store.tags.add, tag, ids)

    def remove_tag(self, tag: str, ids: Iterable[int]) -> int:
        """Take a tag off some items; returns how many of them had it.

        If `tag` found it to fit an item, the next `tag` or `tag_new` does so again.

        Raises:
            InvalidOption, IndexBusy: as `add_tag`.
        """
        return self._tag_by_hand(self.store.tags.remove, tag, ids)

    def _tag_by_hand(
        self, change: Callable[[str, Sequence[int]], int], tag: str, ids: Iterable[int]
    ) -> int:
        from mmsearch.search.labels import checked_labels

        (label,) = checked_labels([tag])
        wanted = IDS.check("ids", ids)
        with self.index.writing("tagging", wait=TAGGING_WAIT):
            changed = change(label, wanted)
            self.store.words.refresh()
            self.index.keep_backup(changed=bool(changed))
        return changed

    def describe(
        self, path: str | os.PathLike[str], *, k: int = 5, labels: Sequence[str] | None = None
    ) -> Description:
        """What a file shows: its own texts, the index's texts that fit it best, and labels.

        Args:
            path: A photo, text or sound, indexed or not.
            k: How many texts and labels.
            labels: To choose from; left out, those of `tag`, else everyday words.

        Raises:
            InvalidOption: `k` is not a whole number from 1 on; a label is empty, or not text.
            PathNotFound, UnreadableFile: the file cannot be used.
        """
        from mmsearch.search.describe import describe

        return describe(self.index, path_text(path), k=k, labels=labels)

    def duplicates(
        self,
        *,
        threshold: float | None = None,
        same: bool = False,
        progress: Progress | None = None,
    ) -> list[Group]:
        """Groups of files that are copies of one another, those that waste most bytes first.

        Args:
            threshold: The cosine from which files are alike; left out, as measured for the model.
            same: Only files of the same content.
            progress: Called with (items compared, items in all).
        """
        from mmsearch.search.duplicates import duplicate_groups

        return duplicate_groups(self.index, threshold=threshold, same=same, progress=progress)

    # ------------------------------------------------------------------ the folder itself

    def backup(self, target: str | os.PathLike[str]) -> int:
        """Copy the index to a new folder, even while it is in use; returns its size in bytes.

        Writers need not wait: the copy is a snapshot.

        Raises:
            InvalidOption: `target` exists already, or lies in the index; or the index is on a
                server.
            StorageFailed: it could not be copied; nothing is left of the attempt then.
        """
        from mmsearch.collection.upkeep import backup

        return backup(self.place, Path(os.path.abspath(path_text(target))))

    def copy(self, destination: IndexLike, *, progress: Progress | None = None) -> Copied:
        """Copy the index to a new place, of whatever kind of store: see `mmsearch.copy`.

        Raises:
            InvalidOption: the destination holds something else.
            IndexBusy: another process is writing to it, or copying to it.
            StorageFailed: it cannot be written; what was copied before stays.
        """
        from mmsearch.collection.copy import copy

        return copy(self.place, destination, progress=progress)

    def relocate(
        self, old: str | os.PathLike[str], new: str | os.PathLike[str], *, force: bool = False
    ) -> int:
        """Follow an indexed folder that was moved; nothing is read or encoded again.

        Args:
            old: Where it was: an indexed folder, one inside it, or one around it, such as a mount
                point.
            new: Where it is.
            force: Do so even if few of the stored files are there.

        Returns:
            How many items have a new path now.

        Raises:
            PathNotFound: there is no folder `new`, or the index holds nothing at `old`.
            InvalidOption: most of the stored files are not in `new`; or the index is on a server.
            IndexBusy: another process is writing to the index.
        """
        from mmsearch.collection.upkeep import relocate

        with self.index.writing("relocating"):
            return relocate(self.index, path_text(old), path_text(new), force=force)

    def writing(self, what: str, *, wait: float = 0.0) -> AbstractContextManager[None]:
        """A context that holds the writer lock; methods that write acquire it themselves.

        Args:
            what: What is being done, to tell those who find the index busy: "indexing".
            wait: Seconds to wait for another writer.

        Raises:
            IndexBusy: another process writes.
            StorageFailed: the folder cannot be written.
        """
        return self.index.writing(what, wait=wait)

    def close(self) -> None:
        """Close the catalog; calling it twice does no harm."""
        self.index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def existing(paths: Paths) -> list[str]:
    """Paths as strings.

    Raises:
        PathNotFound: one of them does not exist.
    """
    names = _names(paths)
    for path in names:
        if not os.path.exists(path):
            where = "" if os.path.isabs(path) else f" in {os.getcwd()}"
            raise PathNotFound(f"there is no file or folder {path!r}{where}")
    return names


def _names(paths: Paths) -> list[str]:
    return [path_text(path) for path in one_or_several(paths)]


def _several(queries: Sequence[str | Query]) -> list[str | Query]:
    if isinstance(queries, (str, bytes)) or not isinstance(queries, Iterable):
        raise InvalidQuery("search_many takes a list of queries; for one there is search")
    return list(queries)
