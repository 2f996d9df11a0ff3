import inspect
import os
import socket
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.errors import PathNotFound
from mmsearch.media.kinds import ending_by_content
from mmsearch.media.walk import FileStat, Folder, Tree


def walk(root, below="", **options):
    return Tree(root, below, **options).walk()


def count(root, below="", **options):
    return Tree(root, below, **options).count()


def make(root: Path, *paths: str) -> None:
    for path in paths:
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(path)


def listed(root: Path, below: str = "", **options: object) -> list[str]:
    """The paths of all files, after checking that `count` agrees and that there is no failure."""
    folders = list(walk(root, below, **options))
    assert [failure for folder in folders for failure in folder.failures] == []
    files = [file.path for folder in folders for file in folder.files]
    assert count(root, below, **options) == len(files)
    return files


def test_folders_come_depth_first_and_sorted_with_their_files_sorted(tmp_path):
    make(tmp_path, "z.jpg", "b/2.png", "b/1.png", "a/deep/x.txt", "a/y.md", "a-b/q.gif")
    folders = list(walk(tmp_path))
    assert [folder.path for folder in folders] == ["", "a", "a/deep", "a-b", "b"]
    assert listed(tmp_path) == [
        "z.jpg",
        "a/y.md",
        "a/deep/x.txt",
        "a-b/q.gif",
        "b/1.png",
        "b/2.png",
    ]
    assert all(folder.complete for folder in folders)


def test_a_file_comes_with_its_modality_size_and_time(tmp_path):
    make(tmp_path, "a.jpg")
    os.utime(tmp_path / "a.jpg", ns=(1, 1_234_567_891))
    [folder] = walk(str(tmp_path))
    changed = os.stat(tmp_path / "a.jpg").st_ctime_ns
    file = FileStat("a.jpg", "image", 5, 1_234_567_891, None, None, changed)
    assert folder == Folder("", [file], [], complete=True, others={})


def test_endings_are_told_in_any_case_and_other_kinds_are_left_out(tmp_path):
    make(tmp_path, "A.JPG", "b.HeiC", "c.Md", "d.xlsx", "e", "jpg", "f.jpg.bak")
    assert listed(tmp_path) == ["A.JPG", "b.HeiC", "c.Md"]


def test_an_empty_folder_is_still_listed(tmp_path):
    (tmp_path / "empty").mkdir()
    assert [folder.path for folder in walk(tmp_path)] == ["", "empty"]


def test_a_folder_may_be_called_like_a_photo(tmp_path):
    make(tmp_path, "trip.jpg/a.jpg")
    assert listed(tmp_path) == ["trip.jpg/a.jpg"]


# ---------------------------------------------------------------------- sidecars


def test_a_sidecar_belongs_to_its_image_and_is_no_file_of_its_own(tmp_path):
    make(tmp_path, "dog.jpg", "dog.txt", "cat.txt")
    [folder] = walk(tmp_path)
    status = (tmp_path / "dog.txt").stat()
    cat, dog = folder.files
    assert (cat.path, cat.kind, cat.sidecar) == ("cat.txt", "text", None)
    assert dog.path == "dog.jpg"
    assert (dog.sidecar, dog.sidecar_name) == ((7, status.st_mtime_ns), "dog.txt")
    assert listed(tmp_path) == ["cat.txt", "dog.jpg"]


def test_one_sidecar_may_serve_two_images_and_be_written_in_capitals(tmp_path):
    make(tmp_path, "dog.jpg", "dog.PNG", "dog.TXT")
    [folder] = walk(tmp_path)
    assert [(f.path, f.sidecar_name) for f in folder.files] == [
        ("dog.PNG", "dog.TXT"),
        ("dog.jpg", "dog.TXT"),
    ]
    assert count(tmp_path) == 2


def test_a_markdown_file_or_a_folder_is_no_sidecar(tmp_path):
    make(tmp_path, "dog.jpg", "dog.md", "cat.jpg", "cat.txt/x.md")
    [folder, _] = walk(tmp_path)
    assert [f.path for f in folder.files] == ["cat.jpg", "dog.jpg", "dog.md"]
    assert all(f.sidecar is None for f in folder.files)


# ---------------------------------------------------------------------- what is passed over


