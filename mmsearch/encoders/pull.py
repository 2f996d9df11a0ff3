"""Fetches a model's files from the hub, whole and ready for use without a network."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from mmsearch.encoders import hub, store
from mmsearch.encoders.known import BY_NAME
from mmsearch.errors import MissingExtra, ModelUnavailable, UnknownModel


def pull(name: str, progress: hub.Progress | None = None) -> Path:
    """Where a model lies on this machine, after fetching what of it was not here.

    What an interrupted run fetched is not fetched again.

    Args:
        name: What `--model` takes.
        progress: Called with the bytes fetched so far and the bytes in all, where known.

    Raises:
        UnknownModel: no model has this name; the message has names that are like it.
        ModelUnavailable: the hub is out of reach, or the download broke off.
        MissingExtra: the packages that fetch it are not installed.
    """
    store.check_name(name)
    family, _, what = name.partition(":")
    if family == "mini":
        from mmsearch.encoders.mini import FOLDER

        return FOLDER
    return _clap(name, what, progress) if family == "clap" else _clip(name, progress)


def _clap(name: str, repository: str, progress: hub.Progress | None) -> Path:
    from mmsearch.encoders import clap_weights

    folder = clap_weights.folder_of(repository)
    if folder is not None and clap_weights.missing_from(folder) is None:
        return folder
    if not hub.REPOSITORY.fullmatch(repository) or _is_folder(repository):
        raise ModelUnavailable(f"{repository} is no folder of a whole CLAP model")
    try:
        folder = hub.fetch(repository, clap_weights.wanted, progress, extra="audio")
    except UnknownModel as error:
        raise _explained(name, error) from error
    if lacking := clap_weights.missing_from(folder):
        raise UnknownModel(f"{repository} is no CLAP model: it has no {lacking}")
    return folder


def _clip(name: str, progress: hub.Progress | None) -> Path:
    known = BY_NAME.get(name)
    here = store.is_here(name)
    if known is not None and here and (path := store.clip_weights_of(known)):
        return path
    if find_spec("open_clip") is None:
        raise MissingExtra(f"the model {name!r}", "clip")
    if not here:
        _check_fetchable(name)
        hub.check_reachable(name)
    from mmsearch.encoders import clip_weights

    return clip_weights.fetch(name, progress)


def _check_fetchable(name: str) -> None:
    """Return unless it is a file of one's own, or an ARCH/TAG that open_clip does not have."""
    from mmsearch.encoders import clip_names

    source = clip_names.parse(name)
    if source.path is not None:
        raise ModelUnavailable(f"there is no file or folder {str(source.path)!r}")
    if name not in BY_NAME:
        clip_names.check(source)


def _is_folder(what: str) -> bool:
    """Whether a folder of this name is there, so that it cannot be a repository's."""
    return Path(what).expanduser().is_dir()


def _explained(name: str, error: UnknownModel) -> UnknownModel:
    """The hub's refusal, with names that are like it."""
    near = store.unknown(name)
    return UnknownModel(f"{error}; {near}") if "did you mean" in str(near) else error
