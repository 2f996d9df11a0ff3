"""What changed on disk since the catalog was last brought in line with it."""

from mmsearch.scan.look import Scan
from mmsearch.scan.scopes import Scope, known_scopes, scopes_of

__all__ = ["Scan", "Scope", "known_scopes", "scopes_of"]
