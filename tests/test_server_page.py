"""The page, in Debian's chromium, on real photos, texts and sounds."""

from __future__ import annotations

import base64
import io
import json
import re
import runpy
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest

pytest.importorskip("fastapi", reason="mmsearch[serve] is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")
pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
pytest.importorskip("skimage")
pytest.importorskip("sklearn")

import uvicorn
from axe_playwright_python.sync_playwright import Axe
from conftest import tone
from PIL import Image
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Error,
    Locator,
    Page,
    Route,
    expect,
    sync_playwright,
)
from raw_photos import dng

from mmsearch.collection import Collection
from mmsearch.encoders import runtime_of
from mmsearch.server import app as server_app
from mmsearch.server.app import create_app
from mmsearch.server.indexes import ServedIndexes
from mmsearch.server.run import listen
from mmsearch.server.security import Access

STATIC = Path(server_app.__file__).with_name("static")
GATHER = runpy.run_path(str(Path(__file__).parents[1] / "demo" / "gather.py"))
PHOTOS = ("chelsea", "coffee", "coins", "rocket", "moon", "camera", "astronaut", "motorcycle_left")
PHOTOS += ("brick", "hubble_deep_field", "china", "flower")
MARKUP = "<img src=x onerror=document.title='broken'>"
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# ---------------------------------------------------------------------- world


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen photos, some texts, two sounds; one name and one text are markup."""
    folder = tmp_path_factory.mktemp("world") / "things"
    (folder / "photos").mkdir(parents=True)
    (folder / "texts").mkdir()
    for place, names in GATHER["PHOTOS"].items():
        for name in names:
            if Path(name).stem in PHOTOS:
                shutil.copy(GATHER["folder_of"](place) / name, folder / "photos" / name)
    for name, text in GATHER["TEXTS"].items():
        (folder / "texts" / name).write_text(text)
    (folder / "texts" / f"{MARKUP}.txt").write_text(f"A {MARKUP} zeppelin over the town.")
    tone(folder / "sounds" / "late.wav", "", "", "high", seconds=5)
    tone(folder / "sounds" / "early.wav", "low", "", "", seconds=5)
    return folder


@pytest.fixture(scope="module")
def index(folder: Path) -> Path:
    index = folder.parent / "idx"
    about = folder.parent / "about.jsonl"
    about.write_text('{"file": "chelsea.png", "aperture": 2.8, "exposure": 0.004, "my note": "x"}')
    with Collection(index, model="mini", create=True) as collection:
        collection.add(folder, metadata=about)
    return index


@contextmanager
def serving(index: Path, *, port: int = 0, token: str | None = None) -> Iterator[str]:
    """The address of a server of an index."""
    listening = listen("127.0.0.1", port)
    port = listening.getsockname()[1]
    app = create_app(
        ServedIndexes({"default": index}, runtime_of()), access=Access(port=port, token=token)
    )
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        while not app.state.indexes.ready:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        app.state.stop()
        server.should_exit = True
        thread.join(20)
        listening.close()


@pytest.fixture(scope="module")
def server(index: Path) -> Iterator[str]:
    with serving(index) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium to open the page in")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def context(browser: Browser) -> BrowserContext:
    """Shared by pages without special options: a context of its own takes a page's time again."""
    return browser.new_context(locale="en-GB")


@pytest.fixture
def open_page(browser: Browser, context: BrowserContext) -> Iterator[Callable[..., Page]]:
    """Opens an address in a tab of its own; in the end, no script may have failed."""
    opened: list[BrowserContext | Page] = []
    errors: list[str] = []

    def open_page(address: str, width: int = 1280, height: int = 800, **options: Any) -> Page:
        if options:
            own = browser.new_context(locale="en-GB", **options)
            opened.append(own)
            page = own.new_page()
        else:
            page = context.new_page()
            opened.append(page)
        page.set_viewport_size({"width": width, "height": height})
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if _is_bad(message) else 0)
        page.goto(address)
        return page

    yield open_page
    for one in opened:
        one.close()
    context.clear_cookies()
    assert errors == []


def _is_bad(message: Any) -> bool:
    """Whether the console says that something is broken; answers that refuse are part of it."""
    return message.type == "error" and "Failed to load resource" not in message.text


# ---------------------------------------------------------------------- steps


def shown(page: Page) -> Locator:
    return page.locator("hit-grid [role=gridcell]")


def count(page: Page) -> Locator:
    return page.locator("#count")


def names(page: Page) -> list[str]:
    """The names of the hits, as they are read out."""
    labels = shown(page).evaluate_all("cells => cells.map(cell => cell.ariaLabel)")
    return [label.split(", ")[0] for label in labels]


def expect_first(page: Page, name: str) -> None:
    """Wait until this is the best hit."""
    expect(shown(page).first).to_have_attribute("aria-label", re.compile(f"^{re.escape(name)},"))


def ask(page: Page, words: str) -> None:
    """Type words, and wait for their hits."""
    with page.expect_response(lambda answer: words in (answer.request.post_data or "")):
        page.get_by_role("searchbox").fill(words)
    expect(page.locator("#results")).not_to_have_attribute("aria-busy", "true")


def names_by_api(index: Path, query: str, **settings: Any) -> list[str]:
    with Collection(index) as collection:
        page = collection.search_page(query, k=50, **settings)
    return [Path(hit.path).name for hit in page.hits]


def state(page: Page) -> dict[str, list[str]]:
    """What the address says."""
    return parse_qs(urlsplit(page.url).query)


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.dataset.position ?? ''"))


