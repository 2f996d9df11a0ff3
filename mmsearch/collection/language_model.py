"""A client of language models with an OpenAI-compatible API: Ollama, llama.cpp, vLLM, services.

It connects to the given address alone: redirects are not followed, and for an address on this
machine the proxies of the environment are not used.
"""

from __future__ import annotations

import base64
import os
import re
import ssl
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from ipaddress import ip_address
from socket import getaddrinfo
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from mmsearch.errors import InvalidOption, LanguageModelFailed, MissingExtra

CONNECT_TIMEOUT = 10.0
"""Seconds to wait for a connection."""

READ_TIMEOUT = 300.0
"""Seconds to wait for the next piece of a reply; the first one may have to wait until the model is
loaded and all pictures are encoded."""

MOST_CHARACTERS = 50_000
"""Characters after which a reply is cut: small models may repeat themselves endlessly."""

MOST_BYTES = 32 << 20
"""Of one response: some hundred bytes for each word of a reply, and of a model's thoughts."""

Content = Sequence[str | bytes]
"""The user message: texts, and JPEGs as bytes, in order."""

NO_ADDRESS = """\
there is no language model to ask: give the address of one by --llm or in $OPENAI_BASE_URL. With \
Ollama (https://ollama.com), on this machine:
    ollama pull qwen2.5vl:3b
    export OPENAI_BASE_URL=http://localhost:11434/v1"""

_PICTURE_WORDS = re.compile(r"image|picture|vision|visual|multi-?modal|mmproj", re.IGNORECASE)
_REFUSALS = frozenset({400, 413, 415, 422})
"""Status codes for a request whose content the server does not accept."""


class PicturesRefused(LanguageModelFailed):
    """The model accepts text only."""


