"""From files to what encoders take, and from that to vectors."""

from mmsearch.indexing.decode.ahead import look_ahead
from mmsearch.indexing.decode.decoder import Decoded, Decoder, Job
from mmsearch.indexing.decode.encoding import encode
from mmsearch.indexing.decode.reading import is_content, read_file

__all__ = ["Decoded", "Decoder", "Job", "encode", "is_content", "look_ahead", "read_file"]
