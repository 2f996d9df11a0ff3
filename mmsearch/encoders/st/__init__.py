"""`st:…`, the models of sentence-transformers: texts, pictures and sounds, often in one space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.encoders.family import Family, ModelRow, similar_names
from mmsearch.errors import ModelUnavailable, UnknownModel

if TYPE_CHECKING:
    from mmsearch.encoders import Encoder, Runtime
    from mmsearch.types import Progress


class SentenceTransformers(Family):
    """`st:ORG/NAME` of the hub or `st:FOLDER`; `st:ORG/NAME@REVISION`, and `#256` at the end for
    the first numbers of vectors that may be cut (Matryoshka).
    """

    forms = ("st:ORG/NAME",)

    def load(self, name: str, how: Runtime) -> Encoder:
        """The encoder; torch is imported at once."""
        from mmsearch.encoders.st.encoder import load_model

        return load_model(name, how)

    def is_here(self, name: str) -> bool:
        """Whether all of its files are."""
        from mmsearch.encoders.st import checkpoint

        folder = checkpoint.parse(name).folder
        return folder is not None and checkpoint.missing_from(folder) is None

    def pull(self, name: str, progress: Progress | None) -> Path:
        """The folder of its files."""
        from mmsearch.encoders import hub
        from mmsearch.encoders.st import checkpoint

        source = checkpoint.parse(name)
        if source.folder is not None and checkpoint.missing_from(source.folder) is None:
            return source.folder
        if source.repository is None:
            raise ModelUnavailable(f"{source.folder} is not a folder of a whole model")
        try:
            folder = hub.fetch(
                source.repository,
                checkpoint.wanted,
                progress,
                extra="st",
                revision=source.revision,
            )
        except UnknownModel as error:
            if near := similar_names(name, [model.name for model in self.recommended()]):
                raise UnknownModel(f"{error}; did you mean {' or '.join(near)}?") from error
            raise
        if missing := checkpoint.missing_from(folder):
            raise UnknownModel(f"{source.repository} is no such model: it has no {missing}")
        return folder

    def licence(self, name: str) -> str | None:
        """As the hub states it."""
        from mmsearch.encoders import hub
        from mmsearch.encoders.st import checkpoint

        if known := super().licence(name):
            return known
        source = checkpoint.parse(name)
        return source.repository and hub.licence(source.repository)

    def trust(self, name: str) -> None:
        """Let the model's own code run, until one of its files changes."""
        from mmsearch.encoders.st import checkpoint
        from mmsearch.encoders.trusted import trust

        source = checkpoint.parse(name)
        if source.folder is not None:
            trust(source.name, checkpoint.fingerprint(source.folder, source.dim))

    def absolute(self, name: str) -> str:
        """With the whole path of a folder."""
        from mmsearch.encoders.st import checkpoint

        return checkpoint.parse(name).name

    def recognise(self, repository: str, folder: Path) -> ModelRow | None:
        """A whole model with a modules.json, as sentence-transformers saves it."""
        from mmsearch.encoders.st import checkpoint

        if not (folder / checkpoint.MODULES).is_file() or checkpoint.missing_from(folder):
            return None
        weights = sum(path.stat().st_size for path in checkpoint.weights_in(folder))
        about = "in the Hugging Face cache"
        return ModelRow(f"st:{repository}", "here", round(weights / 1e6), None, about)