class LanguageModel:
    """A language model at an address.

    Args:
        address: Its base URL, "http://localhost:11434/v1"; None or "" for `$OPENAI_BASE_URL`.
        name: Which of the server's models; None or "" for the first that it lists.

    Attributes:
        address: The base URL.
        host: The host in it.
        is_local: Whether that is this machine.
        name: The name of the model; None before the server has listed its models.

    Raises:
        InvalidOption: there is no address, or it is not valid; the key is not valid.
        MissingExtra: the package `openai` is not installed.
    """

    def __init__(self, address: str | None = None, name: str | None = None) -> None:
        given = address or os.environ.get("OPENAI_BASE_URL", "")
        if not given.strip():
            raise InvalidOption(NO_ADDRESS)
        self.address = given.strip()
        self.host = _host_in(self.address)
        self.is_local = is_this_machine(self.host)
        self.name = name or None
        self._key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise InvalidOption("$OPENAI_API_KEY is not a key: it has characters that no key has")

    @property
    def destination(self) -> str:
        """Where messages are sent, for people to read: "api.example.org, another machine"."""
        how = "" if self.address.lower().startswith("https:") else ", unencrypted"
        key = ", with the key in $OPENAI_API_KEY" if self._key else ""
        return f"{self.host}, another machine{how}{key}"

    def reply(self, instructions: str, content: Content, notes: list[str]) -> Iterator[str]:
        """The reply of the model, streamed in pieces that are not empty.

        Args:
            instructions: The system message.
            content: The user message.
            notes: What the user should know about the reply is appended to it.

        Raises:
            PicturesRefused: the content has pictures, and the model accepts none; it has replied
                nothing yet.
            LanguageModelFailed: the server cannot be reached, refuses, or breaks off.
        """
        with self._errors(has_pictures=any(isinstance(one, bytes) for one in content)) as progress:
            bounds = _Bounds(self.address)
            with self._client(bounds) as client:
                if self.name is None:
                    self.name = self._first_model(client)
                pieces = self._pieces(client, bounds, instructions, content, notes)
                for piece in _without_thoughts(pieces):
                    progress.append(piece)
                    yield piece
            if not progress:
                raise LanguageModelFailed(
                    f"{self.name} replied nothing: try again, or another model (--llm-model)"
                )

    def _client(self, bounds: _Bounds) -> Any:
        openai = _openai()
        how: dict[str, Any] = {}
        if self.is_local:
            how["trust_env"] = False  # no proxy between this machine and itself
            if self.address.lower().startswith("http:"):
                # with no certificates: loading them takes longer than all the rest
                how["verify"] = _no_certificates()
        try:
            http = openai.DefaultHttpxClient(
                timeout=openai.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT),
                follow_redirects=False,  # the user agreed to this host
                headers={"Accept-Encoding": "identity"},
                event_hooks={"response": [bounds.apply_to]},
                **how,
            )
        except Exception as error:  # not shown: the address of a proxy may have a password
            raise InvalidOption(_environment(error)) from None
        client = openai.OpenAI(
            base_url=self.address,
            api_key=self._key or "none",  # servers without keys ignore it
            admin_api_key="",  # else $OPENAI_ADMIN_KEY
            http_client=http,
            max_retries=0,
        )
        # those of the environment are for one service, not for whatever is asked
        client.organization = client.project = None
        return client

    def _first_model(self, client: Any) -> str:
        found = client.get("/models", cast_to=object)
        models = found.get("data") if isinstance(found, dict) else None
        if not isinstance(models, list):
            raise LanguageModelFailed(f"{self.address} has no list of models{self._cure}")
        names = [one.get("id") for one in models if isinstance(one, dict)]
        if not names or not isinstance(names[0], str) or not names[0].isprintable():
            raise LanguageModelFailed(
                f"{self.address} has no model yet: get one (`ollama pull qwen2.5vl:3b`), or name "
                "it by --llm-model"
            )
        return names[0]

    def _pieces(
        self,
        client: Any,
        bounds: _Bounds,
        instructions: str,
        content: Content,
        notes: list[str],
    ) -> Iterator[str]:
        messages = [
            {"role": "system", "content": instructions},
            {"role": "user", "content": _message(content)},
        ]
        stream = client.chat.completions.create(model=self.name, messages=messages, stream=True)
        ended, length = None, 0
        with stream:
            kind = stream.response.headers.get("content-type", "").partition(";")[0]
            if kind in ("text/html", "application/json"):
                raise LanguageModelFailed(f"{self.address} replies with {kind}{self._cure}")
            for chunk in stream:
                for choice in (chunk.choices or ())[:1]:
                    ended = choice.finish_reason or ended
                    piece = choice.delta.content if choice.delta else None
                    if piece or _thoughts(choice.delta):
                        bounds.go_on()
                    if isinstance(piece, str) and piece:
                        length += len(piece)
                        yield piece
                if length > MOST_CHARACTERS:
                    notes.append(f"the reply was cut after {MOST_CHARACTERS:,} characters")
                    return
        if ended is None:
            raise LanguageModelFailed(f"the reply of {self.name} broke off: try again")
        if ended == "length":
            notes.append("the reply is cut: the server lets the model write no more")
        elif ended == "content_filter":
            notes.append("the reply is cut: a filter of the server ended it")

    # ------------------------------------------------------------------ errors

    @property
    def _cure(self) -> str:
        """What to do if this is not the address of such an API."""
        if urlsplit(self.address).path.strip("/"):
            return ": is it the address of an OpenAI-compatible server?"
        return f": did you mean {self.address.rstrip('/')}/v1?"

    @contextmanager
    def _errors(self, *, has_pictures: bool) -> Iterator[list[str]]:
        """Translate errors into ours; yields a list, for the pieces that have come."""
        openai = _openai()
        pieces: list[str] = []
        try:
            yield pieces
        except (LanguageModelFailed, InvalidOption):
            raise
        except openai.APITimeoutError as error:
            raise LanguageModelFailed(self._timeout(error)) from None
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, LanguageModelFailed):
                raise error.__cause__ from None
            raise LanguageModelFailed(self._disconnected(error)) from None
        except openai.APIError as error:
            status, said = getattr(error, "status_code", None), self._said(error)
            about_pictures = status not in (401, 403, 429) and _PICTURE_WORDS.search(said)
            refused_at_once = self.name is not None and not pieces
            if has_pictures and refused_at_once and (status in _REFUSALS or about_pictures):
                raise PicturesRefused(
                    f"{self.name} takes no pictures: name a model that does by --llm-model{said}"
                ) from None
            raise LanguageModelFailed(self._refusal(error, status, said)) from None
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            # not JSON, or of another schema
            raise LanguageModelFailed(
                f"{self.address} sends what cannot be read{self._cure}"
            ) from None

    def _timeout(self, error: Exception) -> str:
        if "Connect" in type(error.__cause__).__name__:
            return (
                f"{self.address} cannot be reached within {CONNECT_TIMEOUT:g} s: is it the right "
                "host?"
            )
        return _silent(self.address)

    def _disconnected(self, error: Exception) -> str:
        cause = error.__cause__ or error
        why = self._clean(str(cause))
        if "Connect" in type(cause).__name__:
            return f"no language model can be reached at {self.address}: does it run? ({why})"
        return f"the connection to {self.address} broke off: try again ({why})"

    def _refusal(self, error: Exception, status: int | None, said: str) -> str:
        if status is None:  # an error in the reply
            return f"{self.name} failed{said}"
        if 300 <= status < 400:
            to = self._clean(error.response.headers.get("location", "elsewhere"))  # type: ignore[attr-defined]
            return f"{self.address} redirects to {to}, which is not followed: is the address right?"
        if status in (401, 403):
            cure = "check the key in" if self._key else "put its key in"
            return f"{self.address} refuses access: {cure} $OPENAI_API_KEY{said}"
        if status == 404 and "model" in said.lower():
            return f"{self.address} has no model {self.name!r}: name another by --llm-model{said}"
        if status == 404:
            return f"{self.address} has no such API (404){self._cure}"
        return f"{self.address} refuses ({status}){said or ': try again later'}"

    def _said(self, error: Any) -> str:
        """The server's own words, in brackets; "" if there are none."""
        body = error.body
        if isinstance(body, dict):
            body = body.get("message") or body.get("detail")
        words = body if isinstance(body, str) else str(error.message)
        if "<html" in words.lower() or words.startswith("Error code:"):
            return ""
        return f" ({self._clean(words)})"

    def _clean(self, words: str) -> str:
        """A server's words on a short line, without control characters and without the key."""
        if self._key:
            words = words.replace(self._key, "…")
        line = " ".join("".join(one if one.isprintable() else " " for one in words).split())
        return line if len(line) <= 300 else f"{line[:300]}…"


