"""Files decoded and encoded by the workers of a Ray cluster, or of this machine.

    scanned files ─▶ decode, in tasks ─▶ encode, in actors that hold the models ─▶ the caller stores

Ray Data runs both stages over some thousands of files at a time (a wave), and hands out what is
done while others are at work. A worker that dies takes its block of files with it, and Ray drops it
in silence. So each wave is counted, and what is missing goes out once more, each file for itself;
what then is missing again is reported, not stored: the next run finds it as it was.

Workers open the index themselves, to see what it knows of a content, but never write to it.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from mmsearch.encoders import Runtime
from mmsearch.errors import InvalidOption, MissingExtra, MMSearchError, StorageFailed
from mmsearch.indexing.decoder import DecodedFile, Decoder
from mmsearch.indexing.encoding import FileVectors, encode
from mmsearch.indexing.file_contents import ReadOptions
from mmsearch.indexing.pipeline import TimedReport
from mmsearch.indexing.scan import ScannedFile
from mmsearch.storage.place import IndexPlace

HERE = "ray"
"""Stands for a cluster that is started on this machine, and ended with the run."""

FILES_A_WAVE = 8_192
"""Files that Ray Data is given at once; with each wave, actors load their models again."""

FILES_A_BLOCK = 32
CORES_AN_ENCODER = 4
"""Processor cores for each actor, where there is no GPU."""

DECODED_FIRST = {"image", "text"}
"""Kinds that tasks decode; sounds, videos and documents are encoded as they are read, by actors."""

CLIENT_PORT = 10_001
"""Where a cluster listens for ray:// unless it is told otherwise."""

SECONDS_TO_CONNECT, SECONDS_TO_ANSWER = 5, 120

OBJECT_STORE = 512 << 20
"""Bytes that a cluster on this machine may keep of what is on its way."""


@dataclass(frozen=True)
class Work:
    """What a worker needs to know.

    Attributes:
        place: Of the index; its address may hold a password.
        options: How files are read.
        runtime: What encoders run on.
    """

    place: IndexPlace
    options: ReadOptions
    runtime: Runtime


