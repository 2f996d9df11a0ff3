import io
import threading
import zipfile

import numpy as np
import pytest

from mmsearch.errors import MissingExtra, UnreadableFile
from mmsearch.media import pdf

pytest.importorskip("pypdfium2")


def document(*pages, encrypt=b"", form=b""):
    """A PDF of (width, height, operators, more of the page's dictionary)."""
    bodies = [b"<</Type/Catalog/Pages 2 0 R%s>>" % form, b"", b""]
    bodies[2] = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>"
    kids = []
    for width, height, drawn, more in pages:
        kids.append(b"%d 0 R" % (len(bodies) + 1))
        bodies.append(
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 %d %d]/Contents %d 0 R"
            b"/Resources<</Font<</F 3 0 R>>>>%s>>" % (width, height, len(bodies) + 2, more)
        )
        bodies.append(b"<</Length %d>>stream\n%s\nendstream" % (len(drawn), drawn))
    bodies[1] = b"<</Type/Pages/Count %d/Kids[%s]>>" % (len(kids), b" ".join(kids))
    out = io.BytesIO(b"%PDF-1.7\n")
    out.seek(0, io.SEEK_END)
    places = []
    for number, body in enumerate(bodies, 1):
        places.append(out.tell())
        out.write(b"%d 0 obj%s\nendobj\n" % (number, body))
    table = out.tell()
    rows = b"".join(b"%010d 00000 n \n" % place for place in places)
    out.write(b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(bodies) + 1, rows))
    out.write(b"trailer<</Size %d/Root 1 0 R%s>>\n" % (len(bodies) + 1, encrypt))
    out.write(b"startxref\n%d\n%%%%EOF\n" % table)
    return out.getvalue()


def says(*lines, size=(300, 400), more=b""):
    """A page with lines of text, in Windows-1252."""
    shown = b"".join(b"(%s) Tj 0 -20 Td " % line.encode("cp1252") for line in lines)
    return (*size, b"BT /F 14 Tf 20 %d Td %s ET" % (size[1] - 40, shown), more)


def refused(source):
    """The reason for which a file is not read; the same when pages are only counted."""
    with pytest.raises(UnreadableFile) as caught:
        list(pdf.pages(source, at_least=20))
    return str(caught.value)


def text_of(*lines):
    (page,) = pdf.pages(document(says(*lines)), at_least=20)
    return page.text


# ---------------------------------------------------------------------- pages


def test_each_page_comes_with_its_number_and_its_text():
    data = document(says("A harbour at night."), says("Tomatoes in the garden."))
    found = [(page.number, page.text) for page in pdf.pages(data, at_least=20)]
    assert found == [(1, "A harbour at night."), (2, "Tomatoes in the garden.")]


def test_a_path_is_read_as_bytes_are(tmp_path):
    data = document(says("hello"))
    path = tmp_path / "a\udce9 note.pdf"  # not UTF-8
    path.write_bytes(data)
    assert [page.text for page in pdf.pages(path, at_least=20)] == ["hello"]
    assert [page.text for page in pdf.pages(str(path), at_least=20)] == ["hello"]


@pytest.mark.parametrize("size", [(300, 400), (400, 300), (30, 40)])
def test_a_page_s_picture_has_a_shorter_side_of_twice_what_is_asked_for(size):
    (page,) = pdf.pages(document(says("hello", size=size)), at_least=100)
    assert page.picture.mode == "RGB"
    assert 200 <= min(page.picture.size) <= 201
    assert page.picture.width / page.picture.height == pytest.approx(size[0] / size[1], rel=0.02)


@pytest.mark.parametrize(
    ("turned", "corner"),
    [(0, "left top"), (90, "right top"), (180, "right bottom"), (270, "left bottom")],
)
def test_a_turned_page_comes_upright(turned, corner):
    blue = b"0 0 1 rg 0 300 100 100 re f"  # above and left as it is written
    data = document((300, 400, blue, b"/Rotate %d" % turned))
    (page,) = pdf.pages(data, at_least=150)
    pixels = np.asarray(page.picture).astype(int)
    rows, columns = np.nonzero(pixels[:, :, 2] - pixels[:, :, 0] > 128)
    height, width = pixels.shape[:2]
    assert (width > height) == (turned % 180 == 90)
    across = "left" if columns.mean() < width / 2 else "right"
    assert f"{across} {'top' if rows.mean() < height / 2 else 'bottom'}" == corner


def test_the_paper_is_white():
    (page,) = pdf.pages(document(says()), at_least=20)
    assert page.picture.getcolors() == [(page.picture.width * page.picture.height, (255,) * 3)]


def test_a_page_without_text_has_its_picture():
    (page,) = pdf.pages(document((300, 400, b"1 0 0 rg 0 0 300 400 re f", b"")), at_least=20)
    assert page.text == ""
    assert page.picture.resize((1, 1)).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    "size", [(14_400, 14_400), (1_000_000, 1_000_000), (1_000_000, 1), (1, 14_400), (0, 0)]
)
def test_pages_of_absurd_size_have_pictures_of_sensible_size(size):
    (page,) = pdf.pages(document(says("x", size=size)), at_least=100)
    assert page.picture.width * page.picture.height <= 1.1 * 8 * 200 * 200
    assert max(page.picture.size) <= pdf.LONGEST_SIDE