def is_this_machine(host: str) -> bool:
    """Whether a host is this machine: localhost, 127.0.0.0/8 or ::1.

    No other name is: what one stands for may change between looking it up and connecting.
    """
    if host.lower() == "localhost":
        try:
            found = {str(info[4][0]) for info in getaddrinfo(host, None)}
        except OSError:  # then nothing can be sent, either
            return True
        return all(map(_is_loopback, found))  # a hosts file may name another machine
    return _is_loopback(host)


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _openai() -> Any:
    try:
        import openai
    except ImportError as error:
        raise MissingExtra("asking a language model", "ask") from error
    return openai


def _no_certificates() -> ssl.SSLContext:
    """Trusts none; loading those of the system takes longer than all else."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _host_in(address: str) -> str:
    """The host in an address, as the program reads it that connects to it."""
    if re.search(r"[@?#\\\s]", address) or not address.isprintable():
        # not quoted: it may contain a password. Programs also disagree on the host of such URLs
        raise InvalidOption(
            "the address of a language model must not contain a user, query or spaces: put a key "
            "in $OPENAI_API_KEY"
        )
    no_address = InvalidOption(
        f"{address!r} is not the address of a language model, such as http://localhost:11434/v1"
    )
    if not address.lower().startswith(("http://", "https://")):
        raise no_address
    with _openai().DefaultHttpxClient(trust_env=False, verify=_no_certificates()) as http:
        try:
            port = urlsplit(address).port
            host: str = http.build_request("GET", address).url.host
        except Exception as error:  # the package has classes of its own for it
            raise no_address from error
    if port == 0 or not host:
        raise no_address
    return host


def _environment(error: Exception) -> str:
    """What is wrong with the proxies or certificates of the environment."""
    if isinstance(error, ImportError):
        return (
            "a proxy of the environment is a SOCKS one ($ALL_PROXY, $HTTP_PROXY, $HTTPS_PROXY), "
            "which needs a package: pip install socksio"
        )
    return (
        "the proxies or certificates of the environment cannot be used: correct or unset "
        "$HTTP_PROXY, $HTTPS_PROXY, $ALL_PROXY, $SSL_CERT_FILE or $SSL_CERT_DIR"
    )


def _silent(address: str) -> str:
    return (
        f"{address} sent nothing for {READ_TIMEOUT:g} s: try a smaller model (--llm-model), or "
        "fewer files (-k)"
    )


def _thoughts(delta: Any) -> bool:
    """Whether a piece of a reply has thoughts, which servers send under names of their own."""
    more = getattr(delta, "model_extra", None) or {}
    return any(more.get(name) for name in ("reasoning_content", "reasoning", "thinking"))


class _Bounds:
    """How much, and how slowly, a server may send: what has no end is not read for ever.

    Bytes that say nothing (comments, empty pieces, a byte a minute) do not count as a sign of life.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self.go_on()

    def go_on(self) -> None:
        """Wait for READ_TIMEOUT from now on."""
        self._until = monotonic() + READ_TIMEOUT

    def apply_to(self, response: Any) -> None:
        """Read a response within the bounds."""
        import httpx2  # what openai is made with

        self.go_on()
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            # a few bytes may unpack to gigabytes
            raise LanguageModelFailed(
                f"{self._address} sends compressed replies, though none were asked for: is it the "
                "address of an OpenAI-compatible server?"
            )
        stream, parts = response.stream, self._parts(response.stream)

        class Bounded(httpx2.SyncByteStream):  # type: ignore[misc, name-defined, unused-ignore]
            def __iter__(self) -> Iterator[bytes]:
                return parts

            def close(self) -> None:
                stream.close()

        response.stream = Bounded()

    def _parts(self, stream: Any) -> Iterator[bytes]:
        read = 0
        for part in stream:
            read += len(part)
            if read > MOST_BYTES:
                raise LanguageModelFailed(
                    f"{self._address} sends more than {MOST_BYTES >> 20} MiB: is it the address of "
                    "an OpenAI-compatible server?"
                )
            if monotonic() > self._until:
                raise LanguageModelFailed(_silent(self._address))
            yield part


