"""`clap:…`, models of sounds and texts, on transformers and torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.encoders.family import Family, ModelRow, similar_names
from mmsearch.errors import ModelUnavailable, UnknownModel

if TYPE_CHECKING:
    from mmsearch.encoders import Encoder, Runtime
    from mmsearch.types import Progress


class Clap(Family):
    """`clap:REPOSITORY` of the hub, or `clap:FOLDER`."""

    forms = ("clap:ORG/NAME",)

    def load(self, name: str, how: Runtime) -> Encoder:
        """The encoder; torch is imported when it first encodes."""
        from mmsearch.encoders.clap.encoder import load_clap

        return load_clap(name, how)

    def is_here(self, name: str) -> bool:
        """Whether all of its files are."""
        from mmsearch.encoders.clap import checkpoint

        folder = checkpoint.folder_of(_after_prefix(name))
        return folder is not None and checkpoint.missing_from(folder) is None

    def pull(self, name: str, progress: Progress | None) -> Path:
        """The folder of its files."""
        from mmsearch.encoders import hub
        from mmsearch.encoders.clap import checkpoint

        repository = _after_prefix(name)
        folder = checkpoint.folder_of(repository)
        if folder is not None and checkpoint.missing_from(folder) is None:
            return folder
        if not hub.REPOSITORY.fullmatch(repository) or os.path.isdir(
            os.path.expanduser(repository)
        ):
            raise ModelUnavailable(f"{repository} is not a folder of a whole CLAP model")
        try:
            folder = hub.fetch(repository, checkpoint.wanted, progress, extra="audio")
        except UnknownModel as error:
            if near := similar_names(name, [model.name for model in self.recommended()]):
                raise UnknownModel(f"{error}; did you mean {' or '.join(near)}?") from error
            raise
        if missing := checkpoint.missing_from(folder):
            raise UnknownModel(f"{repository} is no CLAP model: it has no {missing}")
        return folder

    def absolute(self, name: str) -> str:
        """With the whole path of a folder."""
        folder = os.path.expanduser(_after_prefix(name))
        return f"clap:{os.path.abspath(folder)}" if os.path.isdir(folder) else name

    def recognise(self, repository: str, folder: Path) -> ModelRow | None:
        """A whole model whose config.json says that it is one."""
        from mmsearch.encoders import hub
        from mmsearch.encoders.clap import checkpoint
        from mmsearch.encoders.model_files import read_json

        weights = hub.first_of(folder, *checkpoint.WEIGHTS)
        if weights is None or checkpoint.missing_from(folder):
            return None
        if (read_json(folder / "config.json") or {}).get("model_type") != "clap":
            return None
        megabytes = round(weights.stat().st_size / 1e6)
        return ModelRow(f"clap:{repository}", "here", megabytes, None, "in the Hugging Face cache")


def _after_prefix(name: str) -> str:
    return name.partition(":")[2]
