"""Mail messages as texts: headers and body, and the names of attachments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from email.errors import HeaderParseError
from email.header import Header, decode_header
from email.message import Message
from email.parser import BytesParser
from email.policy import compat32

from mmsearch.errors import UnreadableFile
from mmsearch.media.documents import html_page
from mmsearch.media.documents.blocks import Block
from mmsearch.media.text import decode_legacy, read_text

_SHOWN = ("From", "To", "Cc", "Date")
_SIGNS = ("From", "To", "Subject", "Date", "Received", "Message-ID", "MIME-Version", "Return-Path")
"""A file with two of these headers is a message."""
_MOST_NESTED = 3
"""Depth of messages inside messages that are read."""
_MOST_PARTS = 1000
"""Of a message, in all."""


def read(source: bytes) -> tuple[str, Sequence[Block]]:
    """The subject of a message and its blocks, the first of which is the subject as a heading.

    Raises:
        UnreadableFile: It is not a message.
    """
    try:
        # the newer policy parses headers, and raises on damaged ones
        message = BytesParser(policy=compat32).parsebytes(source)
    except RecursionError as error:
        raise UnreadableFile("nested too deeply") from error
    if sum(name in message for name in _SIGNS) < 2:
        raise UnreadableFile("not a mail message")
    return _header(message, "Subject"), list(_blocks(message, 1))


def _blocks(message: Message, level: int) -> Iterator[Block]:
    subject = _header(message, "Subject")
    yield Block(level, subject or "(no subject)")
    shown = ((name, _header(message, name)) for name in _SHOWN)
    yield Block(0, "\n".join(f"{name}: {value}" for name, value in shown if value))
    plain: list[Message] = []
    html: list[Message] = []
    nested: list[Message] = []
    names: list[str] = []
    for part in _parts(message):
        kind, name = part.get_content_type(), part.get_filename()
        if kind == "message/rfc822":
            nested.append(part)
        elif name or part.get_content_disposition() == "attachment":
            names += [_decoded(name)] if name else []
        elif kind in ("text/plain", "text/html"):
            (plain if kind == "text/plain" else html).append(part)
    texts = [_text(part) for part in plain]
    if any(text.strip() for text in texts):
        yield from (Block(0, text) for text in texts)
    else:
        for part in html:
            _, blocks = html_page.read(_text(part))
            yield from (Block(0, block.text) for block in blocks)  # the subject is the heading
    if names:
        yield Block(0, f"Attachments: {', '.join(names)}")
    for part in nested:
        inner = part.get_payload()
        if level <= _MOST_NESTED and isinstance(inner, list) and isinstance(inner[0], Message):
            yield from _blocks(inner[0], level + 1)


def _parts(message: Message) -> Iterator[Message]:
    """The parts of a message, but not those of messages in it."""
    left, number = [message], 0
    while left and number < _MOST_PARTS:
        part = left.pop(0)
        number += 1
        inner = part.get_payload()
        if part.get_content_maintype() == "multipart" and isinstance(inner, list):
            left[:0] = [one for one in inner if isinstance(one, Message)]
        else:
            yield part


def _payload(part: Message) -> bytes:
    data = part.get_payload(decode=True)
    return data if isinstance(data, bytes) else b""


def _text(part: Message) -> str:
    """The text of a part, "" if it has none or is binary."""
    data, charset = _payload(part), part.get_content_charset()
    if charset and charset != "us-ascii":
        with suppress(LookupError, UnicodeError):
            return re.sub(r"\r\n?", "\n", data.decode(charset))
    with suppress(UnreadableFile):
        return html_page.decode(data) if part.get_content_subtype() == "html" else read_text(data)
    return ""


def _guessed(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return decode_legacy(data)[0]


def _header(message: Message, name: str) -> str:
    value = message.get(name)
    return "" if value is None else _decoded(value)


def _decoded(value: str | Header) -> str:
    """A header with its encoded words read; the encoding of other bytes is guessed."""
    try:
        parts = decode_header(value)
    except (HeaderParseError, ValueError):
        return " ".join(str(value).split())
    found = []
    for data, charset in parts:
        if isinstance(data, str):
            found.append(data)
            continue
        try:
            found.append(data.decode(charset or "utf-8"))
        except (LookupError, UnicodeError):
            found.append(_guessed(data))
    return " ".join("".join(found).split())
