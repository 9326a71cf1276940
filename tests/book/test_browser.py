"""The built site in Chromium: nothing from elsewhere, nothing broken, usable by everybody, explorers that explore."""

import asyncio
import io
import re
import shutil
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import numpy as np
import pytest
from bs4 import BeautifulSoup
from filelock import FileLock
from PIL import Image

from gensrc import widgets
from gensrc.book.repository import BookError, find_root
from gensrc.book.site import build as site

reason = "the Python package playwright is not installed"
sync_api = pytest.importorskip("playwright.sync_api", reason=reason)
async_api = pytest.importorskip("playwright.async_api", reason=reason)
pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = find_root(Path(__file__))
CHROMIUM = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome", "chrome")]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
AXE = ROOT / "book" / "node_modules" / "axe-core" / "axe.min.js"
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
SMALL_PHONE = {"width": 320, "height": 800}
SIDE_BY_SIDE = 4  # pages open at once in a survey: two keep two cores busy while two others load


@pytest.fixture(scope="module")
def folder():
    """The site, built from the sources as they are; a strict build that fails fails the tests."""
    (ROOT / "_build").mkdir(exist_ok=True)
    with FileLock(ROOT / "_build" / ".lock"):
        try:
            return site.build(ROOT)
        except BookError as error:
            pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="module")
def chromium() -> str:
    path = next(filter(None, CHROMIUM), None)
    if path is None:
        pytest.skip("no Chromium on this machine: the site was NOT tried in a browser (apt install chromium)")
    return path


@pytest.fixture(scope="module")
def browser(chromium):
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield running
        running.close()


def serve(folder: Path):
    running = site.server(folder)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    return running, f"http://127.0.0.1:{running.server_port}/"


@pytest.fixture(scope="module")
def base(folder):
    running, address = serve(folder)
    yield address
    running.shutdown()
    running.server_close()


@pytest.fixture(scope="module")
def pages(folder) -> list[str]:
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.html"))
    # index.html leads on to the first page at once, and has a test of its own.
    return [name for name in found if not name.startswith(("_static/", "_sources/")) and name != "index.html"]


@pytest.fixture(scope="module")
def soups(folder, pages) -> dict[str, BeautifulSoup]:
    return {name: BeautifulSoup((folder / name).read_text(encoding="utf8"), "html.parser") for name in pages}


@pytest.fixture
def open_page(browser, base):
    """Open a page in a context of its own; `record` is what the page asked for and complained about."""
    contexts = []

    def open_page(name: str, *, viewport=DESK, address=base, **options):
        contexts.append(browser.new_context(viewport=viewport, **options))
        page = contexts[-1].new_page()
        page.record = Record.of(page)
        page.goto(urljoin(address, name), wait_until="networkidle")
        return page

    yield open_page
    for context in contexts:
        context.close()


@dataclass
class Record:
    """What a page asked for, what was not there, and what it said on the console."""

    asked: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, page) -> "Record":
        record = cls()
        for event, hear in record.ears().items():
            page.on(event, hear)
        return record

    @contextmanager
    def listening(self, page):
        """Take down what a page does meanwhile; what it breaks off when the next is opened there is not its fault."""
        ears = self.ears()
        for event, hear in ears.items():
            page.on(event, hear)
        yield
        for event, hear in ears.items():
            page.remove_listener(event, hear)

    def ears(self) -> dict[str, Callable]:
        return {
            "request": lambda request: self.asked.append(request.url),
            "requestfailed": lambda request: self.missing.append(request.url),
            "response": lambda response: response.status >= 400 and self.missing.append(response.url),
            "console": lambda message: message.type == "error" and self.errors.append(message.text),
            "pageerror": lambda error: self.errors.append(str(error)),
        }


# --- Every page ------------------------------------------------------------------------------------

MAPS = """[...document.querySelectorAll('.gensrc-explore-map')].map(
    map => [map, map.querySelector('img')].map(e => [e.offsetWidth, e.offsetHeight]))"""