def test_hidden_files_and_folders_are_skipped_unless_asked_for(tmp_path):
    make(tmp_path, "a.jpg", ".b.jpg", ".c/d.jpg")
    assert listed(tmp_path) == ["a.jpg"]
    assert listed(tmp_path, include_hidden=True) == [".b.jpg", "a.jpg", ".c/d.jpg"]


def test_resource_forks_and_machine_folders_are_skipped_even_with_hidden_files(tmp_path):
    make(
        tmp_path, "._a.jpg", "@eaDir/a.jpg", ".git/a.jpg", "x/node_modules/a.jpg", "__MACOSX/a.jpg"
    )
    assert listed(tmp_path, include_hidden=True) == []


@pytest.mark.parametrize("name", [".photos", ".git", "node_modules"])
def test_a_root_that_is_named_is_walked_whatever_it_is_called(tmp_path, name):
    make(tmp_path, f"{name}/a.jpg")
    assert listed(tmp_path / name) == ["a.jpg"]
    assert listed(tmp_path, name) == [f"{name}/a.jpg"]


@pytest.mark.parametrize(
    ("exclude", "kept"),
    [
        (["*.png"], ["a.jpg", "raw/c.jpg", "raw/deep/d.jpg"]),
        (["raw"], ["a.jpg", "b.png"]),
        (["raw/"], ["a.jpg", "b.png"]),
        (["raw/deep"], ["a.jpg", "b.png", "raw/c.jpg"]),
        (["raw/*.jpg", "b.*"], ["a.jpg"]),
        (["deep", "[ab].*"], ["raw/c.jpg"]),
    ],
)
def test_globs_exclude_files_and_folders_by_name_or_path(tmp_path, exclude, kept):
    make(tmp_path, "a.jpg", "b.png", "raw/c.jpg", "raw/deep/d.jpg")
    assert listed(tmp_path, exclude=exclude) == kept


def test_a_name_with_brackets_can_be_excluded_as_it_is_written(tmp_path):
    make(tmp_path, "[2020] Rome/a.jpg", "[2020] Rome/deep/b.jpg", "2 Rome/c.jpg", "Rome/d.jpg")
    assert listed(tmp_path, exclude=["[2020] Rome"]) == ["Rome/d.jpg"]  # as a glob, "2 Rome" too
    assert listed(tmp_path, exclude=["[2020] Rome/deep/"]) == [
        "2 Rome/c.jpg",
        "Rome/d.jpg",
        "[2020] Rome/a.jpg",
    ]


