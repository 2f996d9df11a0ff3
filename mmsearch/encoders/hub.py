"""What the Hugging Face hub has put on this machine, and how more comes from it.

The cache is read as files: importing huggingface_hub takes longer than a whole query.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmsearch.errors import MissingExtra, ModelUnavailable, UnknownModel

Progress = Callable[[int, int | None], None]
"""Called with the bytes fetched so far and the bytes in all, where known."""

REPOSITORY = re.compile(r"(?:[\w.-]+/)?[\w.-]+")
"""ORG/NAME, or NAME alone as the oldest repositories have it."""
PATIENCE = 1.5
"""Seconds to wait for a connection before taking the hub as out of reach."""


def cache() -> Path:
    """The folder of everything fetched from the hub, as huggingface_hub finds it."""
    if chosen := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(os.path.expandvars(chosen)).expanduser()
    home = os.environ.get("HF_HOME")
    if not home:
        home = os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    return Path(os.path.expandvars(home)).expanduser() / "hub"


def snapshot(repository: str, revision: str = "main") -> Path | None:
    """The folder of a repository's files on this machine, which may lack some; None without it."""
    folder = cache() / f"models--{repository.replace('/', '--')}"
    try:
        commit = (folder / "refs" / revision).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        commit = revision
    found = folder / "snapshots" / commit
    return found if found.is_dir() else None


def repositories() -> Iterator[tuple[str, Path]]:
    """Every repository that has a snapshot of its main branch here, by name."""
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
    """The first of these files that is whole (a link into the cache may lead nowhere)."""
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
) -> Path:
    """The folder of a repository's files after fetching those that were chosen.

    What an interrupted run fetched is not fetched again.

    Args:
        repository: ORG/NAME on the hub.
        choose: Which of the repository's files are wanted.
        progress: Told how far it is.
        extra: The extra of mmsearch that brings huggingface_hub.

    Raises:
        MissingExtra: huggingface_hub is not installed.
        UnknownModel: the hub has no such repository, or hides it.
        ModelUnavailable: the hub is out of reach, or the download broke off.
    """
    check_reachable(repository)
    try:
        from huggingface_hub import HfApi, hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
    except ImportError as error:
        raise MissingExtra("fetching a model", extra) from error
    try:
        found = HfApi().model_info(repository, files_metadata=True, timeout=10)
        sizes = {file.rfilename: file.size or 0 for file in found.siblings or ()}
        wanted = choose(sorted(sizes))
        meter = _Meter(progress, sum(sizes[name] for name in wanted))
        for name in wanted:
            path = hf_hub_download(
                repository, name, revision=found.sha, tqdm_class=meter.bar_class()
            )
            meter.file_done(sizes[name])
        _remember_main(repository, found.sha)
    except RepositoryNotFoundError as error:
        raise UnknownModel(
            f"the hub has no repository {repository!r}, or only for those who are logged in"
        ) from error
    except _network_errors(HfHubHTTPError) as error:
        raise ModelUnavailable(
            f"fetching {repository} broke off ({_first_line(error)}); "
            "the same command again goes on from there"
        ) from error
    if not wanted:
        raise ModelUnavailable(f"{repository} has none of the files that this model needs")
    return Path(path).parents[len(Path(name).parts) - 1]


def check_reachable(what: str, seconds: float = PATIENCE) -> None:
    """Return if the hub takes connections.

    Raises:
        ModelUnavailable: it does not; said within about `seconds`, and not after the minute of
            retries that huggingface_hub takes.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise ModelUnavailable(
            f"{what} is not on this machine, and HF_HUB_OFFLINE forbids fetching it"
        )
    import socket
    import threading

    host, port = _door()
    trouble: list[str] = ["no answer"]

    def knock() -> None:
        try:
            socket.create_connection((host, port), timeout=seconds).close()
            trouble.clear()
        except OSError as error:
            trouble[:] = [error.strerror or _first_line(error)]

    # in a thread, because looking a name up knows no time limit
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(seconds)
    if trouble:
        raise ModelUnavailable(
            f"{what} is not on this machine, and {host} cannot be reached ({trouble[0]}); "
            "see docs/models.md for how to bring a model over by hand"
        )


def _door() -> tuple[str, int]:
    """Host and port that a connection to the hub begins with: the proxy's, where one is set."""
    import urllib.request
    from urllib.parse import urlsplit

    hub = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    host = hub.hostname or "huggingface.co"
    proxies = urllib.request.getproxies()
    proxy = proxies.get(hub.scheme) or proxies.get("all")
    if proxy and not urllib.request.proxy_bypass(host):
        hub = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        host = hub.hostname or host
    return host, hub.port or (443 if hub.scheme == "https" else 80)


def _network_errors(hub_error: type[Exception]) -> tuple[type[Exception], ...]:
    """What a download may break off with; the HTTP library is another from version to version."""
    of_http = [kind for kind in hub_error.__mro__[:-2] if issubclass(kind, Exception)]
    return (*(kind for kind in of_http if kind is not Exception), RuntimeError, ValueError)


def _remember_main(repository: str, commit: str | None) -> None:
    """Let main mean this commit from now on: hf_hub_download notes only names it was given."""
    if commit:
        note = cache() / f"models--{repository.replace('/', '--')}" / "refs" / "main"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(commit, encoding="ascii")


class _Meter:
    """Adds up what the progress bars of several files say."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._before = 0

    def file_done(self, size: int) -> None:
        self._before += size
        self._tell(0)

    def bar_class(self) -> type[Any]:
        """A progress bar that shows nothing and passes its count on."""
        from tqdm import tqdm

        meter = self

        class Bar(tqdm):  # type: ignore[type-arg]
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **{**options, "disable": True})
                self.n = options.get("initial", 0)

            def update(self, n: float | None = 1) -> bool | None:
                self.n += n or 0
                meter._tell(int(self.n))
                return None

        return Bar

    def _tell(self, within: int) -> None:
        if self._progress is not None:
            self._progress(min(self._before + within, self._total), self._total)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