def box_of(element: Locator) -> dict[str, float]:
    """Where an element is; what is just being drawn anew has no place."""
    for _ in range(100):
        expect(element).to_be_visible()
        if (box := element.bounding_box()) is not None:
            return dict(box)
        element.page.wait_for_timeout(20)
    raise AssertionError("it has no place")


def drop(page: Page, file: Path, name: str) -> None:
    """Drop a file on the page, as a file manager does."""
    data = page.evaluate_handle(
        """([bytes, name]) => {
            const data = new DataTransfer();
            const content = Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
            data.items.add(new File([content], name));
            return data;
        }""",
        [base64.b64encode(file.read_bytes()).decode(), name],
    )
    page.dispatch_event("body", "dragover", {"dataTransfer": data})
    page.dispatch_event("body", "drop", {"dataTransfer": data})


def until(page: Page, condition: str, arg: Any = None) -> None:
    """Wait until an expression is true; Playwright's own way is an eval, which is forbidden."""
    end = time.monotonic() + 10
    while not page.evaluate(condition, arg):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)


def wait_for_rest(page: Page) -> None:
    """Until all modules are there."""
    elements = ("search-box", "search-facets", "index-progress", "selection-bar", "sound-wave")
    defined = "names => names.every(name => customElements.get(name))"
    until(page, f"({defined})({list(elements)}) && !!document.querySelector('#keys')")


def check_with_axe(page: Page, *rules: str) -> None:
    """What axe finds wrong, by all of its rules or some: nothing."""
    page.wait_for_timeout(200)  # overlays fade in
    options = {"resultTypes": ["violations"], **({"runOnly": list(rules)} if rules else {})}
    found = Axe().run(page, options=options).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []


# ---------------------------------------------------------------------- first pictures


def test_the_newest_are_shown_at_once_with_few_requests(server, open_page):
    requests: list[str] = []
    page = open_page("about:blank")
    page.on("request", lambda request: requests.append(urlsplit(request.url).path))
    page.goto(f"{server}/")
    expect(count(page)).to_have_text("22 items")
    until(page, "[...document.images].some(image => image.naturalWidth > 0)")
    assert next(at for at, path in enumerate(requests) if path.endswith("/thumbnail")) <= 6


def test_the_page_weighs_at_most_150_kilobytes():
    assert sum(file.stat().st_size for file in STATIC.iterdir()) <= 150_000


def test_boxes_have_the_shape_of_their_photos_before_the_pictures_come(server, open_page):
    page = open_page("about:blank")
    page.route("**/thumbnail?*", lambda route: route.abort())
    page.goto(f"{server}/?q=cat")
    photo = page.get_by_role("gridcell", name="chelsea.png")
    box = box_of(photo)
    assert box["width"] / box["height"] == pytest.approx(451 / 300, rel=0.02)


def test_rows_fill_the_width_with_all_items_in_order(server, open_page):
    page = open_page(f"{server}/")
    layouts = page.evaluate(
        """async () => {
            const { justify } = await import("/static/grid.js");
            const shapes = [0.5, 0.75, 1, 1.33, 1.5, 1.78, 3];
            return Array.from({ length: 50 }, (_, count) => {
                const ratios = Array.from({ length: count + 1 }, (_, at) => shapes[at * count % 7]);
                return [ratios, justify(ratios, 1000, 200, count % 2 === 0)];
            });
        }"""
    )
    for ratios, rows in layouts:
        assert [row["start"] for row in rows] == [
            sum(len(row["widths"]) for row in rows[:at]) for at in range(len(rows))
        ]
        laid_out = [width / row["height"] for row in rows for width in row["widths"]]
        assert laid_out == pytest.approx(ratios)
        for row in rows[:-1]:
            assert sum(row["widths"]) + 6 * (len(row["widths"]) - 1) == pytest.approx(1000)
            assert 100 <= row["height"] <= 400


def test_ten_thousand_hits_keep_a_few_hundred_nodes_alive(server, open_page):
    page = open_page("about:blank")
    page.route("**/api/v1/search", many_hits)
    page.goto(f"{server}/?q=many")
    expect(count(page)).to_have_text("10,000 results")
    most = page.evaluate(
        """async () => {
            let most = 0;
            for (let step = 0; step < 60; step++) {
                scrollBy(0, step < 40 ? 300 : 20000);
                await new Promise((done) => setTimeout(done, 30));
                most = Math.max(most, document.querySelectorAll("hit-grid *").length);
            }
            return most;
        }"""
    )
    assert 50 < most < 800
    page.get_by_role("gridcell").last.focus()
    page.keyboard.press("Control+End")
    expect(page.locator("[data-position='9999']")).to_be_focused()


def many_hits(route: Route) -> None:
    """The answer of a collection of 10,000 photos of several shapes."""
    asked = route.request.post_data_json
    hits = [
        {
            "rank": at + 1,
            "id": at + 1,
            "path": f"/photos/{at}.jpg",
            "modality": "image",
            "score": 0.5,
            "confidence": None,
            "span": None,
            "caption": None,
            "metadata": {"size": 1, "modified": "2020-01-01", "width": 3 + at % 4, "height": 4},
            "signals": {},
        }
        for at in range(asked["offset"], min(asked["offset"] + asked["k"], 10_000))
    ]
    answer = {"hits": hits, "total": 10_000, "weak_from": None, "facets": None}
    route.fulfill(json=answer)


# ---------------------------------------------------------------------- the box


def test_typing_shows_the_hits_of_the_api_in_its_order(server, open_page, index):
    page = open_page(f"{server}/", height=2000)
    ask(page, "a cat")
    assert names(page) == names_by_api(index, "a cat")
    assert state(page) == {"q": ["a cat"]}
    expect(page.locator(".tile.image img").first).to_have_js_property("complete", value=True)