class RayPipeline:
    """Does with Ray's workers what `Pipeline` does with threads.

    Args:
        address: "ray" starts Ray on this machine; "ray://HOST:PORT" is a cluster, "ray:auto" the
            one that this machine is part of.
        work: What workers are to do.
        report: Takes the files that are missing in the end.

    Raises:
        MissingExtra: Ray is not installed.
        InvalidOption: `address` has none of these forms.
    """

    def __init__(self, address: str, work: Work, report: TimedReport) -> None:
        if address not in (HERE, f"{HERE}:auto") and not address.startswith(f"{HERE}://"):
            raise InvalidOption(
                f"--on takes ray (this machine), ray:auto or ray://HOST:10001, not {address!r}"
            )
        if find_spec("ray") is None:
            raise MissingExtra("--on ray", "ray")
        self._address = address
        self._work = work
        self._report = report

    def run(
        self, files: Iterator[ScannedFile]
    ) -> Generator[tuple[list[DecodedFile], list[FileVectors]], None, None]:
        """Batch after batch, with the vectors of each file; closing it ends the workers.

        Args:
            files: New or changed files; a wave of them is listed at a time.

        Raises:
            MissingExtra: Ray is not installed.
            InvalidOption: the cluster is out of reach, or its machines cannot do the work; the
                message says why.
            StorageFailed: a worker could not go on; batches that were stored stay.
        """
        first = list(islice(files, 1))
        if not first:
            return
        with self._cluster() as ray:
            waiting = iter((*first, *islice(files, FILES_A_WAVE - 1)))
            while wave := list(waiting):
                self._check(ray, {one.root for one in wave})
                lost = {one.path: one for one in wave}
                for alone in (False, True):
                    for batch, vectors in _run_wave(list(lost.values()), self._work, alone=alone):
                        for decoded in batch:
                            lost.pop(decoded.scanned.path, None)
                        yield batch, vectors
                    if not lost:
                        break
                    if len(lost) == len(wave) > 1:
                        raise InvalidOption(
                            f"no worker of {self._address} lived to do any of {len(wave)} files: "
                            "have its machines too little memory?"
                        )
                self._report.lost += lost
                waiting = islice(files, FILES_A_WAVE)

    @contextmanager
    def _cluster(self) -> Iterator[Any]:
        """Ray, connected; what was started here is ended."""
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ part writes to stderr
        self._check_reachable()
        import ray
        import ray.data

        how: dict[str, Any] = {"address": self._address.removeprefix(f"{HERE}:")}
        if self._address.startswith(f"{HERE}://"):
            how["address"] = self._address
        if self._address == HERE:
            # one core more than there are: a task that waits for an actor holds one
            how = {"num_cpus": (os.cpu_count() or 1) + 1, "include_dashboard": False}
            how["object_store_memory"] = OBJECT_STORE
        with ExitStack() as stack:
            stack.enter_context(_quiet())
            if ray.is_initialized():  # by the program that calls this
                yield ray
                return
            if self._address == HERE:
                scratch = stack.enter_context(TemporaryDirectory(prefix="mmsearch-ray-"))
                how["_temp_dir"] = scratch
            try:
                ray.init(logging_level=logging.ERROR, log_to_driver=False, **how)
            except Exception as error:  # ConnectionError, RuntimeError and others
                raise self._unusable(_first_line(error)) from error
            stack.callback(ray.shutdown)
            yield ray

    def _check_reachable(self) -> None:
        """Check that something listens at the address: Ray itself waits half a minute for it."""
        address = urlsplit(self._address)
        if address.netloc:
            try:
                port = address.port or CLIENT_PORT
                socket.create_connection((address.hostname or "", port), SECONDS_TO_CONNECT).close()
            except (OSError, ValueError) as error:
                raise self._unusable(_first_line(error)) from error

    def _unusable(self, why: str) -> InvalidOption:
        return InvalidOption(
            f"no Ray cluster can be used at {self._address}: {why}; is it running (ray start "
            "--head), with the same versions of Ray and Python?"
        )

    def _check(self, ray: Any, roots: set[str]) -> None:
        """Check that every machine can do the work.

        Raises:
            InvalidOption: one cannot.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        probe = ray.remote(num_cpus=0)(_problem)
        nodes = {
            node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]
        }
        asked = [
            probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
            for node in nodes
        ]
        answers = [one.remote(version("mmsearch"), self._work, sorted(roots)) for one in asked]
        for host, answer in zip(nodes.values(), answers, strict=True):
            try:
                problem = ray.get(answer, timeout=SECONDS_TO_ANSWER)
            except Exception as error:  # mmsearch cannot be imported there, say; or no answer
                problem = f"mmsearch does not run there ({_first_line(error)}): install it"
            if problem:
                raise InvalidOption(f"{host}, a machine of the Ray cluster, cannot work: {problem}")


def _run_wave(
    files: Sequence[ScannedFile], work: Work, *, alone: bool
) -> Iterator[tuple[list[DecodedFile], list[FileVectors]]]:
    """What Ray Data makes of some files, a block at a time; blocks whose worker died are missing.

    Args:
        files: The files.
        work: What is to be done.
        alone: Whether each file is a block of its own.
    """
    import ray

    size = 1 if alone else FILES_A_BLOCK
    packed = pickle.dumps(work)
    blocks = [pickle.dumps((packed, files[at : at + size])) for at in range(0, len(files), size)]
    changed = {
        "max_errored_blocks": -1,  # the caller counts
        "enable_progress_bars": False,
        "print_on_execution_start": False,
    }
    context = ray.data.DataContext.get_current()
    before = {name: getattr(context, name) for name in changed}
    try:
        for name, value in changed.items():
            setattr(context, name, value)
        for row in _both_stages(blocks).iter_rows():
            done = pickle.loads(row["item"])  # noqa: S301 - made by _Encoding
            if isinstance(done, str):
                raise StorageFailed(f"a worker could not go on: {done}")
            yield done
    finally:
        for name, value in before.items():
            setattr(context, name, value)


def _both_stages(blocks: Sequence[bytes]) -> Any:
    """The dataset of what is made of some blocks; nothing runs yet."""
    import ray

    available = ray.cluster_resources()
    cores, gpus = int(available.get("CPU", 1)), int(available.get("GPU", 0))
    share: dict[str, Any] = (
        {"num_gpus": 1} if gpus else {"num_cpus": max(1, min(CORES_AN_ENCODER, cores - 2))}
    )
    actors = gpus or max(1, cores // (CORES_AN_ENCODER + 1))
    return (
        ray.data.from_items(blocks, override_num_blocks=len(blocks))
        .map_batches(_decode, batch_size=1, num_cpus=1, ray_remote_args_fn=_retry_once)
        .map_batches(
            _Encoding,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
            ray_remote_args_fn=_restart_once,
            **share,
        )
    )


def _retry_once() -> dict[str, int]:
    """Of tasks: what kills a worker would otherwise be tried for ever."""
    return {"max_retries": 1}


def _restart_once() -> dict[str, int]:
    """The same of actors."""
    return {"max_restarts": 1, "max_task_retries": 1}


# ---------------------------------------------------------------------- in the workers


class _Worker:
    """The index, open in a process of Ray's, and what decodes and encodes for it."""

    def __init__(self, packed: bytes) -> None:
        from mmsearch.spaces.open_or_create import open_or_create

        work: Work = pickle.loads(packed)  # noqa: S301 - made by _run_wave
        self.index = open_or_create(work.place, [], work.runtime, create=False, restore=False)
        self.targets = self.index.encoders.targets()
        self.decode = Decoder(self.index.store, self.targets, work.options)


