"""From files to what encoders take, and from that to vectors."""

from mmsearch.indexing.decode.ahead import look_ahead
from mmsearch.indexing.decode.decoder import Decoded, Decoder, Job
from mmsearch.indexing.decode.encoding import encode

__all__ = ["Decoded", "Decoder", "Job", "encode", "look_ahead"]
