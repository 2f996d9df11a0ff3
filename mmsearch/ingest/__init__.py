"""From files to stored vectors: scan → what changed → decode → encode → store."""

from mmsearch.decode import Decoder
from mmsearch.ingest.pipeline import FIRST_PICTURES, SECONDS_A_BATCH, TEXTS_A_BATCH
from mmsearch.ingest.run import Ingest
from mmsearch.ingest.stages import Timed

__all__ = [
    "FIRST_PICTURES",
    "SECONDS_A_BATCH",
    "TEXTS_A_BATCH",
    "Decoder",
    "Ingest",
    "Timed",
]