# In a listing the first word of each colour stands for the rest, which is two thirds of all that axe would look at;
# the rest becomes text of the line that it stands in.
MERGE_REPEATED_WORDS = """
for (const listing of document.querySelectorAll('pre')) {
  const seen = new Map(), repeated = [];
  for (const word of listing.querySelectorAll('span:not([id], [style], [title], [role], [tabindex])')) {
    if (word.childElementCount) continue;
    const { color, backgroundColor, fontSize, fontWeight, opacity } = getComputedStyle(word);
    const style = [color, backgroundColor, fontSize, fontWeight, opacity].join();
    const beside = seen.get(word.parentElement) ?? new Set();
    if (beside.has(style)) repeated.push(word);
    seen.set(word.parentElement, beside.add(style));
  }
  for (const word of repeated) word.replaceWith(word.textContent);
}"""
# The one slow rule whose verdict is at most "moderate", which is not asked for.
AXE_OPTIONS = "{resultTypes: ['violations'], rules: {region: {enabled: false}}}"


@dataclass
class Visit:
    """What one page did and looked like, opened in one way."""

    maps: list[list[list[int]]]  # of every map of an explorer: its size and the size of its picture
    passed: int  # how many of axe's rules found the page sound
    faults: list[tuple]  # the rules that found it seriously or critically unsound
    wide: dict[int, int] = field(default_factory=dict)  # width of the window -> width of what can be scrolled to
    record: Record = field(default_factory=Record)


def survey(chromium: str, names: list[str], visit: Callable[..., Awaitable[Visit]], **options) -> dict[str, Visit]:
    """`visit` every page once, several side by side, each side in a window and context of its own."""
    found, left = {}, iter(names)

    async def one_after_another(browser) -> None:
        page = await browser.new_page(**options)  # one for all, since a window of its own costs as much as a page
        for name in left:  # whoever is free takes the next
            found[name] = await visit(page, name)

    async def all_sides() -> None:
        async with async_api.async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            await asyncio.gather(*[one_after_another(browser) for _ in range(SIDE_BY_SIDE)])
            await browser.close()

    # In a thread, since the browser of the other tests keeps this thread's event loop.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, all_sides()).result()
    return found


# The theme puts what scrolls into the order of Tab a moment after the page has changed, and later on a busy machine.
TAB_STOPS_ARE_SET = """() => [...document.querySelectorAll('pre')].every(
    e => e.tabIndex === 0 || (e.scrollWidth <= e.clientWidth && e.scrollHeight <= e.clientHeight))"""


async def examine(page) -> Visit:
    """Measure the maps of an open page, then have axe look at it."""
    await page.evaluate("window.MathJax?.startup?.promise")
    maps = await page.evaluate(MAPS)
    await page.evaluate(MERGE_REPEATED_WORDS)
    with suppress(async_api.TimeoutError):  # if they never are, axe says which is missing
        await page.wait_for_function(TAB_STOPS_ARE_SET, timeout=5000)
    await page.evaluate(AXE.read_text(encoding="utf8"))
    result = await page.evaluate(f"axe.run({AXE_OPTIONS})")
    grave = [fault for fault in result["violations"] if fault["impact"] in ("serious", "critical")]
    faults = [(fault["id"], [node["html"][:150] for node in fault["nodes"][:3]]) for fault in grave]
    return Visit(maps, len(result["passes"]), faults)


async def unfold(page) -> None:
    """Open all that is folded, once the formulas are set."""
    await page.evaluate("window.MathJax?.startup?.promise.then(() => new Promise(requestAnimationFrame))")
    await page.evaluate("document.querySelectorAll('details:not([open])').forEach(e => { e.open = e.ours = true; })")


@pytest.fixture(scope="module")
def at_desk(chromium, base, pages) -> dict[str, Visit]:
    """Every page in light colours on a desk, scrolled through."""

    async def visit(page, name: str) -> Visit:
        record = Record()
        with record.listening(page):
            await page.goto(base + name, wait_until="networkidle")
            await page.evaluate("scrollTo(0, document.body.scrollHeight)")
            await page.wait_for_load_state("networkidle")
            visit = await examine(page)
        visit.record = record
        return visit

    return survey(chromium, pages, visit, viewport=DESK, color_scheme="light", reduced_motion="reduce")


@pytest.fixture(scope="module")
def on_phone(chromium, base, pages) -> dict[str, Visit]:
    """Every page in dark colours on a phone, whose width is measured in both sizes.

    It is loaded on the smaller one. The script that lets a wide formula scroll by itself measures only then, and what
    is too wide on the larger one is so on the smaller.
    """

    async def visit(page, name: str) -> Visit:
        await page.set_viewport_size(SMALL_PHONE)
        await page.goto(base + name)
        await unfold(page)
        wide = {}
        for size in (SMALL_PHONE, PHONE):
            await page.set_viewport_size(size)
            wide[size["width"]] = await page.evaluate("document.documentElement.scrollWidth")
        await page.evaluate("document.querySelectorAll('details').forEach(e => { if (e.ours) e.open = false; })")
        visit = await examine(page)
        visit.wide = wide
        return visit

    return survey(chromium, pages, visit, viewport=SMALL_PHONE, color_scheme="dark", reduced_motion="reduce")