def test_an_answer_that_comes_late_is_dropped(server, open_page, index):
    page = open_page(f"{server}/", height=2000)
    late: list[Route] = []

    def hold(route: Route) -> None:
        parts = route.request.post_data_json["parts"]
        if parts and parts[0].get("text") == "coffee":
            late.append(route)
        else:
            route.continue_()

    page.route("**/api/v1/search", hold)
    wait_for_rest(page)
    with page.expect_request("**/api/v1/search"):
        page.get_by_role("searchbox").fill("coffee")
    ask(page, "coffee rocket")
    with suppress(Error):  # the page has given it up
        late[0].continue_()
    page.wait_for_timeout(300)
    assert names(page) == names_by_api(index, "coffee rocket")


def test_a_dropped_photo_becomes_a_part_with_a_weight(server, open_page, folder):
    page = open_page(f"{server}/")
    wait_for_rest(page)
    drop(page, folder / "photos" / "coffee.png", "cup.png")
    chip = page.locator("#chips .chip")
    expect(chip).to_have_count(1)
    expect_first(page, "coffee.png")
    part = state(page)["part"][0]
    assert part.startswith("upload:")
    assert part.endswith(":1")
    with page.expect_response("**/api/v1/search"):
        chip.get_by_label("Weight").fill("0.5")
    with page.expect_response("**/api/v1/search"):
        chip.get_by_role("button", name="not").click()
    assert state(page)["part"][0].endswith(":-0.5")
    expect(chip.locator("img")).to_have_js_property("complete", value=True)
    chip.get_by_role("button", name="Remove").click()
    expect(chip).to_have_count(0)
    expect(count(page)).to_have_text("22 items")


def test_a_sound_is_chosen_to_search_by(server, open_page, folder):
    page = open_page(f"{server}/")
    wait_for_rest(page)
    page.locator("#file").set_input_files(folder / "sounds" / "early.wav")
    expect_first(page, "early.wav")


def test_what_is_no_photo_and_no_sound_is_refused_in_words(server, open_page, folder):
    page = open_page(f"{server}/")
    wait_for_rest(page)
    drop(page, folder / "texts" / "beijing.txt", "beijing.txt")
    expect(page.get_by_role("alert")).to_be_visible()
    assert "part" not in state(page)


def test_words_can_be_a_part_of_their_own(server, open_page):
    page = open_page(f"{server}/?q=cat")
    wait_for_rest(page)
    page.get_by_role("searchbox").press("Shift+Enter")
    ask(page, "photo")
    assert state(page) == {"q": ["photo"], "part": ["text:cat:1"]}


# ---------------------------------------------------------------------- address


def test_back_restores_the_search_the_scroll_position_and_the_focus(server, open_page):
    page = open_page(f"{server}/?q=cat", width=800, height=500)
    wait_for_rest(page)
    shown(page).first.focus()
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    before, position = page.evaluate("scrollY"), focused(page)
    assert before > 200
    page.wait_for_timeout(250)
    page.keyboard.press("m")
    expect(page.locator("#chips .chip")).to_have_count(1)
    until(page, "scrollY === 0")
    page.go_back()
    until(page, "at => document.activeElement.dataset.position === at", position)
    assert page.evaluate("scrollY") == pytest.approx(before, abs=2)
    page.reload()
    until(page, "at => document.activeElement.dataset.position === at", position)
    assert page.evaluate("scrollY") == pytest.approx(before, abs=2)


def test_a_link_holds_the_whole_search(server, open_page):
    page = open_page(f"{server}/", height=2000)
    wait_for_rest(page)
    page.get_by_role("button", name="photo 12").click()
    page.get_by_role("combobox", name="Order").select_option("oldest")
    expect(page.locator("#chips .chip")).to_have_text(["photo×"])
    until(page, "location.search.includes('oldest')")
    expect(page.locator("#results")).not_to_have_attribute("aria-busy", "true")
    other = open_page(page.url, height=2000)
    expect(count(other)).to_have_text("12 items")
    expect(shown(other)).to_have_count(12)
    assert names(other) == names(page)
    expect(other.get_by_role("combobox", name="Order")).to_have_value("oldest")


def test_without_a_query_the_order_is_by_date(server, open_page):
    page = open_page(f"{server}/", height=2000)
    order = page.get_by_role("combobox", name="Order")
    expect(order.locator("option:checked")).to_have_text("Date: newest")
    order.select_option("oldest")
    until(page, "location.search.includes('oldest')")
    order.select_option("newest")
    until(page, "!location.search")
    page.get_by_role("searchbox").fill("red")
    expect(order.locator("option:checked")).to_have_text("Relevance")


@pytest.mark.parametrize(
    "query",
    [
        "open=1e999&like=1e300,-1,x&confidence=NaN&sort=loudest",
        "part=item:0:1&part=item:99999999999999999999:1&part=upload:..%2F..:1&part=text:a:1e999",
        f"where={quote(json.dumps([{'modality': 'audio'}]))}&where=null&where=%7B",
    ],
)
def test_values_of_an_address_that_make_no_sense_are_left_out(server, open_page, query):
    page = open_page(f"{server}/?{query}")
    wait_for_rest(page)
    expect(count(page)).to_have_text("22 items")
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.locator("#chips .chip")).to_have_count(0)


