"""Indexing jobs: each in a child process of low priority, with its progress as an event stream.

An index has at most one child. It ends when its stdin does, and so with the server, even a killed
one; what was stored stays (`index_process`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import Path, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field, PlainValidator, WithJsonSchema

from mmsearch.errors import MMSearchError, PathNotFound
from mmsearch.home import expanded
from mmsearch.server.index_process import Task, command
from mmsearch.server.indexes import ServedIndexes
from mmsearch.server.problems import AsciiJSONResponse, Problem, shutting_down
from mmsearch.server.requests import Index, strict_router
from mmsearch.server.strict_models import StrictModel

REMEMBERED = 50
"""Ended jobs that are still listed."""

EVENT_EVERY = 0.25
"""The least seconds between two events of a stream."""

HEARTBEAT_EVERY = 15.0
"""Seconds after which a stream without events sends a comment, so that it is not closed as idle."""

ENDED = "ended"
"""The id of a stream's last event. When a stream ends, browsers connect again and send its last id;
204 stops them."""

SECONDS_TO_STOP = 1.0
"""In which children may store what they have when the server ends."""

LONGEST_LINE = 1 << 24
"""The most bytes of a message from a child."""

_log = logging.getLogger(__name__)


@dataclass
class Job:
    """An indexing job, as the API returns it.

    Attributes:
        paths: The folders; None means all that was indexed before.
        done: Files done so far.
        total: All files; None until they have been counted.
        limiting: The slowest stage of indexing, for which the others wait.
        report: The fields of `mmsearch.types.Report` once it has ended, also if it was cancelled;
            `failures` has the first hundred.
        error: Why it failed, and what to do.
        started_at: ISO 8601, UTC.
    """

    id: str
    index: str
    paths: list[str] | None
    state: Literal["running", "done", "cancelled", "failed"] = "running"
    done: int = 0
    total: int | None = None
    limiting: str | None = None
    report: dict[str, Any] | None = None
    error: str | None = None
    started_at: str = field(
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds")
    )

    @property
    def running(self) -> bool:
        """Whether the job has not ended."""
        return self.state == "running"

    def fail(self, error: str) -> None:
        """End the job with an error."""
        self.state, self.error = "failed", error

    def update(self, message: dict[str, Any]) -> None:
        """Update the job by a message of its child."""
        if not self.running:
            return
        if (error := message.get("error")) is not None:
            self.fail(error)
        elif (report := message.get("report")) is not None:
            self.report = report
            self.state = "cancelled" if report["interrupted"] else "done"
        elif "done" in message:
            self.done, self.total = message["done"], message["total"]
            self.limiting = message["limiting"]


class _Child:
    """The child process of a job, from before its start until after its end.

    Args:
        job: The job.
        replaced: The child of the last job of the index. It has ended, or only watches.
    """

    def __init__(self, job: Job, replaced: _Child | None) -> None:
        self.job = job
        self._replaced = replaced
        self.stopped = False
        self.task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None

    def stop(self) -> None:
        """Stop the process as Ctrl-C does."""
        self.stopped = True
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def kill(self) -> None:
        """End the process at once, which loses at most the current batch."""
        self.stop()
        if self._replaced is not None:
            self._replaced.kill()
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def ended(self) -> None:
        """Wait until the process has ended."""
        if self.task is not None:
            await asyncio.wait([self.task])

    async def run(self, task: Task) -> None:
        """Do a task, once the replaced process has ended."""
        if self._replaced is not None:
            self._replaced.stop()
            await self._replaced.ended()
            self._replaced = None
        if not self.stopped:
            try:
                await self._converse(task)
            except (OSError, ValueError) as error:
                self.kill()
                self.job.fail(f"the process that indexes could not be started or read: {error}")
        if self.job.running and self.stopped:
            self.job.state = "cancelled"

    async def _converse(self, task: Task) -> None:
        process = self._process = await asyncio.create_subprocess_exec(
            *command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            limit=LONGEST_LINE,
            **_WINDOWS,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(ConnectionError):  # it has ended already
            process.stdin.write(json.dumps(task).encode("ascii") + b"\n")
            await process.stdin.drain()
        if self.stopped:  # while the process was starting
            process.stdin.close()
        async for line in process.stdout:
            message = json.loads(line)
            self.job.update(message)
            if (warning := message.get("warning")) is not None:
                _log.warning("watching the files of index %r: %s", self.job.index, warning)
        code = await process.wait()
        if not self.stopped and self.job.running:
            self.job.fail(
                f"the process that indexes was ended ({_reason(code)}); what it had stored stays: "
                "start the job again to go on"
            )
        elif not self.stopped and task["watch"]:
            _log.error(
                "watching the files of index %r has ended; a new job begins it again",
                self.job.index,
            )


_WINDOWS: dict[str, Any] = {}
"""Sets priority and process group on Windows; elsewhere the child does (`index_process.main`)."""
if sys.platform == "win32":
    _WINDOWS["creationflags"] = (
        subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.BELOW_NORMAL_PRIORITY_CLASS
    )


def _reason(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


class Jobs:
    """The indexing jobs of a server. Its methods are called in the event loop.

    The server calls `start_watching` at its start, `stop` when it begins to end, and `close` last.

    Args:
        indexes: What is served.
        watch: Keep indexes up to date after a job: its child goes on to watch the files, until the
            next job of the index replaces it, or the job is cancelled.
    """

    def __init__(self, indexes: ServedIndexes, *, watch: bool = False) -> None:
        self._indexes = indexes
        self._watch = watch
        self._jobs: dict[str, Job] = {}
        self._children: dict[str, _Child] = {}  # the last one of each index
        self._stopping = False

    def all(self) -> list[Job]:
        """The jobs that run, and the last ones that ended, newest first."""
        return list(self._jobs.values())[::-1]

    def get(self, job_id: str) -> Job:
        """A job.

        Raises:
            Problem: 404, there is no such job.
        """
        if job_id not in self._jobs:
            raise Problem(404, f"no job {job_id!r}: it ended long ago, or the server was restarted")
        return self._jobs[job_id]

    async def start(self, index: str | None = None, paths: Sequence[str] | None = None) -> Job:
        """Index folders, or bring an index up to date.

        Args:
            index: The name of the index, by default the first served; created if it does not exist.
            paths: Absolute paths of folders; None means all that was indexed before.

        Raises:
            IndexNotFound: no index of this name is served.
            PathNotFound: there are no paths, and nothing was indexed before.
            Problem: 409, a job of this index runs; 503, the server is ending.
        """
        index = self._indexes.default if index is None else index
        place = self._indexes.place(index)
        if paths is None and not await to_thread.run_sync(self._indexes.exists, index):
            raise PathNotFound("nothing was indexed yet: say which folders to index, as `paths`")
        if self._stopping:
            raise shutting_down()
        replaced = self._children.get(index)
        if replaced is not None and replaced.job.running:
            running = replaced.job
            raise Problem(
                409,
                f"job {running.id} indexes {_named(running.paths)} for {index!r} just now: wait "
                "until it has ended, or cancel it",
            )
        job = Job(secrets.token_hex(8), index, None if paths is None else list(paths))
        child = _Child(job, replaced)
        task: Task = {
            "index": place.given,
            "paths": job.paths,
            "watch": self._watch,
            "how": asdict(self._indexes.how),
        }
        self._jobs[job.id] = job
        self._children[index] = child
        child.task = asyncio.create_task(child.run(task))
        self._forget()
        return job

    async def start_watching(self) -> None:
        """Start a job for every index, which brings it up to date and then watches its files.

        An index that does not exist yet is watched from its first job on.
        """
        for name in self._indexes.places:
            try:
                exists = await to_thread.run_sync(self._indexes.exists, name)
            except MMSearchError as error:
                _log.warning("index %r cannot be watched: %s", name, error)
                continue
            if exists:
                await self.start(name)

    def cancel(self, job: Job) -> None:
        """Stop a job as Ctrl-C does: what was stored stays. One that has ended stays as it is."""
        child = self._children[job.index]
        if child.job is job and job.running:
            child.stop()

    async def events(self, job: Job) -> AsyncIterator[bytes]:
        """The server-sent events of a job: its state now, and after each change."""
        last, quiet = "", 0.0
        while not self._stopping:
            plain = json.dumps(asdict(job))
            ended = not job.running
            if plain != last:
                last, quiet = plain, 0.0
                last_id = f"id: {ENDED}\n" if ended else ""
                yield f"event: job\n{last_id}data: {plain}\n\n".encode("ascii")
            elif quiet >= HEARTBEAT_EVERY:
                quiet = 0.0
                yield b": no news\n\n"
            if ended:
                return
            await asyncio.sleep(EVENT_EVERY)
            quiet += EVENT_EVERY

    def stop(self) -> None:
        """Begin to end: event streams close, and children stop as Ctrl-C does."""
        self._stopping = True
        for child in self._children.values():
            child.stop()

    async def close(self) -> None:
        """Stop, wait a second for the children, and kill those that still run."""
        self.stop()
        tasks = [child.task for child in self._children.values() if child.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=SECONDS_TO_STOP)
            for child in self._children.values():
                if child.task in late:
                    child.kill()
            if late:
                await asyncio.wait(late)

    def _forget(self) -> None:
        ended = [job.id for job in self._jobs.values() if not job.running]
        for job_id in ended[:-REMEMBERED]:
            del self._jobs[job_id]


def _named(paths: Sequence[str] | None) -> str:
    return "all that was indexed before" if paths is None else ", ".join(paths)


# ---------------------------------------------------------------------- routes


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("Input should be a valid string")  # noqa: TRY004 - pydantic expects it
    return value


_Text = Annotated[str, PlainValidator(_text), WithJsonSchema({"type": "string"})]
"""A string that may hold surrogate escapes, as paths may; pydantic's `str` refuses them."""


