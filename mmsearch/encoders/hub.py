"""The Hugging Face hub: what of it is on this machine, and downloading more.

Its cache is read as files here, because importing huggingface_hub takes longer than a whole query.
Whether the hub can be reached is checked first, because its client would retry for most of a
minute.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmsearch.errors import MissingExtra, ModelUnavailable, UnknownModel
from mmsearch.home import expanded
from mmsearch.types import Progress

REPOSITORY = re.compile(r"(?:[\w.-]+/)?[\w.-]+")
"""ORG/NAME, or NAME alone as the oldest repositories have it."""
CONNECT_TIMEOUT = 1.5
"""Seconds after which the hub counts as out of reach."""


def cache() -> Path:
    """The folder of everything downloaded from the hub, as huggingface_hub finds it."""
    if chosen := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(os.path.expanduser(os.path.expandvars(chosen)))
    home = os.environ.get("HF_HOME")
    if not home:
        home = os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    return Path(os.path.expanduser(os.path.expandvars(home))) / "hub"


def snapshot(repository: str, revision: str = "main") -> Path | None:
    """The folder of a repository on this machine, which may lack some files.

    Args:
        repository: ORG/NAME.
        revision: A branch, a tag or a commit.
    """
    folder = cache() / f"models--{repository.replace('/', '--')}"
    try:
        commit = (folder / "refs" / revision).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        commit = revision
    found = folder / "snapshots" / commit
    return found if found.is_dir() else None


def repositories() -> Iterator[tuple[str, Path]]:
    """Every repository with a snapshot here, in order of name, and its folder."""
    try:
        names = sorted(entry.name for entry in os.scandir(cache()))
    except OSError:
        return
    for name in names:
        if name.startswith("models--"):
            repository = name.removeprefix("models--").replace("--", "/")
            if folder := snapshot(repository):
                yield repository, folder


def first_of(folder: Path | None, *names: str) -> Path | None:
    """The first of these files that exists (a link into the cache may be broken)."""
    for name in names:
        if folder and (folder / name).is_file():
            return folder / name
    return None


# ---------------------------------------------------------------------- over the network


def fetch(
    repository: str,
    choose: Callable[[Sequence[str]], Sequence[str]],
    progress: Progress | None = None,
    *,
    extra: str,
    revision: str = "main",
) -> Path:
    """The folder of a repository's files after downloading those that were chosen.

    What an interrupted run downloaded is not downloaded again.

    Args:
        repository: ORG/NAME on the hub.
        choose: Returns which of the repository's files are wanted.
        progress: Called with the bytes downloaded so far and the bytes in all.
        extra: The extra of mmsearch that brings huggingface_hub.
        revision: A branch, a tag or a commit.

    Raises:
        MissingExtra: huggingface_hub is not installed.
        NoHomeFolder: files would be stored in the user's home folder, and the user has none.
        UnknownModel: the hub has no such repository, or hides it.
        ModelUnavailable: the hub is out of reach, has none of the files, or the download broke
            off.
    """
    if not cache().is_absolute():
        expanded("~", "HF_HOME")
    check_reachable(repository)
    try:
        from huggingface_hub import HfApi, hf_hub_download
        from huggingface_hub.errors import RepositoryNotFoundError
    except ImportError as error:
        raise MissingExtra("fetching a model", extra) from error
    try:
        found = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=10)
        sizes = {file.rfilename: file.size or 0 for file in found.siblings or ()}
        wanted = choose(sorted(sizes))
        meter = _Meter(progress, sum(sizes[name] for name in wanted))
        for name in wanted:
            path = hf_hub_download(
                repository, name, revision=revision, tqdm_class=meter.bar_class()
            )
            meter.file_done(sizes[name])
    except RepositoryNotFoundError as error:
        raise UnknownModel(
            f"the hub has no repository {repository!r}, or only for those who are logged in"
        ) from error
    except Exception as error:  # the hub's client and its HTTP library raise dozens of kinds
        raise ModelUnavailable(
            f"fetching {repository} broke off ({_first_line(error)}); "
            "the same command again goes on from there"
        ) from error
    if not wanted:
        raise ModelUnavailable(f"{repository} has none of the files that this model needs")
    return Path(path).parents[len(Path(name).parts) - 1]


def licence(repository: str) -> str | None:
    """The licence that a repository's card states, None if none or if the hub does not answer."""
    with suppress(Exception):  # the hub's client and its HTTP library raise dozens of kinds
        from huggingface_hub import HfApi

        check_reachable(repository)
        card = HfApi().model_info(repository, timeout=10).card_data
        stated = card and (card.get("license_name") or card.get("license"))
        return str(stated) if stated else None
    return None


def check_reachable(
    what: str, address: str | None = None, *, seconds: float = CONNECT_TIMEOUT
) -> None:
    """Return if the hub, or another site, takes connections.

    Args:
        what: What is to be downloaded, for the message.
        address: The site's; the hub's if left out.
        seconds: How long to wait.

    Raises:
        ModelUnavailable: it does not, or HF_HUB_OFFLINE is set.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise ModelUnavailable(
            f"{what} is not on this machine and cannot be fetched: HF_HUB_OFFLINE is set"
        )
    import socket
    import threading

    host, port = _host_and_port(
        address or os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    )
    problem: list[str] = ["no answer"]

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=seconds).close()
            problem.clear()
        except OSError as error:
            problem[:] = [error.strerror or _first_line(error)]

    # in a thread, because looking a name up has no time limit
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    if problem:
        raise ModelUnavailable(
            f"{what} is not on this machine, and {host} cannot be reached ({problem[0]}); "
            "see docs/models.md for how to bring a model over by hand"
        )


def _host_and_port(address: str) -> tuple[str, int]:
    """Host and port that a connection begins with: the proxy's, where one is set."""
    import urllib.request
    from urllib.parse import urlsplit

    site = urlsplit(address)
    host = site.hostname or "huggingface.co"
    proxies = urllib.request.getproxies()
    proxy = proxies.get(site.scheme) or proxies.get("all")
    if proxy and not urllib.request.proxy_bypass(host):
        site = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        host = site.hostname or host
    return host, site.port or (443 if site.scheme == "https" else 80)


class _Meter:
    """Adds up the progress bars of several files."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._before = 0

    def file_done(self, size: int) -> None:
        self._before += size
        self.report(0)

    def bar_class(self) -> type[Any]:
        """A progress bar that shows nothing and passes its count on."""
        from tqdm import tqdm

        meter = self

        class Bar(tqdm):  # type: ignore[type-arg] # generic in its stubs only
            def __init__(self, *args: Any, **options: Any) -> None:
                options.pop("name", None)
                super().__init__(*args, **{**options, "disable": True})
                self.n = options.get("initial", 0)

            def update(self, n: float | None = 1) -> bool | None:
                self.n += n or 0
                meter.report(int(self.n))
                return None

        return Bar

    def report(self, within: int) -> None:
        if self._progress is not None:
            self._progress(min(self._before + within, self._total), self._total)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