def test_pipes_and_sockets_are_never_opened_or_listed(tmp_path):
    make(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    with tempfile.TemporaryDirectory(dir="/tmp") as short, socket.socket(socket.AF_UNIX) as s:
        s.bind(f"{short}/socket.jpg")
        assert listed(Path(short)) == []
    assert listed(tmp_path) == ["a.jpg"]


# ---------------------------------------------------------------------- links


def test_links_to_files_are_followed(tmp_path):
    make(tmp_path, "store/a.jpg", "root/own.jpg")
    (tmp_path / "root/link.jpg").symlink_to(tmp_path / "store/a.jpg")
    [folder] = walk(tmp_path / "root")
    assert [(f.path, f.size) for f in folder.files] == [("link.jpg", 11), ("own.jpg", 12)]


def test_a_broken_link_is_a_failure_only_when_it_is_called_like_media(tmp_path):
    (tmp_path / "a.jpg").symlink_to("nowhere")
    (tmp_path / "b.xlsx").symlink_to("nowhere")
    [folder] = walk(tmp_path)
    assert (folder.files, folder.failures) == ([], [("a.jpg", "broken link")])
    assert folder.complete
    assert count(tmp_path) == 0


def test_a_link_to_itself_is_a_failure(tmp_path):
    (tmp_path / "a.jpg").symlink_to("a.jpg")
    [folder] = walk(tmp_path)
    assert [path for path, _ in folder.failures] == ["a.jpg"]
    assert count(tmp_path) == 0


def test_loops_of_links_are_cut(tmp_path):
    make(tmp_path, "a/x.jpg")
    (tmp_path / "a/self").symlink_to(".")
    (tmp_path / "a/up").symlink_to("..")
    assert listed(tmp_path) == ["a/x.jpg"]


def test_loops_outside_the_root_are_cut(tmp_path):
    make(tmp_path, "root/a.jpg", "outside/b.jpg")
    (tmp_path / "root/out").symlink_to(tmp_path / "outside")
    (tmp_path / "outside/again").symlink_to(".")
    (tmp_path / "outside/back").symlink_to(tmp_path / "root")
    (tmp_path / "outside/above").symlink_to(tmp_path)
    assert listed(tmp_path / "root") == ["a.jpg", "out/b.jpg"]


def test_a_photo_is_found_under_its_own_folder_not_under_links_to_it(tmp_path):
    make(tmp_path, "real/x.jpg")
    (tmp_path / "a-link").symlink_to("real")
    (tmp_path / "z-link").symlink_to("real")
    assert listed(tmp_path) == ["real/x.jpg"]


def test_a_link_leads_to_what_the_walk_would_otherwise_pass_over(tmp_path):
    make(tmp_path, ".store/x.jpg")
    (tmp_path / "album").symlink_to(".store")
    assert listed(tmp_path) == ["album/x.jpg"]


def test_two_links_to_one_outside_folder_give_its_photos_once(tmp_path):
    make(tmp_path, "outside/b.jpg")
    (tmp_path / "root").mkdir()
    for name in ("one", "two"):
        (tmp_path / "root" / name).symlink_to(tmp_path / "outside")
    assert listed(tmp_path / "root") == ["one/b.jpg"]


# ---------------------------------------------------------------------- below


@pytest.mark.parametrize("below", ["b", "b/", "./b", "c/../b"])
def test_the_walk_can_be_limited_to_a_folder(tmp_path, below):
    make(tmp_path, "a.jpg", "b/x.jpg", "b/c/y.jpg", "c/z.jpg")
    assert listed(tmp_path, below) == ["b/x.jpg", "b/c/y.jpg"]


@pytest.mark.parametrize("below", ["missing", "a.jpg/x", "..", "../other", "/etc"])
def test_what_is_not_under_the_root_is_not_found(tmp_path, below):
    make(tmp_path, "root/a.jpg", "other/b.jpg")
    for look in (walk, count):
        with pytest.raises(PathNotFound):
            look(tmp_path / "root", below)


def test_a_root_that_is_no_folder_is_not_found(tmp_path):
    make(tmp_path, "a.jpg")
    for root in (tmp_path / "a.jpg", tmp_path / "missing"):
        with pytest.raises(PathNotFound):
            walk(root)


# ---------------------------------------------------------------------- trouble


def test_a_folder_that_cannot_be_listed_is_a_failure_and_the_others_go_on(tmp_path, monkeypatch):
    make(tmp_path, "a/x.jpg", "locked/y.jpg", "z/z.jpg")
    scandir = os.scandir

    def refuse(place):
        if place.endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    locked = Folder("locked", [], [("locked", "permission denied")], complete=False, others={})
    folders = {folder.path: folder for folder in walk(tmp_path)}
    assert folders["locked"] == locked
    assert [f.path for f in folders["z"].files] == ["z/z.jpg"]
    assert folders["z"].complete


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_a_folder_without_permission_is_a_failure(tmp_path):
    make(tmp_path, "locked/y.jpg")
    (tmp_path / "locked").chmod(0)
    folders = list(walk(tmp_path))
    (tmp_path / "locked").chmod(0o700)
    assert folders[1].failures == [("locked", "permission denied")]


def test_a_tree_may_be_deeper_than_calls_may_be_nested(tmp_path):
    deep = "/".join("d" * 200)
    make(tmp_path, f"{deep}/x.jpg")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        files = [file.path for folder in walk(tmp_path) for file in folder.files]
    finally:
        sys.setrecursionlimit(limit)
    assert files == [f"{deep}/x.jpg"]


def test_odd_names_come_through(tmp_path):
    names = ["new\nline.jpg", "tab\t.jpg", "🐕.jpg", "é.jpg", " .jpg", "*.jpg"]
    make(tmp_path, *names)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).touch()
    assert set(listed(tmp_path)) == {*names, "caf\udce9.jpg"}