class JobRequest(StrictModel):
    """What to index."""

    paths: list[_Text] | None = Field(
        None,
        min_length=1,
        description="Absolute paths of folders. Left out: brings all that was indexed before up to "
        "date.",
    )


router = strict_router(tag="indexing jobs")

JobId = Annotated[str, Path(description="The id of a job.")]


def _jobs_of(request: Request, *, writing: bool = False) -> Jobs:
    if writing and not request.app.state.writable:
        raise Problem(
            403,
            "indexing is started only on a server that listens on this machine alone: run "
            "`mmsearch index FOLDER` there",
        )
    jobs: Jobs = request.app.state.jobs
    return jobs


@router.get("/jobs", response_model=list[Job])
async def list_jobs_of(request: Request) -> Response:
    """The indexing jobs of all indexes that run, and the last fifty that ended."""
    return AsciiJSONResponse([asdict(job) for job in _jobs_of(request).all()])


@router.post("/jobs", status_code=202, response_model=Job)
async def start_job(
    request: Request, body: JobRequest | None = None, index: Index = None
) -> Response:
    """Index folders, or bring an index up to date; one job per index at a time."""
    jobs = _jobs_of(request, writing=True)
    paths = None
    if body is not None and body.paths is not None:
        paths = await to_thread.run_sync(_folders, body.paths)
    return AsciiJSONResponse(asdict(await jobs.start(index, paths)), 202)