def test_filters_by_strange_values_are_shown_as_they_are_written(server, open_page):
    page = open_page("about:blank")
    page.route("**/api/v1/search", many_hits)  # the server would refuse some of them
    values = ["x-1", "2019-13", "0001-02-03", "9999-12"]
    filters = [*({"date": value} for value in values), {"modality": "constructor"}]
    where = "&".join(f"where={quote(json.dumps(one))}" for one in filters)
    page.goto(f"{server}/?{where}")
    expected = ["x-1", "2019-13", "3 Feb 1", "December 9999", "constructor"]
    expect(page.locator("#chips .label")).to_have_text(expected)


def test_a_search_too_long_for_an_address_is_refused_in_words(server, open_page):
    page = open_page(f"{server}/?q=cat")
    wait_for_rest(page)
    page.get_by_role("searchbox").fill("cat " * 3000)
    expect(page.get_by_role("alert")).to_contain_text("too long")
    assert state(page) == {"q": ["cat"]}


def test_typing_after_back_is_a_step_of_its_own(server, open_page):
    page = open_page(f"{server}/")
    wait_for_rest(page)
    ask(page, "cat")
    page.get_by_role("searchbox").press("Enter")
    ask(page, "rocket")
    page.go_back()
    expect(page.get_by_role("searchbox")).to_have_value("cat")
    ask(page, "moon")
    page.go_back()
    expect(page.get_by_role("searchbox")).to_have_value("cat")


def test_back_asks_again_when_the_index_has_changed(server, open_page):
    page = open_page(f"{server}/")
    wait_for_rest(page)
    ask(page, "cat")
    page.wait_for_load_state("networkidle")

    def one_more(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(json={**answer.json(), "items": {"image": 99}})

    page.route("**/api/v1/status", one_more)
    with page.expect_response("**/api/v1/search"):
        page.go_back()


# ---------------------------------------------------------------------- confidence


@pytest.mark.parametrize("query", ["a cat", "quarterly tax return"])
def test_where_confidence_ends_is_said(server, open_page, index, query):
    page = open_page(f"{server}/?q={quote(query)}", height=2000)
    with Collection(index) as collection:
        weak_from = collection.search_page(query, k=50).weak_from
    wait_for_rest(page)
    expect(count(page)).not_to_be_empty()
    none = page.get_by_role("heading", name="No good match. Nearest:")
    assert none.is_visible() == (weak_from == 0)
    line = page.get_by_role("rowheader", name="Weaker matches")
    if weak_from:
        expect(line).to_be_visible()
        above = box_of(page.locator(f"[data-position='{weak_from - 1}']"))
        below = box_of(page.locator(f"[data-position='{weak_from}']"))
        box = box_of(line)
        assert above["y"] + above["height"] <= box["y"] < below["y"]
    else:
        expect(line).to_have_count(0)


def test_the_slider_leaves_out_hits_with_less_confidence(server, open_page, index):
    page = open_page(f"{server}/?q=a cat", height=2000)
    wait_for_rest(page)
    with page.expect_response("**/api/v1/search"):
        page.get_by_role("slider", name="Confidence").fill("0.5")
    expect(page.locator("#results")).not_to_have_attribute("aria-busy", "true")
    assert names(page) == names_by_api(index, "a cat", min_confidence=0.5)
    assert state(page)["confidence"] == ["0.5"]


# ---------------------------------------------------------------------- tiles


def test_a_sound_plays_from_the_moment_that_matched(server, open_page):
    def matched_late(route: Route) -> None:
        answer = route.fetch()
        found = answer.json()
        for hit in found["hits"]:
            hit["span"] = {"start": 10.0, "end": 15.0, "unit": "second"}
        route.fulfill(response=answer, json=found)

    page = open_page("about:blank")
    page.route("**/api/v1/search", matched_late)
    page.goto(f"{server}/?where={quote(json.dumps({'name': 'late.wav'}))}")
    wait_for_rest(page)
    shown(page).first.get_by_role("button", name="Play from 0:10").click()
    until(page, "document.querySelector('sound-wave').playing !== null")
    assert 9.9 <= page.evaluate("document.querySelector('sound-wave').playing") < 15
    shown(page).first.focus()
    page.keyboard.press("p")
    until(page, "document.querySelector('sound-wave').playing === null")


def test_one_sound_plays_at_a_time(server, open_page):
    page = open_page(f"{server}/?where={quote(json.dumps({'modality': 'audio'}))}")
    wait_for_rest(page)
    playing = "[...document.querySelectorAll('sound-wave')].map(one => one.playing !== null)"
    for at, expected in ((0, "true,false"), (0, "false,false"), (1, "false,true")):
        shown(page).nth(at).get_by_role("button", name=re.compile("Play|Pause")).click()
        until(page, f"({playing}).join() === '{expected}'")


def test_videos_and_animations_open_at_their_moment_and_documents_at_their_page(
    open_page, tmp_path, folder
):
    av = pytest.importorskip("av")
    pytest.importorskip("pypdfium2")
    pictures = [
        Image.open(folder / "photos" / name).convert("RGB").resize((320, 240))
        for name in ("coffee.png", "chelsea.png", "rocket.jpg")
    ]
    things = tmp_path / "things"
    things.mkdir()
    pictures[0].save(things / "report.pdf", save_all=True, append_images=pictures[1:])
    with av.open(str(things / "trip.webm"), "w") as video:
        stream = video.add_stream("libvpx", rate=1)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for picture in pictures:
            for _ in range(10):
                video.mux(stream.encode(av.VideoFrame.from_image(picture)))
        video.mux(stream.encode(None))
    first, *others = pictures
    first.save(things / "loop.gif", save_all=True, append_images=others, duration=3000)
    with Collection(tmp_path / "idx", model="mini", create=True) as collection:
        collection.add(things, video=True, pdf=True)
        [moment] = [hit.span for hit in collection.search("a cat") if hit.modality == "video"]
    assert moment.start >= 5
    with serving(tmp_path / "idx") as address:
        page = open_page(f"{address}/?q=a cat")
        page.get_by_role("gridcell", name="trip.webm").click()
        until(page, "document.querySelector('#viewer video')?.readyState >= 2")
        assert page.evaluate("document.querySelector('#viewer video').currentTime") == moment.start
        page.keyboard.press("Escape")
        page.get_by_role("gridcell", name="report.pdf").click()
        viewer = page.get_by_role("dialog")
        expect(viewer).to_contain_text("Page 2 of 3")
        page.keyboard.press("]")
        expect(viewer).to_contain_text("Page 3 of 3")
        viewer.get_by_role("button", name="Page before").click()
        expect(viewer).to_contain_text("Page 2 of 3")
        viewer.get_by_role("button", name="Page after").click()
        expect(viewer.locator(".stage img")).to_have_attribute("src", re.compile(r"page=3"))
        page.keyboard.press("Escape")
        tile = page.get_by_role("gridcell", name="loop.gif")
        expect(tile).to_contain_text("▶ 0:03")
        expect(tile.locator("img")).to_have_attribute("src", re.compile(r"at=3"))
        tile.click()
        expect(viewer).to_contain_text("best at 0:03")
        # it plays by itself
        expect(viewer.locator(".stage img")).to_have_attribute("src", re.compile(r"/media"))


def test_of_a_raw_photo_the_large_thumbnail_is_shown_however_it_is_enlarged(
    open_page, tmp_path, folder
):
    pytest.importorskip("rawpy")
    picture = Image.open(folder / "photos" / "chelsea.png").convert("RGB").resize((450, 300))
    preview = io.BytesIO()
    picture.save(preview, "JPEG")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "cat.nef").write_bytes(dng(picture, preview.getvalue()))
    picture.save(tmp_path / "raw" / "cat.png")
    with Collection(tmp_path / "idx", model="mini", create=True) as collection:
        collection.add(tmp_path / "raw")
    with serving(tmp_path / "idx") as address:
        page = open_page(f"{address}/?q=a cat")
        asked = []
        page.on("request", lambda request: "/media" in request.url and asked.append(request.method))
        for name, methods in (("cat.nef", ["HEAD"]), ("cat.png", ["HEAD", "HEAD", "GET"])):
            page.get_by_role("gridcell", name=name).click()
            image = page.get_by_role("dialog").locator(".stage img")
            expect(image).to_have_js_property("naturalWidth", 450)
            page.keyboard.press("+")
            source = "media" if name == "cat.png" else "thumbnail"
            expect(image).to_have_attribute("src", re.compile(source))
            page.wait_for_load_state("networkidle")
            assert asked[: len(methods)] == methods
            page.keyboard.press("Escape")


