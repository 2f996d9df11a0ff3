"""Corpora: files that hold many items, each with a path such as `shard.tar::0001.jpg`.

* A tar shard in the layout of webdataset: pictures, sounds and texts, each with its captions in a
  `.txt` and its metadata in a `.json` of the same name beside it.
* A parquet file, of bytes (also as Hugging Face's data sets have them) or of paths, with captions;
  without either, its texts are the items. `data.parquet::12.jpg` is row 12, counted from 0.
* A jsonl of texts: `texts.jsonl::3` is line 3.

A member is read where it lies: of a tar, offsets are kept in memory; of a parquet file, a few
batches of rows. Members of a compressed tar cannot be, so that it is refused.
"""

from mmsearch.media.corpora.corpus import Corpus, Details, Member
from mmsearch.media.corpora.opened import (
    has_member,
    is_current,
    open_corpus,
    open_member,
    status_of,
)

__all__ = [
    "Corpus",
    "Details",
    "Member",
    "has_member",
    "is_current",
    "open_corpus",
    "open_member",
    "status_of",
]