@router.get("/jobs/{job_id}", response_model=Job)
async def show_job(request: Request, job_id: JobId) -> Response:
    """A job, with its progress or its report."""
    return AsciiJSONResponse(asdict(_jobs_of(request).get(job_id)))


@router.delete("/jobs/{job_id}", status_code=202, response_model=Job)
async def cancel_job(request: Request, job_id: JobId) -> Response:
    """Cancel a job, as Ctrl-C does: what was stored stays."""
    jobs = _jobs_of(request, writing=True)
    job = jobs.get(job_id)
    jobs.cancel(job)
    return AsciiJSONResponse(asdict(job), 202)


@router.get(
    "/jobs/{job_id}/events",
    response_class=Response,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "`job` events, each a job"},
        204: {"description": "the client has the last event"},
    },
)
async def job_events(request: Request, job_id: JobId) -> Response:
    """The job after each change, as server-sent events, until it ends."""
    jobs = _jobs_of(request)
    job = jobs.get(job_id)
    if request.headers.get("last-event-id") == ENDED:
        return Response(status_code=204)
    return StreamingResponse(
        jobs.events(job), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


def _folders(paths: Sequence[str]) -> list[str]:
    """Absolute paths of folders, "~" expanded.

    Raises:
        Problem: 422, one is not the absolute path of a folder.
        NoHomeFolder: one begins with "~", and there is no home folder.
    """
    folders = [expanded(path, "give the whole path") for path in paths]
    for folder in folders:
        if not os.path.isabs(folder):
            raise Problem(
                422, f"{folder!r} is not an absolute path: give the whole path of a folder"
            )
        if not os.path.isdir(folder):
            what = "is a file" if os.path.isfile(folder) else "does not exist on this machine"
            raise Problem(422, f"{folder!r} {what}: give the path of a folder")
    return folders
