"""Everything mmsearch raises on purpose.

    MMSearchError
    ├── InvalidQuery            the query cannot be searched for
    │   └── UnknownTarget       no such modality to search in
    ├── InvalidFilter           a filter makes no sense, or names a key that no item has
    ├── InvalidOption           an option makes no sense
    │   └── NoHomeFolder        it needs a home folder, and this user has none
    ├── UnknownModel            no encoder of this name
    ├── ModelUnavailable        its weights are not on this machine and cannot be downloaded
    ├── MissingExtra            a package that only some users need is not installed
    ├── LanguageModelFailed     a language model cannot be reached, refuses, or breaks off
    ├── UnsupportedModality     this encoder cannot encode that
    ├── ModelDamaged            a model file is missing or does not match its checksum
    ├── UnreadableFile          one media file cannot be used (kept in the catalog, never fatal)
    │   └── TooLarge            it exceeds a limit that the caller can raise
    ├── PathNotFound            a path given to index or remove does not exist
    ├── InvalidCaptions         a captions file cannot be parsed
    ├── InvalidMetadata         metadata cannot be parsed or stored
    ├── IndexBusy               another process is writing to the index
    └── IndexUnusable           the index cannot be used
        ├── IndexNotFound       no index there
        ├── CatalogDamaged      the catalog is damaged: a backup restores it
        └── StorageFailed       the catalog, or a server, could not be read or written

Each message says what went wrong and, where something can be done, what to do.
"""


class MMSearchError(Exception):
    """Base of all errors that mmsearch raises on purpose."""


class InvalidQuery(MMSearchError):
    """The query cannot be searched for."""


class UnknownTarget(InvalidQuery):
    """There is no such modality to search in."""


class InvalidFilter(MMSearchError):
    """A filter makes no sense, or names a key that no item has."""


class InvalidOption(MMSearchError):
    """An option makes no sense."""


class NoHomeFolder(InvalidOption):
    """What is stored in the user's home folder by default cannot be: this user has none."""


class UnknownModel(MMSearchError):
    """No encoder has this name."""


class ModelUnavailable(MMSearchError):
    """A model's weights are not on this machine, and cannot be downloaded."""


class MissingExtra(MMSearchError):
    """A package that only some users need is not installed, or cannot be imported.

    Args:
        what: What cannot be done without it, as the beginning of a sentence.
        extra: The extra of mmsearch that installs it.
        error: What importing it raised: it may be there, but lack a library of the system, say.
    """

    def __init__(self, what: str, extra: str, error: ImportError | None = None) -> None:
        needs, options = "more packages", ""
        if error is not None and not isinstance(error, ModuleNotFoundError):
            needs = f"packages that are installed but cannot be imported ({error})"
            options = "--force-reinstall "
        super().__init__(f"{what} needs {needs}: pip install {options}'mmsearch[{extra}]'")
        self.extra = extra


class LanguageModelFailed(MMSearchError):
    """A language model cannot be reached, refuses what it is asked, or breaks off."""


class UnsupportedModality(MMSearchError):
    """The encoder cannot encode this modality."""


class ModelDamaged(MMSearchError):
    """A model file is missing or does not match its checksum."""


class UnreadableFile(MMSearchError):
    """One media file cannot be used; the message is the reason."""


class TooLarge(UnreadableFile):
    """A file exceeds a limit that the caller can raise."""


class PathNotFound(MMSearchError):
    """A path that was given does not exist."""


class InvalidCaptions(MMSearchError):
    """A captions file cannot be parsed."""


class InvalidMetadata(MMSearchError):
    """Metadata cannot be parsed or stored."""


class IndexBusy(MMSearchError):
    """Another process is writing to the index; the message says which."""


class IndexUnusable(MMSearchError):
    """The index cannot be used."""


class IndexNotFound(IndexUnusable):
    """There is no index here."""


class CatalogDamaged(IndexUnusable):
    """The catalog is truncated, or not a catalog any more.

    Args:
        path: Of the catalog.
        why: What is wrong with it.
        cure: What to do about it.
    """

    CURE = "`mmsearch doctor --repair` restores what it can; else delete its folder and index again"

    def __init__(self, path: object, why: str, cure: str = CURE) -> None:
        super().__init__(f"{path} cannot be used: {why}; {cure}")
        self.why = why


class StorageFailed(IndexUnusable):
    """The catalog, or the server that stores the index, could not be read or written."""