def test_a_damaged_page_is_left_out():
    whole = document(says("first"), says("second"), says("third"))
    data = whole.replace(b"4 0 R 6 0 R 8 0 R", b"4 0 R 7 0 R 8 0 R")  # a stream for a page
    assert "second" not in [page.text for page in pdf.pages(data, at_least=20)]
    assert {1, 3} <= {page.number for page in pdf.pages(data, at_least=20)}


# ---------------------------------------------------------------------- text


def test_lines_stay_lines():
    assert text_of("First line.", "Second line.") == "First line.\nSecond line."


def test_a_word_cut_at_a_line_s_end_is_whole_again():
    assert text_of("This is an exam-", "ple of it.") == "This is an example of it."


def test_a_hyphen_before_a_capital_stays():
    assert text_of("The Anglo-", "Saxon king") == "The Anglo-Saxon king"
    assert text_of("a well-known king") == "a well-known king"


def test_a_dash_at_a_line_s_end_joins_nothing():
    assert "word" in text_of("one word -", "another").split()
    assert "another" in text_of("one word -", "another").split()


def test_invisible_and_control_characters_are_gone():
    clean = pdf._cleaned(
        "so\u00adft\u200b \ufb01sh\x07\tand \u00a0 \uf0b7 spaces\r\n\r\n\r\n\r\nend\x00"
    )
    assert clean == "soft fish and spaces\n\nend"


# ---------------------------------------------------------------------- what can't be read


def test_an_empty_file_is_told():
    assert refused(b"") == "0 bytes"


def test_something_else_is_told_from_damage():
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a", "b")
    assert refused(archive.getvalue()) == "not a PDF"


def test_half_a_file_is_damaged():
    data = document(says("x" * 500), says("y" * 500))
    assert refused(data[: len(data) // 5]) == "damaged"
    assert refused(b"%PDF-1.7\n" + bytes(range(256)) * 20) == "damaged"
    assert refused(b"%PDF-1.7\n") == "damaged"


def test_a_locked_file_needs_a_password():
    locked = (
        b"/ID[<00112233445566778899aabbccddeeff><00112233445566778899aabbccddeeff>]"
        b"/Encrypt<</Filter/Standard/V 1/R 2/P -4/O<%s>/U<%s>>>" % (b"ab" * 32, b"cd" * 32)
    )
    assert refused(document(says("x"), encrypt=locked)) == "password needed"


def test_files_that_cannot_be_opened_are_told(tmp_path):
    assert refused(tmp_path / "none.pdf") == "no such file or directory"
    assert refused(tmp_path) == "not a regular file"
    assert refused("a\0b.pdf") == "no such file"


# ---------------------------------------------------------------------- many at once


def test_files_are_closed_when_nobody_reads_on(tmp_path):
    path = tmp_path / "a.pdf"
    path.write_bytes(document(says("one"), says("two")))
    found = pdf.pages(path, at_least=20)
    next(found)
    file = found.gi_frame.f_locals["document"]._input
    assert not file.closed
    found.close()
    assert file.closed


def test_pdfium_is_entered_by_one_thread_at_a_time(monkeypatch):
    import pypdfium2

    entered = []

    def watch(kind, name):
        method = getattr(kind, name)

        def watched(*arguments, **options):
            entered.append((name, pdf._LOCK._is_owned()))
            return method(*arguments, **options)

        monkeypatch.setattr(kind, name, watched)

    watch(pypdfium2.PdfDocument, "__init__")
    watch(pypdfium2.PdfDocument, "__len__")
    watch(pypdfium2.PdfDocument, "get_page")
    watch(pypdfium2.PdfDocument, "close")
    watch(pypdfium2.PdfPage, "render")
    watch(pypdfium2.PdfPage, "get_textpage")
    watch(pypdfium2.PdfPage, "close")
    list(pdf.pages(document(says("x")), at_least=20))
    assert len({name for name, _ in entered}) >= 6
    assert all(alone for _, alone in entered)


def test_several_threads_read_without_disturbing_each_other():
    data = {name: document(*[says(f"{name} {n}") for n in range(8)]) for name in "abcd"}
    found: dict[str, list[str]] = {}

    def read(name):
        found[name] = [page.text for page in pdf.pages(data[name], at_least=30)]

    threads = [threading.Thread(target=read, args=(name,)) for name in data]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {name: [f"{name} {n}" for n in range(8)] for name in data}


def test_what_is_filled_into_a_form_is_seen():
    reportlab = pytest.importorskip("reportlab.pdfgen.canvas")
    file = io.BytesIO()
    canvas = reportlab.Canvas(file, pagesize=(300, 100))
    canvas.acroForm.textfield(value="FILLED IN", x=0, y=0, width=300, height=100, fontSize=48)
    canvas.showPage()
    canvas.save()
    (page,) = pdf.pages(file.getvalue(), at_least=100)
    assert np.asarray(page.picture.convert("L").point(lambda grey: grey < 64)).mean() > 0.02


def test_a_missing_package_is_told_with_what_to_install(monkeypatch):
    monkeypatch.setattr(pdf, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"mmsearch\[pdf\]"):
        pdf.require()