parts = st.sampled_from(
    ["a", ".h", "raw", "@eaDir", "dog.jpg", "dog.txt", "b.TXT", "b.png", "c.pdf"]
)


@given(
    paths=st.lists(st.lists(parts, min_size=1, max_size=3).map("/".join), max_size=12),
    exclude=st.lists(st.sampled_from(["raw", "*.txt", "a/*", "dog.*"]), max_size=2),
    hidden=st.booleans(),
)
def test_count_agrees_with_walk_and_no_path_comes_twice(paths, exclude, hidden):
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            try:
                make(Path(folder), path)
            except OSError:  # a file where a folder should be, or the other way round
                continue
        files = listed(Path(folder), exclude=exclude, include_hidden=hidden)
    assert len(files) == len(set(files))


# ---------------------------------------------------------------------- first bytes


@pytest.mark.parametrize(
    ("head", "ending"),
    [
        (b"\xff\xd8\xff\xe0", ".jpg"),
        (b"\x89PNG\r\n\x1a\n", ".png"),
        (b"GIF89a", ".gif"),
        (b"BM" + bytes(12) + b"\x28\0\0\0", ".bmp"),
        (b"RIFF\0\0\0\0WEBP", ".webp"),
        (b"RIFF\0\0\0\0WAVE", ".wav"),
        (b"RIFF\0\0\0\0AVI ", ".avi"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", ".heic"),
        (b"\0\0\0\x14ftypavif\0\0\0\0", ".avif"),
        (b"\0\0\0\x14ftypisom\0\0\0\0", ".mp4"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0", ".mov"),
        (b"\0\0\0\x14ftypM4A \0\0\0\0", ".m4a"),
        (b"ID3\4\0\0\0\0\0\0\xff\xfb\x90", ".mp3"),
        (b"\xff\xfb\x90\0", ".mp3"),
        (b"\xff\xf1\x50\x80", ".aac"),
        (b"fLaC", ".flac"),
        (b"OggS", ".ogg"),
        (b"caff\0\1", ".caf"),
        (b".snd\0\0\0\x18", ".au"),
        (b"riff\x2e\x91\xcf\x11", ".w64"),
        (b"wvpk", ".wv"),
        (b"TTA1", ".tta"),
        (b"\x0bw\0\0\0\x40", ".ac3"),
        (b"\x0bw\0\0\0\x80", ".eac3"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", ".wmv"),
        (b"\0\0\1\xba", ".mpg"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", ".jp2"),
        (b"P6\n640 480", ".ppm"),
        (b"P5\n# by a scanner", ".ppm"),
        (b"\x1aE\xdf\xa3", ".mkv"),
        ((b"G" + bytes(187)) * 4, ".mts"),
        ((bytes(4) + b"G" + bytes(187)) * 4, ".mts"),
        (b"II*\0", ".tif"),
        (b"\0\0\0\x14ftypcrx \0\0\0\0", ".cr3"),
        (b"II*\0\x10\0\0\0CR\2\0", ".cr2"),
        (b"FUJIFILMCCD-RAW 0201", ".raf"),
        (b"IIRO\x08\0\0\0", ".orf"),
        (b"IIU\0\x08\0\0\0", ".rw2"),
        (b"\xff\x0a\x0f\x07", ".jxl"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", ".jxl"),
        (b"\0\0\1\0\1\0\x10\x10", ".ico"),
        (b"\0\0\2\0\0\0\0\0\0\0\0\0\x10\0\x10\0\x18\0", None),  # perhaps a TGA
        (b"BMW cars", None),
        (b"P1 bugs", None),
        (b"\xff\xe3\x90\0", None),
        (b"G" + bytes(187) + b"G" + bytes(600), None),
        ("é".encode("utf-16"), None),
        (b"%PDF-1.4", None),
        (b"", None),
    ],
)
def test_the_first_bytes_tell_the_ending_that_a_file_should_have(tmp_path, head, ending):
    (tmp_path / "a").write_bytes(head + bytes(200) if head else b"")
    assert ending_by_content(str(tmp_path / "a")) == ending


def test_a_raw_photo_is_not_taken_for_a_tiff(tmp_path):
    (tmp_path / "a.cr2").write_bytes(b"II*\0" + bytes(200))
    assert ending_by_content(str(tmp_path / "a.cr2")) is None