@pytest.fixture(params=["at_desk", "on_phone"])
def visits(request) -> dict[str, Visit]:
    """Every page, in both ways."""
    return request.getfixturevalue(request.param)


def complaints(visits: dict[str, Visit], choose) -> dict[str, list]:
    return {name: found for name, visit in visits.items() if (found := choose(visit))}


def test_no_page_asks_another_host_for_anything(at_desk, base):
    assert len(at_desk) > 8, "the site has lost its pages"

    def outside(visit):
        return [url for url in visit.record.asked if not url.startswith((base, "data:", "blob:"))]

    assert complaints(at_desk, outside) == {}


def test_everything_that_a_page_asks_for_is_there_and_no_page_complains(at_desk):
    assert all(visit.record.asked for visit in at_desk.values())
    assert complaints(at_desk, lambda visit: visit.record.missing) == {}
    assert complaints(at_desk, lambda visit: visit.record.errors) == {}


def test_axe_finds_nothing_serious(visits):
    assert sum(visit.passed for visit in visits.values()) > 10 * len(visits), "axe has looked at nothing"
    assert complaints(visits, lambda visit: visit.faults) == {}


@pytest.mark.parametrize("width", [390, 320])
def test_no_page_scrolls_sideways_on_a_phone(on_phone, width):
    assert complaints(on_phone, lambda visit: [visit.wide[width]] if visit.wide[width] > width else []) == {}


def test_a_map_is_as_large_as_its_picture(visits):
    """Else the marker, which is placed in parts of the map, stands beside the picture that it means."""
    assert complaints(visits, lambda visit: visit.maps), "no page has a map"
    assert complaints(visits, lambda visit: [[map, image] for map, image in visit.maps if map != image]) == {}


def test_every_picture_has_its_text(soups):
    without = []
    for name, soup in soups.items():
        for image in soup.find_all("img"):
            if not image.get("alt") and image.find_parent(attrs={"aria-hidden": "true"}) is None:
                without.append((name, str(image)[:150]))
    assert without == []


def test_every_link_inside_the_site_leads_to_a_page_and_a_place_on_it(folder, soups):
    places = {name: {tag["id"] for tag in soup.find_all(id=True)} for name, soup in soups.items()}
    broken = []
    for name, soup in soups.items():
        for link in {tag["href"] for tag in soup.find_all("a", href=True)}:
            target = urlsplit(urljoin(f"http://site/{name}", link))
            if target.netloc != "site":
                continue
            path = unquote(target.path).lstrip("/") or "index.html"
            place = unquote(target.fragment)
            if not (folder / path).is_file() or (place and path in places and place not in places[path]):
                broken.append((name, link))
    assert broken == []


def test_every_page_can_be_shared(folder, soups):
    for name, soup in soups.items():
        if name in ("404.html", "search.html"):
            continue
        shared = {tag["property"]: tag["content"] for tag in soup.find_all("meta", property=True)}
        assert shared["og:title"], name
        assert shared["og:description"], name
        assert shared["og:url"].startswith("https://"), name
        assert shared["og:image"].endswith("/_static/card.png"), name
    assert Image.open(folder / "_static" / "card.png").size == (1200, 630)


def test_every_chapter_opens_in_colab_from_the_branch_that_is_published(folder, pages):
    chapters = [name for name in pages if name.startswith("notebooks/")]
    assert chapters, "there is no chapter"
    for name in chapters:
        links = re.findall(r'href="https://colab\.research\.google\.com/([^"]*)"', (folder / name).read_text("utf8"))
        path = name.removesuffix(".html") + ".ipynb"
        assert any(re.fullmatch(rf"github/[^/]+/[^/]+/blob/published/{re.escape(path)}", link) for link in links), name
        assert (ROOT / path).is_file()


# --- Single pages ----------------------------------------------------------------------------------