def test_a_file_that_is_gone_is_not_offered_to_be_downloaded(server, open_page):
    page = open_page(f"{server}/?q=a cat")
    viewer = page.get_by_role("dialog")
    page.get_by_role("gridcell", name="chelsea.png").click()
    expect(viewer.get_by_role("link", name="Download")).to_be_visible()
    page.keyboard.press("Escape")

    def gone(route: Route) -> None:
        route.fulfill(json={**route.fetch().json(), "available": False})

    page.route(re.compile(r"/items/\d+(\?|$)"), gone)
    page.get_by_role("gridcell", name="coffee.png").click()
    expect(viewer).to_contain_text("is gone since it was indexed")
    expect(viewer.get_by_role("link", name="Download")).to_have_count(0)


def test_a_text_is_shown_by_its_passage_with_the_words_marked(server, open_page):
    page = open_page(f"{server}/?q=telescopes")
    text = page.get_by_role("gridcell", name="a-week-off.md")
    expect(text.locator("mark")).to_have_text("telescope")


def test_a_document_is_shown_by_its_passages_with_their_headings(open_page, tmp_path):
    pytest.importorskip("anydoc")
    things = tmp_path / "things"
    things.mkdir()
    chapters = "<h1>Animals</h1><p>A wolf.<h2>Birds</h2><p>A kingfisher.<script>alert(1)</script>"
    (things / "zoo.html").write_text(chapters)
    with Collection(tmp_path / "idx", model="mini", create=True) as collection:
        collection.add(things)
    with serving(tmp_path / "idx") as address:
        page = open_page(f"{address}/?q=kingfisher")
        tile = page.get_by_role("gridcell", name="zoo.html")
        expect(tile).to_contain_text("§ 2")
        tile.click()
        shown = page.get_by_role("dialog").locator("article p")
        expect(shown).to_have_text(["Animals\nA wolf.", "Animals › Birds\nA kingfisher."])
        expect(page.locator("article p.matched")).to_contain_text("A kingfisher.")


def test_markup_in_names_and_texts_is_text(server, open_page):
    page = open_page(f"{server}/?q=zeppelin")
    wait_for_rest(page)
    tile = shown(page).first
    expect(tile).to_contain_text(MARKUP)
    tile.click()
    viewer = page.get_by_role("dialog")
    expect(viewer.get_by_role("heading", level=2)).to_have_text(f"{MARKUP}.txt")
    expect(viewer.locator("article")).to_contain_text(MARKUP)
    assert page.locator("[onerror]").count() == 0
    expect(page).to_have_title("zeppelin · mmsearch")


# ---------------------------------------------------------------------- facets


