"""Errors of Milvus, pymilvus and gRPC as errors of mmsearch: what went wrong, and what to do.

Codes tell them apart wherever there are any: gRPC's status for a call that never reached Milvus, or
was refused on arrival (no connection, a wrong token); Milvus' codes for all else (its source,
`pkg/util/merr/errors.go`). Words in the message tell apart only what has no code of its own:
certificates, pymilvus' time-outs, full disks, and tokens that Milvus before 2.4 refuses as invalid
parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mmsearch.errors import StorageFailed

COLLECTION_NOT_FOUND, COLLECTION_NOT_LOADED = 100, 101

KEPT = "what was stored before is kept"


@dataclass(frozen=True, slots=True)
class Problem:
    """A kind of error.

    Attributes:
        what: What went wrong, as the end of a sentence that begins with the index.
        cure: What to do about it.
        statuses: Names of gRPC statuses.
        codes: Milvus' codes.
        words: Words in the message, in lower case, of errors without such a code.
    """

    what: str
    cure: str
    statuses: tuple[str, ...] = ()
    codes: tuple[int, ...] = ()
    words: tuple[str, ...] = ()


NO_TLS = Problem(
    "cannot be opened, since its server speaks no TLS",
    "give the address as milvus://",
    words=("wrong_version_number",),
)
UNTRUSTED = Problem(
    "cannot be opened, since the certificate of its server is not trusted here",
    "give the host's name as the certificate has it, and in $GRPC_DEFAULT_SSL_ROOTS_FILE_PATH the "
    "file of the authority's certificate",
    words=("certificate_verify_failed", "ssl_error", "peer name", "hostname verification"),
)
TOKEN_REFUSED = Problem(
    "cannot be opened, since its server refuses the token",
    "set $MILVUS_TOKEN to one that is right, `user:password` or an API key",
    statuses=("UNAUTHENTICATED",),
    codes=(1400, 1800),
    words=("auth check failure", "code = unauthenticated"),
)
FORBIDDEN = Problem(
    "may not be used like this with this token",
    "have its user granted what is missing, or set $MILVUS_TOKEN to another one",
    statuses=("PERMISSION_DENIED",),
    codes=(1401,),
    words=("permission deny", "permission denied"),
)
FULL = Problem(
    "could not be written, since its server is full or at its limits",
    f"{KEPT}: give it more room or a higher quota, then run the command again",
    codes=(3, 4, 7, 8, 9, 12, 102, 250),
    words=("no space left", "disk quota exceeded", "quota exceeded", "file too large"),
)
UNREACHABLE = Problem(
    "is on a server that cannot be reached, or does not answer",
    "look whether Milvus runs there (with TLS: milvuss://), then run the command again",
    statuses=("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"),
    codes=(2,),
    words=("retry timeout", "retry run out", "closed channel", "create connect", "timed out"),
)
OTHER = Problem(
    "could not be read or written",
    f"{KEPT}: look into the log of Milvus, then run the command again",
)

_PROBLEMS = (NO_TLS, UNTRUSTED, TOKEN_REFUSED, FORBIDDEN, FULL, UNREACHABLE)


def problem_of(error: BaseException) -> Problem:
    """The kind of an error of pymilvus or gRPC; OTHER if none fits."""
    statuses, codes, text = set(), set(), ""
    for one in _chain(error):
        code = getattr(one, "code", None)
        code = code() if callable(code) else code
        if isinstance(code, int):  # else a gRPC status, which pymilvus may pass as its code
            codes.add(int(code))
        elif code is not None:
            statuses.add(code.name)
        text += f" {_message(one)}".lower()
    # first, as gRPC has one status for a bad certificate and for a server that is down
    for problem in (NO_TLS, UNTRUSTED):
        if any(word in text for word in problem.words):
            return problem
    for problem in _PROBLEMS:
        if statuses.intersection(problem.statuses) or codes.intersection(problem.codes):
            return problem
    return next((one for one in _PROBLEMS if any(word in text for word in one.words)), OTHER)


def failed(address: str, problem: Problem, error: BaseException, token: str) -> StorageFailed:
    """The StorageFailed for an error of pymilvus or gRPC; its message never shows the token.

    Args:
        address: The index.
        problem: The kind of the error.
        error: The error that was raised.
        token: The token, or "user:password", that must not be shown.
    """
    why = " ".join(_message(error).split())
    for secret in {token, *token.split(":", 1)[1:]} - {""}:
        why = why.replace(secret, "…")
    return StorageFailed(f"the index at {address} {problem.what}: {problem.cure} ({why[:300]})")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes: pymilvus raises its own from gRPC's, which has the status."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop(0)
        if one is not None and id(one) not in seen:
            seen.add(id(one))  # pymilvus raises errors from themselves
            yield one
            waiting += [one.__cause__, one.__context__]


def _message(error: BaseException) -> str:
    details = getattr(error, "details", None)
    text = getattr(error, "message", None) or (details() if callable(details) else "")
    return str(text or error) or type(error).__name__
