"""What changed on disk since the store was last brought in line with it."""

from mmsearch.indexing.scan.look import Scan
from mmsearch.indexing.scan.scopes import Scope, known_scopes, scopes_of

__all__ = ["Scan", "Scope", "known_scopes", "scopes_of"]