def test_facets_narrow_the_search_and_chips_widen_it(server, open_page):
    page = open_page(f"{server}/")
    wait_for_rest(page)
    page.get_by_role("button", name="sound 2").click()
    expect(count(page)).to_have_text("2 items")
    assert json.loads(state(page)["where"][0]) == {"modality": "audio"}
    page.locator("#chips").get_by_role("button", name="Remove sound").click()
    expect(count(page)).to_have_text("22 items")
    page.get_by_role("button", name="texts 8").click()
    expect(count(page)).to_have_text("8 items")


@pytest.fixture
def months(server, open_page) -> Page:
    """The page with a histogram of January, February and May 2019."""
    page = open_page("about:blank")
    counts = [{"value": f"2019-{month:02}", "count": month} for month in (1, 2, 5)]
    facets = {"kind": [], "year": [], "folder": [], "camera": [], "tag": [], "month": counts}
    page.route("**/api/v1/facets", lambda route: route.fulfill(json={**facets, "counted": 8}))
    page.goto(f"{server}/")
    wait_for_rest(page)
    page.wait_for_load_state("networkidle")  # the folders are known, so nothing is drawn anew
    expect(page.locator("search-facets .bars span")).to_have_count(5)  # with March and April
    return page


def test_months_are_narrowed_by_handles(months):
    months.get_by_label("From", exact=True).press("ArrowRight")
    until(months, "location.search.includes('2019')")
    [written] = state(months)["where"]
    assert json.loads(written) == {"date": {"$gte": "2019-02", "$lte": "2019-05"}}


def test_months_are_narrowed_by_dragging(months):
    box = box_of(months.locator("search-facets .bars"))
    months.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 20)
    months.mouse.down()
    months.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 20, steps=3)
    months.mouse.up()
    until(months, "location.search.includes('2019')")
    [written] = state(months)["where"]
    assert json.loads(written) == {"date": {"$gte": "2019-02", "$lte": "2019-03"}}


def test_new_counts_wait_until_a_handle_is_let_go(months):
    box = box_of(months.locator("search-facets .bars"))
    months.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 20)
    months.mouse.down()
    with months.expect_response("**/api/v1/facets"):
        months.evaluate("import('/static/app.js').then(({ app }) => app.refresh())")
    months.wait_for_timeout(100)
    months.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 20, steps=3)
    months.mouse.up()
    until(months, "location.search.includes('2019')")


def test_the_handles_keep_the_focus_when_counts_change(months):
    handle = months.get_by_label("From", exact=True)
    with months.expect_response("**/api/v1/facets"):
        handle.press("ArrowRight")
    months.wait_for_load_state("networkidle")
    expect(handle).to_be_focused()


# ---------------------------------------------------------------------- the viewer


def test_a_hit_is_opened_moved_from_and_closed(server, open_page):
    page = open_page(f"{server}/?q=a cat", height=1000)
    wait_for_rest(page)
    found = names(page)
    viewer = page.get_by_role("dialog")
    title = viewer.get_by_role("heading", level=2)
    page.get_by_role("gridcell", name="chelsea.png").click()
    at = found.index("chelsea.png")
    expect(title).to_have_text("chelsea.png")
    expect(viewer.locator(".stage img")).to_have_js_property("naturalWidth", 451)
    expect(viewer.get_by_role("row", name="picture")).to_be_visible()
    expect(viewer.get_by_text("451 × 300")).to_be_visible()
    terms = viewer.locator("dt").all_inner_texts()
    told = dict(zip(terms, viewer.locator("dd").all_inner_texts(), strict=True))
    assert (told["aperture"], told["exposure"], told["my note"]) == ("f/2.8", "1/250 s", "x")
    page.keyboard.press("+")
    assert "scale(1.5)" in viewer.locator(".stage img").get_attribute("style")
    page.keyboard.press("ArrowRight")
    expect(title).to_have_text(found[at + 1])
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    expect(page.locator(f"[data-position='{at + 1}']")).to_be_focused()
    assert state(page) == {"q": ["a cat"]}


def test_a_link_opens_a_hit_and_back_closes_it(server, open_page):
    page = open_page(f"{server}/?q=a cat")
    page.get_by_role("gridcell", name="chelsea.png").click()
    viewer = page.get_by_role("dialog")
    expect(viewer).to_be_visible()
    other = open_page(page.url)
    expect(other.get_by_role("dialog").get_by_role("heading", level=2)).to_have_text("chelsea.png")
    other.get_by_role("button", name="Close").click()
    expect(other.get_by_role("dialog")).to_be_hidden()
    page.go_back()
    expect(viewer).to_be_hidden()
    assert state(page) == {"q": ["a cat"]}


def test_a_double_click_opens_a_hit_once(server, open_page):
    page = open_page(f"{server}/?q=cat")
    wait_for_rest(page)
    before = page.evaluate("history.length")
    shown(page).first.dblclick()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.evaluate("history.length") == before + 1
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert state(page) == {"q": ["cat"]}


def test_an_item_that_is_gone_leaves_no_trace_in_the_address(server, open_page):
    page = open_page(f"{server}/?q=cat&open=999999")
    expect(page.get_by_role("alert")).to_be_visible()
    until(page, "location.search === '?q=cat'")


def test_what_was_copied_is_said_in_the_viewer(server, open_page):
    page = open_page(f"{server}/?q=cat", permissions=["clipboard-read", "clipboard-write"])
    wait_for_rest(page)
    shown(page).first.click()
    page.get_by_role("dialog").get_by_role("button", name="Copy path").click()
    expect(page.get_by_role("dialog").get_by_text("Copied the path.")).to_be_visible()


