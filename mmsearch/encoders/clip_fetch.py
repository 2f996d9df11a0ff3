"""Downloads what a `clip:` model needs, or says within seconds that there is no network."""

from __future__ import annotations

import importlib.util
import os
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.encoders import clip_names
from mmsearch.encoders.clip_weights import CONFIG, candidates, find, unavailable
from mmsearch.errors import MissingExtra, ModelUnavailable

if TYPE_CHECKING:
    from mmsearch.encoders.clip_names import Source
    from mmsearch.encoders.clip_weights import Progress

REACH_SECONDS = 4.0
"""How long a network may take to answer at all."""


def fetch_source(source: Source, progress: Progress | None) -> Path:
    """What `clip_weights.fetch` does."""
    clip_names.check(source)
    here = find(source)
    if here is None and source.path is not None:
        raise unavailable(source)
    if here is not None and source.path is not None:
        return here
    if importlib.util.find_spec("open_clip") is None:
        raise MissingExtra("A clip model", "clip")
    try:
        if here is None:
            _check_network(_address(source))
            _download(source, progress)
        _fetch_tokenizer(source)
    except ModelUnavailable:
        raise
    except Exception as error:  # the hub's client raises dozens of kinds
        raise ModelUnavailable(f"{source.name} could not be downloaded: {error}") from error
    found = find(source)
    if found is None:
        raise ModelUnavailable(f"{source.name} was downloaded, but its weights cannot be found")
    return found


def _address(source: Source) -> str:
    """The site a model is downloaded from."""
    where = {} if source.repository else clip_names.places(source.arch, source.tag or "") or {}
    if where.get("url") and not where.get("hf_hub"):
        return where["url"]
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def _check_network(address: str) -> None:
    """Fail in seconds where the hub's client would retry for most of a minute."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise ModelUnavailable(f"{address} is not asked: HF_HUB_OFFLINE is set")
    failures: list[Exception] = []

    def ask() -> None:
        request = urllib.request.Request(address, method="HEAD")  # noqa: S310 - an https address
        try:
            with urllib.request.urlopen(request, timeout=REACH_SECONDS):  # noqa: S310
                pass
        except urllib.error.HTTPError:
            pass  # it has answered
        except OSError as error:
            failures.append(error)

    asking = threading.Thread(target=ask, daemon=True)  # looking a name up knows no timeout
    asking.start()
    asking.join(REACH_SECONDS + 1)
    if asking.is_alive() or failures:
        why = failures[0] if failures else "no answer"
        raise ModelUnavailable(f"{address} cannot be reached ({why}); is there a network?")


def _download(source: Source, progress: Progress | None) -> None:
    where = {} if source.repository else clip_names.places(source.arch, source.tag or "") or {}
    repository, _, file = where.get("hf_hub", "").rpartition("/")
    if source.repository is not None:
        _from_hub(source.repository, CONFIG, None)
        repository = source.repository
    if not repository:
        from open_clip.pretrained import download_pretrained_from_url

        download_pretrained_from_url(where["url"])
        return
    *better, last = candidates(file)
    for name in better:
        with suppress(_not_in_repository()):
            _from_hub(repository, name, progress)
            return
    _from_hub(repository, last, progress)


def _from_hub(repository: str, file: str, progress: Progress | None) -> None:
    from huggingface_hub import hf_hub_download
    from tqdm.auto import tqdm

    class Told(tqdm):  # type: ignore[type-arg] # generic in its stubs only
        """The hub's progress bar, told to the caller instead of shown."""

        def __init__(self, *given: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*given, **options | {"disable": True})
            self.total = options.get("total") or 0
            self.n = options.get("initial") or 0

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if progress is not None:
                progress(int(self.n), int(self.total or 0))

    hf_hub_download(repo_id=repository, filename=file, tqdm_class=Told)


def _not_in_repository() -> type[Exception]:
    from huggingface_hub.errors import EntryNotFoundError

    missing: type[Exception] = EntryNotFoundError
    return missing


def _fetch_tokenizer(source: Source) -> None:
    """Let open_clip load what a text tower from transformers needs, so that it is kept."""
    from open_clip import get_tokenizer
    from open_clip.factory import get_model_config

    name = f"{clip_names.HUB}{source.repository}" if source.repository else source.arch
    text = (get_model_config(name) or {}).get("text_cfg", {})
    if text.get("hf_tokenizer_name"):
        get_tokenizer(name)
    if text.get("hf_model_name"):
        from transformers import AutoConfig

        AutoConfig.from_pretrained(text["hf_model_name"])