def _message(content: Content) -> str | list[dict[str, Any]]:
    """The content of a user message for the API; texts alone as one, which all servers accept."""
    texts = [one for one in content if isinstance(one, str)]
    if len(texts) == len(content):
        return "\n\n".join(texts)
    parts: list[dict[str, Any]] = []
    for one in content:
        if isinstance(one, str):
            parts.append({"type": "text", "text": one})
        else:
            url = f"data:image/jpeg;base64,{base64.b64encode(one).decode()}"
            parts.append({"type": "image_url", "image_url": {"url": url}})
    return parts


_THINK, _THOUGHT = "<think>", "</think>"


def _without_thoughts(pieces: Iterator[str]) -> Iterator[str]:
    """The pieces of a reply without the <think> block and blanks before it."""
    head: str | None = ""
    for piece in pieces:
        if head is None:
            yield piece
            continue
        head = (head + piece).lstrip()
        if head.startswith(_THINK):
            _, thought, rest = head.partition(_THOUGHT)
            if not thought:
                continue
            head = rest.lstrip()
        if head and not _THINK.startswith(head):
            yield head
            head = None
    if head and not head.startswith(_THINK):
        yield head


Pieces = Generator[str, None, None]


class Reply:
    """A streamed reply: iterating over it, once, sends the request and gives the text in pieces.

    Attributes:
        sends: What leaves this machine, and where to; None if the model is on this machine.
        notes: What the user should know; complete when the iteration has ended.
        text: The text so far.
    """

    def __init__(self, make: Callable[[list[str]], Pieces], sends: str | None = None) -> None:
        self.sends = sends
        self.notes: list[str] = []
        self.text = ""
        self._pieces = make(self.notes)

    def __iter__(self) -> Iterator[str]:
        with closing(self._pieces) as pieces:  # ends the request if the caller stops early
            for piece in pieces:
                self.text += piece
                yield piece