def test_searches_go_on_from_an_opened_hit(server, open_page):
    page = open_page(f"{server}/?q=a cat")
    page.get_by_role("gridcell", name="chelsea.png").click()
    viewer = page.get_by_role("dialog")
    viewer.get_by_role("button", name="More like this").click()
    expect(viewer).to_be_hidden()
    expect(page.locator("#chips .label")).to_have_text("chelsea.png")
    assert state(page)["part"][0].startswith("item:")
    shown(page).first.click()
    viewer.get_by_role("button", name="Same folder").click()
    expect(count(page)).to_have_text("12 items")
    expect(page.locator("#chips .label")).to_have_text("photos")


# ---------------------------------------------------------------------- selection


def test_a_range_is_selected_copied_and_tagged(server, open_page, index):
    page = open_page(f"{server}/?q=rocket", permissions=["clipboard-read", "clipboard-write"])
    wait_for_rest(page)
    shown(page).nth(1).focus()
    shown(page).nth(3).click(modifiers=["Shift"])
    with_player = shown(page).evaluate_all("all => all.map(one => one.matches('.audio'))")
    other = shown(page).nth(with_player.index(False, 4))
    other.click(modifiers=["Control"])
    expect(other).to_have_attribute("aria-selected", "true")
    other.click(modifiers=["Control"])
    bar = page.get_by_role("region", name="Selection")
    expect(bar).to_contain_text("3 selected")
    bar.get_by_role("button", name="Copy paths").click()
    expect(page.locator("#notice")).to_have_text("Copied 3 paths.")
    copied = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert [Path(path).name for path in copied] == names(page)[1:4]
    bar.get_by_label("Tag").fill("my pick")
    bar.get_by_role("button", name="Add tag").click()
    expect(page.locator("#notice")).to_have_text("Tagged 3 as my pick.")
    expect(bar).to_be_hidden()
    with Collection(index) as collection:
        tagged = {
            Path(hit.path).name for hit in collection.search("rocket", where={"tag": "my pick"})
        }
    assert tagged == set(names(page)[1:4])


def test_selected_hits_serve_as_good_and_bad_examples(server, open_page):
    page = open_page(f"{server}/?q=a cat")
    wait_for_rest(page)
    shown(page).nth(0).focus()
    page.keyboard.press("x")
    page.keyboard.press("Shift+ArrowRight")
    page.get_by_role("button", name="Good examples").click()
    expect(page.locator("#chips .label")).to_have_text("2 good examples")
    assert len(state(page)["like"][0].split(",")) == 2


# ---------------------------------------------------------------------- keyboard


def test_the_keyboard_alone_finds_opens_selects_and_closes(server, open_page):
    page = open_page(f"{server}/")
    wait_for_rest(page)
    page.keyboard.press("/")
    page.keyboard.type("rocket")
    until(page, "location.search === '?q=rocket'")
    expect(page.locator("#results")).not_to_have_attribute("aria-busy", "true")
    page.keyboard.press("ArrowDown")
    expect(page.locator("[data-position='0']")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.locator("[data-position='1']")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.locator("[data-position='1']")).to_be_focused()
    page.keyboard.press("Space")
    expect(page.get_by_role("region", name="Selection")).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")  # one layer at a time
    expect(page.get_by_role("dialog", name="Keys")).to_be_hidden()
    expect(page.get_by_role("region", name="Selection")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("region", name="Selection")).to_be_hidden()


def test_one_tile_is_in_the_tab_order(server, open_page):
    page = open_page(f"{server}/?q=rocket")
    wait_for_rest(page)
    shown(page).nth(2).focus()
    assert shown(page).locator("xpath=self::*[@tabindex='0']").count() == 1
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    expect(page.locator("[data-position='2']")).to_be_focused()


# ---------------------------------------------------------------------- screens


def test_on_a_phone_nothing_is_wider_than_the_screen(server, open_page):
    page = open_page(f"{server}/?q=rocket", width=390, height=844, has_touch=True, is_mobile=True)
    wait_for_rest(page)
    until(page, "document.documentElement.scrollWidth === 390")  # not yet while it is drawn
    filters = page.get_by_role("complementary", name="Filters")
    expect(filters).to_be_hidden()
    page.get_by_role("button", name="Filters").click()
    expect(filters).to_be_visible()
    check_with_axe(page)
    page.keyboard.press("Escape")
    expect(filters).to_be_hidden()
    shown(page).first.tap()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_any_state(server, open_page, scheme):
    page = open_page("about:blank")
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{server}/?q=a cat")
    wait_for_rest(page)
    # the same elements as in light, in other colours
    rules = ["color-contrast"] if scheme == "dark" else []
    page.wait_for_selector("search-facets h3")

    brightness = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (int(brightness.split("(")[1].split(",")[0]) < 128) == (scheme == "dark")
    shown(page).first.focus()
    check_with_axe(page, *rules)
    page.keyboard.press("x")
    page.keyboard.press("m")  # a chip
    check_with_axe(page, *rules)
    for kind in ("image", "audio", "text"):
        page.locator(f".tile.{kind}").first.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_be_visible()
        check_with_axe(page, *rules)
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
    page.keyboard.press("?")
    check_with_axe(page, *rules)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Index").click()
    expect(page.get_by_role("dialog", name="Index")).to_be_visible()
    check_with_axe(page, *rules)


# ---------------------------------------------------------------------- states