@cache
def _worker(packed: bytes) -> _Worker:
    """The one of this process: opening an index takes longer than decoding a photo."""
    return _Worker(packed)


_Batch = dict[str, Any]
"""As Ray Data hands it out: a column "item" of one pickled block."""

_Halfway = list[ScannedFile | DecodedFile]


def _decode(batch: _Batch) -> _Batch:
    """Decode the photos and texts of a block."""
    packed, files = pickle.loads(batch["item"][0])  # noqa: S301 - made by _run_wave

    def decoded() -> tuple[bytes, _Halfway]:
        decode = _worker(packed).decode
        return packed, [decode(one) if one.file.kind in DECODED_FIRST else one for one in files]

    return _packed(decoded)


def _packed(make: Callable[[], Any]) -> _Batch:
    """What a stage made; else why not: an error would have its block dropped in silence."""
    try:
        done = make()
    except Exception as error:  # of a model, of the store: whatever it is, it ends the run
        done = f"{type(error).__name__}: {_first_line(error)}"
    return {"item": [pickle.dumps(done)]}


class _Encoding:
    """Decodes what is left of a block, and encodes all of it."""

    def __call__(self, batch: _Batch) -> _Batch:
        halfway = pickle.loads(batch["item"][0])  # noqa: S301 - made by _decode
        if isinstance(halfway, str):  # why it could not be decoded
            return batch
        return _packed(partial(_encoded, *halfway))


def _encoded(packed: bytes, halfway: _Halfway) -> tuple[list[DecodedFile], list[FileVectors]]:
    worker = _worker(packed)
    files = [one if isinstance(one, DecodedFile) else worker.decode(one) for one in halfway]
    parts = [(one.contents, one.texts) if one.usable else (None, None) for one in files]
    vectors = encode(worker.targets, parts, worker.index.query_banks)
    for one in files:
        if one.contents is not None:
            one.contents.pictures = {}  # they have been encoded
    return files, vectors


def _problem(wanted: str, work: Work, roots: Sequence[str]) -> str | None:
    """Why this machine cannot do the work; None if it can."""
    if version("mmsearch") != wanted:
        return f"it has mmsearch {version('mmsearch')}, and not {wanted}: install the same"
    if unseen := [root for root in roots if root and not os.path.isdir(root)]:
        return f"it does not see {unseen[0]}: index folders that every machine has at this path"
    try:
        _Worker(pickle.dumps(work)).index.close()
    except MMSearchError as error:
        where = "on a server (PostgreSQL, Milvus), or in a folder that every machine sees"
        return f"{error}; an index for many machines is {where}"
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Ray logs and warns of off the terminal; errors reach the user as ours."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.data")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # Ray 2.60 deprecates the one way there is to bound how often a death is retried
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
