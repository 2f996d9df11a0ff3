"""Documents: what is read of each format, what is refused and why, and the process that reads."""

from __future__ import annotations

import errno
import io
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import suppress
from email.message import EmailMessage
from pathlib import Path

import pytest

import mmsearch
from mmsearch.cli.render import span_text
from mmsearch.errors import MissingExtra, UnreadableFile
from mmsearch.indexing.file_contents import Reader, ReadOptions, Stopped
from mmsearch.media.documents import reader as reading
from mmsearch.media.documents.reader import DocumentReader, read_passages
from mmsearch.media.file_state import may_pass
from mmsearch.types import Span

pytest.importorskip("anydoc")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
WORD = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
POINT = (
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
    'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" '
    f'xmlns:r="{OFFICE}"'
)
ODF = " ".join(
    f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
    for name in ("office", "text", "manifest")
)
DC = 'xmlns:dc="http://purl.org/dc/elements/1.1/"'


# ---------------------------------------------------------------------- documents made here


def packed(parts, mimetype=None, **mebibytes):
    """A zip of parts; of some, it states another size."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as package:
        if mimetype:
            package.writestr(zipfile.ZipInfo("mimetype"), mimetype)
        for name, data in parts.items():
            package.writestr(name, data)
        for name, size in mebibytes.items():
            package.getinfo(name).file_size = size << 20
    return out.getvalue()


def relations(*targets):
    rows = "".join(
        f'<Relationship Id="rId{number}" Type="{OFFICE}/{kind}" Target="{target}"/>'
        for number, (kind, target) in enumerate(targets, 1)
    )
    return f'<Relationships xmlns="{PACKAGE}/relationships">{rows}</Relationships>'


def types(**parts):
    """[Content_Types].xml of an Office file: part → type."""
    rows = "".join(
        f'<Override PartName="/{name}" ContentType="application/vnd.openxmlformats-'
        f'officedocument.{kind}+xml"/>'
        for name, kind in parts.items()
    )
    return (
        f'<Types xmlns="{PACKAGE}/content-types"><Default Extension="xml" '
        'ContentType="application/xml"/><Default Extension="rels" ContentType='
        f'"application/vnd.openxmlformats-package.relationships+xml"/>{rows}</Types>'
    )


def core(title):
    return f"<cp:coreProperties xmlns:cp='x' {DC}><dc:title>{title}</dc:title></cp:coreProperties>"


def word(*paragraphs, title="", xml=None, more=(), **mebibytes):
    """A .docx of paragraphs; `(1, "Results")` is a heading."""
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="H{n}"><w:name w:val="heading {n}"/></w:style>'
        for n in (1, 2, 3)
    )
    body = ""
    for one in paragraphs:
        level, text = one if isinstance(one, tuple) else (0, one)
        style = f'<w:pPr><w:pStyle w:val="H{level}"/></w:pPr>' if level else ""
        body += f"<w:p>{style}<w:r><w:t>{text}</w:t></w:r></w:p>"
    document = xml or f"<w:document {WORD}><w:body>{body}</w:body></w:document>"
    return packed(
        {
            "[Content_Types].xml": types(**{"word/document.xml": "wordprocessingml.document.main"}),
            "_rels/.rels": relations(("officeDocument", "word/document.xml")),
            "word/_rels/document.xml.rels": relations(("styles", "styles.xml")),
            "word/document.xml": document,
            "word/styles.xml": f"<w:styles {WORD}>{styles}</w:styles>",
            "docProps/core.xml": core(title),
            **dict(more),
        },
        **mebibytes,
    )


def slide(title, *lines):
    shapes = [("<p:ph type='title'/>", [title])] if title else []
    shapes += [("", [line]) for line in lines]
    drawn = "".join(
        f"<p:sp><p:nvSpPr><p:cNvPr id='2' name='s'/><p:cNvSpPr/><p:nvPr>{holder}</p:nvPr>"
        f"</p:nvSpPr><p:spPr/><p:txBody><a:bodyPr/><a:p><a:r><a:t>{text}</a:t></a:r></a:p>"
        "</p:txBody></p:sp>"
        for holder, texts in shapes
        for text in texts
    )
    return f"<p:sld {POINT}><p:cSld><p:spTree>{drawn}</p:spTree></p:cSld></p:sld>"


def slides(*made, title=""):
    """A .pptx whose slides lie in files in the reverse order."""
    files = [f"slides/slide{number}.xml" for number in range(len(made), 0, -1)]
    ids = "".join(f'<p:sldId id="{255 + n}" r:id="rId{n}"/>' for n in range(1, len(made) + 1))
    return packed(
        {
            "[Content_Types].xml": types(
                **{
                    "ppt/presentation.xml": "presentationml.presentation.main",
                    **{f"ppt/{file}": "presentationml.slide" for file in files},
                }
            ),
            "_rels/.rels": relations(("officeDocument", "ppt/presentation.xml")),
            "ppt/presentation.xml": (
                f"<p:presentation {POINT}><p:sldIdLst>{ids}</p:sldIdLst></p:presentation>"
            ),
            "ppt/_rels/presentation.xml.rels": relations(*(("slide", file) for file in files)),
            **{f"ppt/{file}": xml for file, xml in zip(files, made, strict=True)},
            "docProps/core.xml": core(title),
        }
    )


def open_text(body, title=""):
    """An .odt."""
    office = f"{ODF} {DC}"
    return packed(
        {
            "content.xml": f"<office:document-content {office}><office:body><office:text>{body}"
            "</office:text></office:body></office:document-content>",
            "meta.xml": f"<office:document-meta {office}><office:meta><dc:title>{title}</dc:title>"
            "</office:meta></office:document-meta>",
            "META-INF/manifest.xml": f"<manifest:manifest {ODF}/>",
        },
        "application/vnd.oasis.opendocument.text",
    )


def book(*chapters, title="A Book"):
    """An .epub."""
    items = "".join(
        f'<item id="c{n}" href="c{n}.xhtml" media-type="application/xhtml+xml"/>'
        for n in range(len(chapters))
    )
    spine = "".join(f'<itemref idref="c{n}"/>' for n in range(len(chapters)))
    html = '<html xmlns="http://www.w3.org/1999/xhtml"><body>{}</body></html>'
    container = "urn:oasis:names:tc:opendocument:xmlns:container"
    return packed(
        {
            "META-INF/container.xml": f'<container xmlns="{container}"><rootfiles><rootfile '
            'full-path="OPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles>'
            "</container>",
            "OPS/book.opf": f'<package xmlns="http://www.idpf.org/2007/opf" version="3.0"><metadata'
            f" {DC}><dc:title>{title}</dc:title></metadata><manifest>{items}</manifest><spine>"
            f"{spine}</spine></package>",
            **{f"OPS/c{n}.xhtml": html.format(text) for n, text in enumerate(chapters)},
        },
        "application/epub+zip",
    )


def mail(text="", html="", subject="Plans", attachments=(), inner=None):
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = subject, "Ann <a@b.org>", "bob@b.org"
    message["Date"] = "Mon, 02 Mar 2020 10:00:00 +0100"
    if text:
        message.set_content(text)
    if html:
        add = message.add_alternative if text else message.set_content
        add(html, subtype="html")
    for name in attachments:
        message.add_attachment(b"secret", maintype="application", subtype="pdf", filename=name)
    if inner is not None:
        message.add_attachment(inner)
    return message


RTF = rb"{\rtf1\ansi\ansicpg1252{\info{\title T}}\pard\outlinelevel0 Results\par\pard Caf\'e9.\par}"
PAGE = (
    "<!doctype html><html><head><title>My page</title><style>p{color:red}</style>"
    "<script>var hidden = 1</script></head><body><nav><a href='/'>Home</a></nav><h1>Results</h1>"
    "<p>A lighthouse <b>stood</b>.<h2>Figures</h2><p>The wolf. <img src='http://x.invalid/a.png' "
    "alt='a fox'><ul><li>one<li>two</ul><footer>Imprint</footer></body></html>"
)


@pytest.fixture(scope="module")
def reader():
    with DocumentReader(seconds=20) as opened:
        yield opened


@pytest.fixture
def texts(reader):
    def read(data, name):
        return [part.text for part in reader.read(data, name).passages()]

    return read


@pytest.fixture
def refusal(reader):
    def read(data, name):
        with pytest.raises(UnreadableFile) as caught:
            reader.read(data, name)
        return str(caught.value)

    return read


# ---------------------------------------------------------------------- formats


def test_passages_of_a_word_file_begin_with_the_path_of_their_headings(texts):
    data = word("Before.", (1, "Results"), "A lighthouse.", (2, "Figures"), "Wolf &amp; sheep.",
                (1, "End"), "Farewell.")  # fmt: skip
    assert texts(data, "a.docx") == [
        "Before.",
        "Results\nA lighthouse.",
        "Results › Figures\nWolf & sheep.",
        "End\nFarewell.",
    ]


def test_a_section_is_numbered_by_its_heading(reader):
    data = word("Before.", (1, "Results"), (2, "Figures"), "Wolf.")
    spans = [part.span for part in reader.read(data, "a.docx").passages()]
    assert spans == [Span(0, 0, "section"), Span(2, 2, "section")]


def test_a_heading_without_text_is_a_passage_unless_others_are_below_it(texts):
    data = word((1, "Only path"), (2, "Figures"), "Wolf.", (1, "Appendix"), (1, "Thanks"))
    assert texts(data, "a.docx") == ["Only path › Figures\nWolf.", "Appendix", "Thanks"]


def test_the_title_of_a_document_is_a_passage(texts):
    assert texts(word("Words.", title="Annual &amp; Co"), "a.docx") == ["Annual & Co", "Words."]
    assert texts(word((1, "Annual"), "Words.", title="Annual"), "a.docx") == ["Annual\nWords."]
    assert texts(slides(slide("Plans"), title="Plans"), "a.pptx") == ["Slide 1: Plans"]


def test_slides_are_in_the_order_of_the_talk_with_number_and_title(reader):
    data = slides(slide("Welcome", "harbour"), slide("", "whales"), slide("Thanks"),
                  title="PowerPoint Presentation")  # fmt: skip
    found = reader.read(data, "a.pptx")
    assert [(part.text, part.span) for part in found.passages()] == [
        ("Slide 1: Welcome\nharbour", Span(1, 1, "slide")),
        ("Slide 2\nwhales", Span(2, 2, "slide")),
        ("Slide 3: Thanks", Span(3, 3, "slide")),
    ]


def test_an_opendocument_text_is_read(texts):
    body = (
        "<text:p>Before.</text:p><text:h text:outline-level='1'>Results</text:h>"
        "<text:p>A light<text:span>house</text:span>.</text:p>"
    )
    assert texts(open_text(body, "Log"), "a.odt") == ["Log", "Before.", "Results\nA lighthouse."]


def test_the_chapters_of_a_book_are_in_the_order_of_its_spine(texts):
    data = book("<h1>Loomings</h1><p>Call me Ishmael.</p>", "<h1>Sea</h1><h2>Bag</h2><p>Wolf</p>")
    found = texts(data, "a.epub")
    assert found == ["A Book", "Loomings\nCall me Ishmael.", "Sea › Bag\nWolf"]


def test_rich_text_is_read(texts):
    assert texts(RTF, "a.rtf") == ["Results\nCafé."]


def test_a_page_is_read_without_scripts_navigation_and_footer(texts):
    assert texts(PAGE.encode(), "a.html") == [
        "My page",
        "Results\nA lighthouse stood.",
        "Results › Figures\nThe wolf. a fox\n\none\ntwo",
    ]


def test_a_page_with_odd_markup_is_read(texts):
    page = (
        b"<title>Real</title><svg><title>icon</title></svg><form>in a form<nav>no<p>no</nav>after"
        b"</form><![foo[ x ]]><pre>a\n  b</pre><script/>"
    )
    assert texts(page, "a.htm") == ["Real", "in a form after\n\na\nb"]


def test_navigation_that_is_not_closed_ends_with_what_contains_it(texts):
    page = b"<div><button>a<nav><p>b<div>c</div>d</div><p>Words<pre>x <script>y</script>z</pre>"
    assert texts(page, "a.html") == ["Words\n\nx z"]


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ('<meta charset="iso-8859-1"><p>“café”'.encode("cp1252"), "“café”"),
        (
            '<meta http-equiv=x content="text/html; charset=Shift_JIS">日本語'.encode("cp932"),
            "日本語",
        ),
        ("<p>Привет, как дела, друзья мои".encode("cp1251"), "Привет, как дела, друзья мои"),
        ("<p>café 中".encode("utf-16"), "café 中"),
        ("<meta charset=utf-8><p>café".encode(), "café"),
        ("<meta charset=nonsense><p>café".encode(), "café"),
    ],
    ids=["latin", "declared", "guessed", "marked", "utf-8", "nonsense"],
)
def test_the_encoding_of_a_page_is_found(texts, page, text):
    assert texts(page, "a.html") == [text]


def test_a_message_is_read_with_its_subject_people_and_names_of_attachments(texts):
    message = mail("Hello Bob,\n\nit opens.", "<b>other</b>", "Café plans", ["plän.pdf"])
    (text,) = texts(message.as_bytes(), "a.eml")
    assert text == (
        "Café plans\nFrom: Ann <a@b.org>\nTo: bob@b.org\nDate: Mon, 02 Mar 2020 10:00:00 +0100\n\n"
        "Hello Bob,\n\nit opens.\n\nAttachments: plän.pdf"
    )


def test_of_a_message_without_plain_text_the_html_is_read(texts):
    (text,) = texts(mail(html="<script>x</script><p>Hi <b>Bob</b>").as_bytes(), "a.eml")
    assert text.endswith("+0100\n\nHi Bob")


def test_messages_in_messages_are_read_to_a_depth(texts):
    message = mail("innermost", subject="s0")
    for number in range(1, 9):
        message = mail(f"text {number}", subject=f"s{number}", inner=message)
    found = texts(message.as_bytes(), "a.eml")
    assert [text.split("\n")[0] for text in found] == [
        "s8", "s8 › s7", "s8 › s7 › s6", "s8 › s7 › s6 › s5",
    ]  # fmt: skip


def test_a_long_section_has_several_passages_which_all_begin_with_its_heading(texts):
    words = [f"Sentence number {number} of this text." for number in range(100)]
    found = texts(word((1, "Long"), " ".join(words)), "a.docx")
    assert len(found) > 3
    assert all(text.startswith("Long\nSentence") for text in found)
    assert " ".join(text.removeprefix("Long\n") for text in found) == " ".join(words)


def test_a_path_too_long_for_a_passage_gives_up_its_outer_headings(texts):
    long = "a heading that goes on for all of fifteen words until at last it ends"
    data = word((1, long), (2, long), (3, f"{long} here"), "Text.")
    assert texts(data, "a.docx") == [f"{long} here\nText."]


# ---------------------------------------------------------------------- what is refused


def test_a_document_is_read_from_its_path(reader, tmp_path):
    (tmp_path / "a.docx").write_bytes(word("Words."))
    (found,) = reader.read(str(tmp_path / "a.docx"), "a.docx").passages()
    assert found.text == "Words."


def test_a_document_is_read_by_what_it_is_not_by_its_ending(texts):
    assert texts(word("Words."), "a.rtf") == texts(word("Words."), "a.html") == ["Words."]


@pytest.mark.parametrize(
    ("data", "name", "reason"),
    [
        (b"", "a.docx", "0 bytes"),
        (word("Words.")[:-40], "a.docx", "damaged"),
        (slides(slide("One"))[:900], "a.pptx", "damaged"),
        (open_text("<text:p>One</text:p>")[:500], "a.odt", "damaged"),
        (book("<p>One</p>")[:500], "a.epub", "damaged"),
        (RTF[:30], "a.rtf", "no text in it"),
        (word(), "a.docx", "no text in it"),
        (word(more={"word/media/a.png": "x" * 999}), "a.docx", "no text in it"),
        (b"<script>x = 1</script>", "a.html", "no text in it"),
        (b" \n ", "a.html", "no text in it"),
        (packed({"a.txt": "hello"}), "a.docx", "not a document"),
        (PAGE.encode(), "a.docx", "not a .docx file"),
        (b"plain words", "a.rtf", "not a .rtf file"),
        (PAGE.encode(), "a.eml", "not a mail message"),
        (b"%PDF-1.7", "a.docx", "a PDF: rename it to .pdf"),
        (random.Random(0).randbytes(5000), "a.html", "not a text file"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2000), "a.docx", "damaged"),
        (word("Words.", **{"word/document.xml": 130}), "a.docx", "too large: 130 MiB unpacked"),
        (packed({"a": "", "b": ""}, a=128, b=129), "a.odt", "too large: 257 MiB unpacked"),
        (b"From: a\nSubject: b\n" + b"".join(
            b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(1000)
        ), "a.eml", "nested too deeply"),
    ],
    ids=range(20),
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_the_reason(refusal, data, name, reason):
    assert refusal(data, name) == reason


def test_an_encrypted_document_needs_a_password(refusal):
    data = bytearray(word("Words."))
    for at in range(len(data)):  # the flag of encryption, in all headers
        if data[at : at + 4] == b"PK\3\4":
            data[at + 6] |= 1
        elif data[at : at + 4] == b"PK\1\2":
            data[at + 8] |= 1
    assert refusal(bytes(data), "a.docx") == "password needed"


def compound(*streams):
    """A compound file (MS-CFB), in which Office puts encrypted files, with streams of 4 KiB."""
    none, end = 0xFFFFFFFF, 0xFFFFFFFE
    table, entries, data = [0xFFFFFFFD, end], [], b""
    for number, name in enumerate(("Root Entry", *streams)):
        start, size = (len(table), 4096) if number else (end, 0)
        if number:
            table += [*range(start + 1, start + 8), end]
            data += bytes(4096)
        following = number + 1 if 0 < number < len(streams) else none
        written = name.encode("utf-16-le") + b"\0\0"
        entries.append(
            struct.pack("<64sHBB", written, len(written), 2 if number else 5, 1)
            + struct.pack("<III", none, following, none if number else 1)
            + struct.pack("<36xIQ", start, size)
        )
    header = struct.pack("<8s16xHHHHH6x", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", 62, 3, 0xFFFE, 9, 6)
    header += struct.pack("<10I", 0, 1, 1, 0, 4096, end, 0, end, 0, 0)
    header += struct.pack("<108I", *[none] * 108)
    table += [none] * (128 - len(table))
    return header + struct.pack("<128I", *table) + b"".join(entries).ljust(512, b"\0") + data


def test_an_office_file_with_a_password_needs_it(refusal):
    assert refusal(compound("EncryptionInfo", "EncryptedPackage"), "a.docx") == "password needed"
    assert refusal(compound("Contents"), "a.docx") == "damaged"


def test_pictures_and_files_in_a_document_are_not_unpacked(texts):
    inside = {"word/media/a.png": b"0", "word/embeddings/b.docx": word("Others.")}
    bomb = word("Words.", more=inside, **dict.fromkeys(inside, 3000))
    assert texts(bomb, "a.docx") == ["Words."]


@pytest.mark.parametrize("entity", ["SYSTEM 'file:///etc/passwd'", "'secret'"])
def test_entities_that_a_document_defines_are_not_resolved(texts, entity):
    xml = (
        f"<!DOCTYPE x [<!ENTITY a {entity}>]><w:document {WORD}><w:body><w:p><w:r><w:t>"
        "&a; words</w:t></w:r></w:p></w:body></w:document>"
    )
    (text,) = texts(word(xml=xml), "a.docx")
    assert text.endswith("words")
    assert "secret" not in text
    assert "root:" not in text


def test_nothing_that_a_document_links_to_is_fetched(reader):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        there = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        linked = (
            f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="rId1" '
            f'Type="{OFFICE}/attachedTemplate" Target="{there}" TargetMode="External"/>'
            f'<Relationship Id="rId2" Type="{OFFICE}/image" Target="{there}" '
            'TargetMode="External"/></Relationships>'
        )
        xml = (
            f"<w:document {WORD}><w:body><w:p><w:r><w:t>Words</w:t></w:r><w:r><w:instrText>"
            f'INCLUDETEXT "{there}"</w:instrText></w:r></w:p></w:body></w:document>'
        )
        page = (
            f'<base href="{there}"><link rel=stylesheet href="{there}"><img src="{there}" alt=a>'
            f'<iframe src="{there}"></iframe><script src="{there}"></script><p>Words'
        )
        for name, data in {
            "a.docx": word(xml=xml, more={"word/_rels/settings.xml.rels": linked}),
            "a.html": page.encode(),
            "a.eml": mail(html=page).as_bytes(),
            "a.epub": book(f"<p>Words<img src='{there}' alt='a'/></p>"),
        }.items():
            assert any("Words" in part.text for part in reader.read(data, name).passages())
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (word((1, "Results"), "A lighthouse.", title="T"), "a.docx"),
        (slides(slide("Welcome", "harbour"), slide("", "whales")), "a.pptx"),
        (open_text("<text:p>Before.</text:p>", "Log"), "a.odt"),
        (book("<h1>Loomings</h1><p>Call me Ishmael.</p>"), "a.epub"),
        (RTF, "a.rtf"),
        (PAGE.encode(), "a.html"),
        (mail("Hello", "<b>other</b>", attachments=["a.pdf"]).as_bytes(), "a.eml"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_document_is_read_or_refused_and_the_process_goes_on(reader, data, name):
    dice = random.Random(0)
    reader.read(data, name)
    pid = child_of(reader).pid
    for _ in range(30):
        damaged = bytearray(data)
        for _ in range(dice.randint(1, 8)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        with suppress(UnreadableFile):
            list(reader.read(bytes(damaged[: dice.randint(1, 2 * len(data))]), name).passages())
    assert child_of(reader).pid == pid


def test_a_document_nested_too_deeply_is_refused(refusal):
    xml = f"<w:document {WORD}><w:body>{'<w:tbl><w:tr><w:tc>' * 5000}"
    assert refusal(word(xml=xml), "a.docx").startswith("too large or nested too deeply")


# ---------------------------------------------------------------------- the process that reads


SLOW = b"<!--" * 400_000
"""A page that the parser takes quadratic time for."""


def child_of(reader):
    return reader._child


def test_a_document_that_takes_too_long_is_given_up_and_the_next_is_read():
    with DocumentReader(seconds=1.5) as reader:
        with pytest.raises(UnreadableFile, match=r"more than 1\.5 sec"):
            reader.read(SLOW, "a.html")
        with pytest.raises(UnreadableFile, match="no text"):
            reader.read(b"<p>", "a.html")


@LINUX
def test_a_document_that_takes_too_much_memory_is_refused_and_the_next_is_read():
    with DocumentReader(mebibytes=120) as reader:
        with pytest.raises(UnreadableFile, match="memory"):
            reader.read(word(*["a"] * 100_000), "a.docx")
        assert reader.read(b"<p>next", "a.html").sections[0].text == "next"


@LINUX
def test_a_reader_whose_process_is_killed_starts_another():
    with DocumentReader() as reader:
        reader.read(b"<p>one", "a.html")
        os.kill(child_of(reader).pid, signal.SIGKILL)
        child_of(reader).wait()
        assert reader.read(b"<p>two", "a.html").sections[0].text == "two"


def test_a_document_is_tried_again_if_no_process_could_be_started(monkeypatch):
    def fail(*_):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(reading, "_start", fail)
    with DocumentReader() as reader, pytest.raises(UnreadableFile, match="cannot be st") as caught:
        reader.read(b"<p>one", "a.html")
    assert may_pass(caught.value)


def test_one_process_reads_many_documents_from_many_threads():
    with DocumentReader() as reader:
        found = {}

        def read(number):
            found[number] = reader.read(b"<p>%d" % number, "a.html").sections[0].text

        reader.read(b"<p>first", "a.html")
        pid = child_of(reader).pid
        threads = [threading.Thread(target=read, args=[number]) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {number: str(number) for number in range(20)}
        assert child_of(reader).pid == pid


def test_stopping_a_reader_gives_up_the_document_it_is_reading():
    reader = Reader([], ReadOptions())
    raised = []

    def read():
        try:
            reader.read("text", SLOW, "a.html")
        except Stopped as error:
            raised.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.3)
    began = time.monotonic()
    reader.stop()
    thread.join(10)
    assert raised
    assert time.monotonic() - began < 5


@LINUX
def test_the_process_ends_when_its_parent_is_killed():
    code = (
        "from mmsearch.media.documents.reader import DocumentReader\n"
        "reader = DocumentReader()\n"
        "reader.read(b'<p>one', 'a.html')\n"
        "print(reader._child.pid, flush=True)\n"
        "input()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    for pipe in (parent.stdin, parent.stdout):
        pipe.close()
    until = time.monotonic() + 10
    while is_running(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(child)


@LINUX
def test_the_process_has_a_low_priority_and_a_group_of_its_own(reader):
    reader.read(b"<p>one", "a.html")
    pid = child_of(reader).pid
    assert os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpgid(pid) == pid  # Ctrl-C in a terminal does not reach it


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---------------------------------------------------------------------- in an index


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "files"
    made.mkdir()
    return made


def test_documents_are_indexed_as_texts_and_found(toy, folder):
    (folder / "a.docx").write_bytes(word("Before.", (1, "Results"), "A lighthouse stood."))
    (folder / "b.pptx").write_bytes(slides(slide("Welcome", "harbour"), slide("", "whales")))
    (folder / "c.html").write_text(PAGE)
    (folder / "d.rtf").write_bytes(b"{\\rtf1 ")
    with mmsearch.index(folder, into=folder.parent / "idx", model="toy") as library:
        assert library.report.added == 3
        assert [failure.reason for failure in library.report.failures] == ["no text in it"]
        hit = library.search("whales", target="text", k=1)[0]
        assert (Path(hit.path).name, hit.modality) == ("b.pptx", "text")
        assert hit.span == Span(2, 2, "slide")
        assert hit.caption == "Slide 2\nwhales"
        (folder / "e.docx").write_bytes((folder / "a.docx").read_bytes())
        hits = library.similar(folder / "e.docx", k=1)
        assert Path(hits[0].path).name == "a.docx"


def test_a_text_beside_a_document_is_an_item_of_its_own(toy, folder):
    (folder / "a.docx").write_bytes(word("Words."))
    (folder / "a.txt").write_text("Other words.")
    with mmsearch.index(folder, into=folder.parent / "idx", model="toy") as library:
        assert library.report.added == 2


def test_indexing_starts_no_process_without_documents_and_ends_the_one_it_started(
    toy, folder, monkeypatch
):
    started = []
    start = reading._start
    monkeypatch.setattr(
        reading, "_start", lambda *limits: started.append(start(*limits)) or started[-1]
    )
    (folder / "a.txt").write_text("Plain words.")
    with mmsearch.index(folder, into=folder.parent / "idx", model="toy") as library:
        assert not started
        for name in "bcd":
            (folder / f"{name}.html").write_text(f"<p>{name}")
        library.add(folder)
        assert library.report.added == 3
    assert len(started) == 1
    assert started[0].returncode is not None


def without_anydoc(monkeypatch):
    from importlib.util import find_spec

    for module in ("media.kinds", "media.documents.reader", "indexing.passed_over"):
        monkeypatch.setattr(
            f"mmsearch.{module}.find_spec",
            lambda name: None if name == "anydoc" else find_spec(name),
        )


def test_without_the_extra_documents_are_passed_over_with_the_cure(toy, folder, monkeypatch):
    (folder / "a.txt").write_text("Plain words.")
    (folder / "b.docx").write_bytes(word("Words."))
    without_anydoc(monkeypatch)
    with mmsearch.index(folder, into=folder.parent / "idx", model="toy") as library:
        assert library.report.added == 1
        (warning,) = [one for one in library.report.warnings if "passed over" in one]
        assert warning.startswith("passed over 1 document (")
        assert "pip install 'mmsearch[docs]'" in warning
    with pytest.raises(MissingExtra, match=r"mmsearch\[docs\]"):
        read_passages(b"x", "a.docx")


def test_documents_stay_in_an_index_when_the_extra_goes(toy, folder, monkeypatch):
    (folder / "b.docx").write_bytes(word("Words."))
    with mmsearch.index(folder, into=folder.parent / "idx", model="toy") as library:
        without_anydoc(monkeypatch)
        library.add(folder)
        assert library.report.removed == 0
        assert len(library.items) == 1


def test_places_in_documents_are_written_briefly():
    assert span_text(Span(3, 3, "slide")) == "slide 3"
    assert span_text(Span(4, 4, "section")) == "§ 4"
    assert span_text(Span(0, 0, "section")) == ""