def test_an_empty_collection_offers_to_index_a_folder_and_shows_its_progress(
    open_page, tmp_path, folder
):
    with serving(tmp_path / "new") as address:
        page = open_page(f"{address}/")
        expect(page.get_by_role("heading", name="Nothing is indexed yet")).to_be_visible()
        page.get_by_label("Folder to index").fill("/there/is/none")
        page.get_by_role("button", name="Index it").click()
        expect(page.get_by_role("alert")).to_contain_text("/there/is/none")
        check_with_axe(page)
        page.get_by_label("Folder to index").fill(str(folder / "texts"))
        page.get_by_role("button", name="Index it").click()
        expect(page.locator("index-progress")).to_contain_text("Indexing:")
        expect(page.get_by_role("alert")).to_be_hidden()
        expect(count(page)).to_have_text("8 items", timeout=60_000)
        expect(page.locator("#empty")).to_be_hidden()
        expect(page.locator("index-progress")).to_be_hidden()


def test_the_first_results_are_shown_while_the_rest_is_indexed(open_page, tmp_path):
    with serving(tmp_path / "new") as address:
        page = open_page(f"{address}/")
        wait_for_rest(page)
        status = page.request.get(f"{address}/api/v1/status").json()
        status["items"] = {"image": 3}
        hits = {"hits": [], "total": 3, "weak_from": None, "facets": None}
        job = {"id": "1", "state": "running", "done": 3, "total": 9, "report": None, "error": None}
        event = f"event: job\ndata: {json.dumps(job)}\n\n"
        page.route("**/api/v1/status*", lambda route: route.fulfill(json=status))
        page.route("**/api/v1/search*", lambda route: route.fulfill(json=hits))
        page.route(
            "**/api/v1/jobs*",
            lambda route: route.fulfill(json=[job] if route.request.method == "GET" else job),
        )
        page.route(
            "**/api/v1/jobs/1/events*",
            lambda route: route.fulfill(content_type="text/event-stream", body=event),
        )
        page.get_by_label("Folder to index").fill("/photos")
        page.get_by_role("button", name="Index it").click()
        expect(count(page)).to_contain_text("items")
        expect(page.locator("index-progress")).to_have_text("Indexing: 3 of 9 filesCancel")
        expect(page.locator("#empty")).to_be_hidden()


def test_a_folder_that_is_away_is_said_after_indexing(open_page, tmp_path, folder):
    photos = tmp_path / "photos"
    shutil.copytree(folder / "texts", photos)
    with Collection(tmp_path / "index", model="mini", create=True) as collection:
        collection.add(photos)
    photos.rename(tmp_path / "moved")
    with serving(tmp_path / "index") as address:
        page = open_page(f"{address}/")
        wait_for_rest(page)
        page.get_by_role("button", name="Index", exact=True).click()
        page.get_by_role("button", name="Bring it up to date").click()
        expect(page.locator("#notice")).to_contain_text(f"{photos} is not there", timeout=60_000)


def test_a_server_that_is_gone_is_waited_for(open_page, index):
    with serving(index) as address:
        page = open_page(f"{address}/")
        expect(count(page)).to_have_text("22 items")
        wait_for_rest(page)
    banner = page.locator("#banner")
    page.get_by_role("searchbox").fill("a cat")
    expect(banner).to_contain_text("does not answer")
    check_with_axe(page)
    with serving(index, port=urlsplit(address).port):
        expect(count(page)).to_contain_text("good match", timeout=20_000)
        expect(banner).to_contain_text("is back")


def test_a_busy_server_is_asked_again_after_the_time_it_names(server, open_page):
    page = open_page(f"{server}/")
    wait_for_rest(page)
    refused: list[float] = []

    def refuse_once(route: Route) -> None:
        if refused:
            route.continue_()
            return
        refused.append(time.monotonic())
        route.fulfill(
            status=503,
            headers={"Retry-After": "1", "Content-Type": "application/problem+json"},
            body=json.dumps({"detail": "the models are being loaded"}),
        )

    page.route("**/api/v1/search", refuse_once)
    page.get_by_role("searchbox").fill("a cat")
    expect(page.locator("#banner")).to_contain_text("the models are being loaded. Trying again")
    expect(count(page)).to_contain_text("good match")
    assert time.monotonic() - refused[0] >= 1
    expect(page.locator("#banner")).to_be_hidden()


def test_without_the_token_the_page_leads_to_the_login(open_page, index):
    with serving(index, token="open sesame") as address:
        page = open_page(f"{address}/?q=a cat")
        assert urlsplit(page.url).path == "/login"
        check_with_axe(page)
        page.locator("input[name=token]").fill("open sesame")
        page.locator("input[name=token]").press("Enter")
        page.goto(f"{address}/?q=a cat")
        expect(count(page)).to_contain_text("good match")
        wait_for_rest(page)
        page.context.clear_cookies()
        page.get_by_role("searchbox").fill("a dog")
        expect(page.get_by_role("link", name="Log in")).to_be_visible()


def test_a_search_that_failed_is_tried_again_with_enter(server, open_page):
    page = open_page(f"{server}/")
    wait_for_rest(page)
    page.route("**/api/v1/search", lambda route: route.fulfill(status=500, json={"detail": "Oh."}))
    box = page.get_by_role("searchbox")
    box.fill("cat")
    expect(page.get_by_role("alert")).to_have_text("Oh.")
    page.unroute("**/api/v1/search")
    box.press("Enter")
    expect_first(page, "cat-diary.txt")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_filter_that_makes_no_sense_is_explained(server, open_page):
    page = open_page(f"{server}/?where={quote(json.dumps({'size': {'$glob': 3}}))}")
    expect(page.get_by_role("alert")).to_contain_text("size takes no")


def test_nothing_passes_a_filter(server, open_page):
    page = open_page(f"{server}/?where={quote(json.dumps({'camera': 'none such'}))}")
    wait_for_rest(page)
    page.get_by_role("button", name="Clear the filters").click()
    expect(count(page)).to_have_text("22 items")
