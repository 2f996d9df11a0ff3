"""From files to what encoders take, and from that to vectors."""

from mmsearch.decode.ahead import look_ahead
from mmsearch.decode.decoder import Decoded, Decoder, Job
from mmsearch.decode.encoding import encode
from mmsearch.decode.reading import is_content, read_file

__all__ = ["Decoded", "Decoder", "Job", "encode", "is_content", "look_ahead", "read_file"]