def test_the_missing_page_works_from_a_deep_address(open_page):
    page = open_page("a/page/that/never/was.html")
    assert page.locator("article h1").inner_text().startswith("This page does not exist")
    assert page.record.missing == [page.url], "all that it loads is there"
    page.get_by_role("link", name="the first page").click()
    assert page.url.endswith("/book/intro.html")


def test_the_first_address_leads_to_the_first_page(open_page):
    page = open_page("")
    page.wait_for_url("**/book/intro.html")


def test_the_search_finds_a_word(open_page):
    page = open_page("search.html?q=errata")
    page.locator("#search-results .search a").first.wait_for()
    assert page.record.missing == []


def test_a_reader_chooses_the_colours_and_they_stay(open_page):
    page = open_page("book/intro.html", color_scheme="dark")
    assert page.locator("html").get_attribute("data-theme") == "dark"
    button = page.get_by_role("button", name="Light, dark or system colours")
    button.click()
    assert page.locator("html").get_attribute("data-theme") == "light"
    page.goto(page.url.replace("intro", "notation"))
    assert page.locator("html").get_attribute("data-theme") == "light"


def test_without_a_script_a_page_reads_in_light_colours(open_page):
    page = open_page("book/intro.html", color_scheme="dark", java_script_enabled=False)
    assert page.locator("html").get_attribute("data-theme") == "light"
    assert page.locator("article h1").is_visible()


def test_the_sidebar_opens_on_a_phone_and_a_key_closes_it(open_page):
    page = open_page("book/notation.html", viewport=PHONE)
    link = page.get_by_role("link", name="Glossary", exact=True)
    assert not link.is_visible()
    page.get_by_role("button", name="All pages").click()
    sync_api.expect(link).to_be_visible()
    page.keyboard.press("Escape")
    sync_api.expect(link).to_be_hidden()


def test_the_focus_is_seen(open_page):
    page = open_page("book/how-to-read.html")
    page.locator("article a").first.focus()
    page.keyboard.press("Tab")
    style = page.evaluate("getComputedStyle(document.activeElement).outline")
    assert "3px" in style
    assert "none" not in style


def test_paper_gets_the_text_alone_in_light_colours_with_all_that_is_folded(open_page, folder, pages):
    chapter = next(name for name in pages if name.startswith("notebooks/"))
    page = open_page(chapter, color_scheme="dark")
    folded = page.locator("details, .toggle-hidden").count()
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    for part in (".bd-sidebar-primary", ".bd-sidebar-secondary", ".bd-header-article", ".prev-next-footer"):
        assert not page.locator(part).is_visible(), part
    assert page.locator("article h1").first.is_visible()
    assert page.locator("html").get_attribute("data-theme") == "light"
    assert folded, "the chapter has folded answers"
    closed = "document.querySelectorAll('details:not([open])').length"
    assert page.evaluate(closed) == 0
    for answer in page.locator(".admonition.dropdown > :last-child").all():
        assert answer.is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("html").get_attribute("data-theme") == "dark"


# --- Explorers -------------------------------------------------------------------------------------


