"""The text of Word, PowerPoint, OpenDocument, EPUB and RTF files, by anydoc.

anydoc (MIT, in Rust) follows no links and runs no macros; it bounds nesting, nodes and repetitions.
Zip packages are repacked first, with their XML alone and of bounded size, so that a presentation
with a gigabyte of pictures takes no more memory than its text.
"""

from __future__ import annotations

import html
import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from posixpath import basename, dirname, splitext
from typing import TYPE_CHECKING, BinaryIO

from mmsearch.errors import UnreadableFile
from mmsearch.media.documents.blocks import Block

if TYPE_CHECKING:
    from anydoc import Block as Found
    from anydoc import Inline

_OLE = b"\xd0\xcf\x11\xe0"
"""The container of Word and PowerPoint before 2007, and of encrypted files since."""
SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06", b"{\\rtf", _OLE)
"""The first bytes of the files that are read here."""

MOST_PARTS = 20_000
LARGEST_PART = 128 * 2**20
LARGEST = 256 * 2**20
"""Bytes of XML unpacked, of one part and in all."""

_KINDS = frozenset({"docx", "pptx", "odt", "odp", "epub", "rtf", "doc", "ppt"})
"""The formats, by anydoc's names; not tables and PDFs."""
_PRESENTATIONS = frozenset({"pptx", "ppt", "odp"})
_ENDINGS = frozenset({"", ".xml", ".rels", ".xhtml", ".html", ".htm", ".opf", ".ncx"})
"""Of the parts that hold text."""
_ABOUT = re.compile(r"(docprops/core\.xml|meta\.xml)", re.I)
_TITLE = re.compile(r"<dc:title[^>]*>([^<]*)</dc:title>")
_NO_TITLES = frozenset({"powerpoint presentation", "untitled", "untitled document"})
"""Titles that programs fill in."""
_SLIDE = re.compile(r"(?:.*/)?slides/[^/]+\.xml")
_SLIDE_LINK = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/slide"
_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
_RELATIONS_END = re.compile(r"</(?:\w+:)?Relationships\s*>")


def read(file: BinaryIO) -> tuple[str, Sequence[Block], bool]:
    """A document's title, "" if it has none; its blocks; and whether it is a presentation.

    Raises:
        UnreadableFile: It is encrypted, damaged, too large or something else.
        zipfile.BadZipFile, zlib.error, …: It is damaged.
    """
    import anydoc

    title, data = "", file.read(4)
    if data.startswith(b"PK"):
        title, data = _repacked(file)
    else:
        data += file.read()
    kind = anydoc.format_from_bytes(data)
    if kind is None and data.startswith(_OLE):
        kind = "docx"  # as which anydoc reports that it is encrypted
    if kind not in _KINDS:
        raise UnreadableFile("not a document" if kind is None else f"not a document, but {kind}")
    try:
        found = anydoc.to_document(data, kind)
    except anydoc.EncryptedError as error:
        raise UnreadableFile("password needed") from error
    except anydoc.ResourceLimitError as error:
        raise UnreadableFile(f"too large or nested too deeply: {error.limit}") from error
    except anydoc.UnsupportedError as error:
        raise UnreadableFile("not a document") from error
    except anydoc.ConvertError as error:
        raise UnreadableFile("damaged") from error
    blocks = list(_blocks(found.blocks))
    blocks += [one for note in found.notes for one in _blocks(note.blocks)]
    return title, blocks, kind in _PRESENTATIONS


# ---------------------------------------------------------------------- packages


def _repacked(file: BinaryIO) -> tuple[str, bytes]:
    """The title of a packed document, and the package without pictures, sounds and fonts."""
    title, parts, total = "", {}, 0
    with zipfile.ZipFile(file) as package:
        members = package.infolist()
        if len(members) > MOST_PARTS:
            raise UnreadableFile(f"too large: {len(members)} parts (limit {MOST_PARTS})")
        for member in members:
            if splitext(member.filename)[1].lower() not in _ENDINGS:
                continue
            total += member.file_size  # zipfile reads no more than this, whatever follows
            if member.file_size > LARGEST_PART or total > LARGEST:
                mebibytes = max(member.file_size, total) / 2**20
                raise UnreadableFile(f"too large: {mebibytes:.0f} MiB unpacked")
            if member.flag_bits & 1:
                raise UnreadableFile("password needed")
            parts[member.filename] = package.read(member)
    for name, data in parts.items():
        if _ABOUT.fullmatch(name) and (written := _TITLE.search(data.decode("utf-8", "replace"))):
            title = html.unescape(written[1]).strip()
    for name in [name for name in parts if _SLIDE.fullmatch(name)]:
        relations = f"{dirname(name)}/_rels/{basename(name)}.rels"
        parts[relations] = _with_link(parts.get(relations, b""), basename(name))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as package:
        for name, data in parts.items():
            package.writestr(zipfile.ZipInfo(name), data)
    return "" if title.lower() in _NO_TITLES else title, packed.getvalue()


def _with_link(relations: bytes, slide: str) -> bytes:
    """The relations of a slide, with a link to itself: anydoc marks where a slide begins only if
    some slide links to it (https://github.com/firecrawl/anydoc/issues/94).
    """
    link = f'<Relationship xmlns="{_RELATIONS}" Id="itself" Type="{_SLIDE_LINK}" Target="{slide}"/>'
    text = relations.decode("utf-8", "replace")
    if _RELATIONS_END.search(text):
        return _RELATIONS_END.sub(lambda end: link + end[0], text).encode()
    return f'<Relationships xmlns="{_RELATIONS}">{link}</Relationships>'.encode()


# ---------------------------------------------------------------------- blocks


def _blocks(found: Sequence[Found]) -> Iterator[Block]:
    for block in found:
        content = block.content or ()
        if block.kind == "paragraph" and (slide := _slide_of(content)):
            yield Block(0, "", slide)
        elif block.kind == "heading":
            yield Block(block.level or 1, _text(content))
        elif block.kind == "block_quote":
            yield from _blocks(block.blocks or ())
        elif text := _block_text(block):
            yield Block(0, text)


def _block_text(block: Found) -> str:
    """All of a block as text: items and rows as lines."""
    if block.list is not None:
        return "\n".join(_all_text(item.blocks) for item in block.list.items)
    if block.table is not None:
        rows = (
            [_all_text(slot.cell.blocks) for slot in row if slot.cell is not None]
            for row in block.table.grid
        )
        return "\n".join(" | ".join(cell for cell in row if cell) for row in rows)
    if block.blocks is not None:
        return _all_text(block.blocks)
    return block.text or _text(block.content or ())


def _all_text(blocks: Sequence[Found]) -> str:
    return "\n".join(filter(None, map(_block_text, blocks)))


def _text(content: Sequence[Inline]) -> str:
    return "".join(map(_inline_text, content))


def _inline_text(inline: Inline) -> str:
    if inline.kind == "line_break":
        return "\n"
    if inline.kind == "image":
        return f" {inline.alt} " if inline.alt else ""
    return _text(inline.content) if inline.content else inline.text or ""


def _slide_of(content: Sequence[Inline]) -> int:
    """The number of the slide that begins here; 0 if none does."""
    if len(content) == 1 and content[0].kind == "anchor":
        marked = re.fullmatch(r"slide-(\d+)", content[0].anchor or "")
        return int(marked[1]) if marked else 0
    return 0