def tint(place: int) -> np.ndarray:
    """A picture in a colour of its own."""
    return np.full((4, 6, 3), [place % 16 * 16, place // 16 * 16, 128]) / 255


def place_in(page, index=0, part=".gensrc-explore-view") -> int:
    """Which of the tinted pictures an explorer shows, by the colour at its middle."""
    shot = page.locator(part).nth(index).screenshot()
    array = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))
    red, green, blue = array[array.shape[0] // 2, array.shape[1] // 2].tolist()
    assert blue == 128
    return green // 16 * 16 + red // 16


@pytest.fixture(scope="module")
def explorers(tmp_path_factory):
    """A bare page with three explorers of one, two and three controls; value i of control c counts i * 4**c."""
    shown = []
    explore = pytest.MonkeyPatch()
    explore.setattr(widgets, "display", lambda data, **_: shown.append(data["text/html"]))
    texts = {"caption": "Tints.", "alt": "A colour that tells which picture this is."}
    for count in (1, 2, 3):
        controls = {f"c{i}": [4**i * value for value in range(4)] for i in range(count)}
        widgets.explore(lambda **v: tint(sum(v.values())), name=f"tints-{count}", **texts, **controls)
    explore.undo()
    folder = tmp_path_factory.mktemp("explorers")
    head = '<title>Explorers</title><link rel="icon" href="data:,">'
    page = f'<!DOCTYPE html><html lang="en"><head>{head}</head>{"".join(shown)}{shown[0]}</html>'
    (folder / "index.html").write_text(page, encoding="utf8")
    running, address = serve(folder)
    yield address
    running.shutdown()
    running.server_close()


def test_the_keyboard_moves_every_slider_to_the_picture_that_it_names(open_page, explorers):
    page = open_page("", address=explorers)
    for index, count in enumerate((1, 2, 3)):
        expected = sum(2 * 4**c for c in range(count))
        assert place_in(page, index) == expected, "the middle"
        sliders = page.locator("figure").nth(index).locator("input")
        assert sliders.count() == count
        for control in range(count):
            sliders.nth(control).focus()
            for key, step in (("ArrowRight", 1), ("Home", -3), ("ArrowRight", 1), ("End", 2), ("ArrowLeft", -1)):
                page.keyboard.press(key)
                expected += step * 4**control
                assert place_in(page, index) == expected, (count, control, key)
            assert sliders.nth(control).get_attribute("aria-valuetext") == str(2 * 4**control)
    assert page.record.errors == []


def test_the_mouse_moves_a_slider_and_no_other_explorer(open_page, explorers):
    page = open_page("", address=explorers)
    slider = page.locator("figure").nth(0).locator("input")
    box = slider.bounding_box()
    page.mouse.click(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2)
    assert slider.get_attribute("aria-valuetext") == "3"
    assert [place_in(page, index) for index in (0, 1, 3)] == [3, 2 + 2 * 4, 2]


@pytest.mark.parametrize("area", [".gensrc-explore-view", ".gensrc-explore-map"])
def test_a_pointer_dragged_over_a_plane_chooses_right_and_up(open_page, explorers, area):
    page = open_page("", address=explorers)
    figure = page.locator("figure").nth(1)
    figure.scroll_into_view_if_needed()
    box = figure.locator(area).bounding_box()

    def at(right, up):
        return box["x"] + right * box["width"], box["y"] + (1 - up) * box["height"]

    page.mouse.move(*at(0.1, 0.1))
    page.mouse.down()
    assert place_in(page, 1) == 0
    page.mouse.move(*at(0.9, 0.1))
    assert place_in(page, 1) == 3
    page.mouse.move(*at(0.4, 0.9))
    assert place_in(page, 1) == 1 + 3 * 4
    page.mouse.move(*at(1.5, 1.5))
    assert place_in(page, 1) == 3 + 3 * 4, "outside, the nearest edge"
    page.mouse.up()
    page.mouse.move(*at(0.1, 0.1))
    assert place_in(page, 1) == 3 + 3 * 4, "let go"
    assert [slider.input_value() for slider in figure.locator("input").all()] == ["3", "3"]


def test_without_a_script_the_middle_picture_stands_alone(open_page, explorers):
    page = open_page("", address=explorers, java_script_enabled=False)
    assert [place_in(page, index) for index in range(4)] == [2, 10, 42, 2]
    assert page.locator("input:visible").count() == 0
    assert page.locator("figcaption").first.is_visible()


# What viewers of notebooks leave of an output that they do not trust: no script, few attributes, few styles or none.
SANITISE = """kept => {
  for (const script of document.querySelectorAll('script')) script.remove();
  for (const element of document.querySelectorAll('figure, figure *')) {
    for (const { name } of [...element.attributes])
      if (![...kept, 'alt', 'src', 'width', 'height', 'class'].includes(name)) element.removeAttribute(name);
    for (const name of ['aspect-ratio', 'image-rendering']) element.style.removeProperty(name);
  }
}"""


@pytest.mark.parametrize("kept", [["style"], []], ids=["some styles", "no style"])
def test_a_notebook_that_is_not_trusted_shows_the_middle_picture_at_its_size(open_page, explorers, kept):
    page = open_page("", address=explorers, java_script_enabled=False)
    page.evaluate(SANITISE, kept)
    assert [place_in(page, index, "figure img") for index in range(4)] == [2, 10, 42, 2]
    for image in page.locator("figure img").all():
        box = image.bounding_box()
        assert (box["width"], box["height"]) == (282, 188)
    assert page.locator("input").count() == 0


def test_the_first_page_shows_an_explorer_that_works(open_page):
    page = open_page("book/intro.html")
    view = page.locator(".gensrc-explore-view").first
    before = view.screenshot()
    page.locator(".gensrc-explore input").first.focus()
    page.keyboard.press("End")
    assert view.screenshot() != before
    assert page.record.errors == []
