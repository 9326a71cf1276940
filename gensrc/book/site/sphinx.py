"""The Sphinx extension of the site: everything that a page shows and that no author typed.

It writes the generated pages before Sphinx looks for sources, numbers the chapters by their files and tells
when each was verified, embeds a chapter's explorer elsewhere, lists the chapters that exist, makes 404.html and
index.html, and names the published address wherever a page has to.
"""

import fnmatch
import hashlib
import importlib
import inspect
import json
import os
import re
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlparse

import yaml
from docutils import nodes
from markdown_it import MarkdownIt
from pygments.lexer import RegexLexer, bygroups
from pygments.token import Generic, Text
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from gensrc import report_lines
from gensrc.book import headings, repository
from gensrc.book.checks import stamp
from gensrc.book.run import records

LOGGER = logging.getLogger(__name__)
CHAPTER = re.compile(r"notebooks/(?P<name>(?P<part>\d)-[a-z0-9-]+/(?P<number>\d\d)-[a-z0-9-]+)$")
# A label in place of the words that it labels; a list whose entries are no list items.
MISLEADING = {
    '<summary aria-label="Toggle hidden content">': "<summary>",
    '<div role="list" class="citation-list">': '<div class="citation-list">',
}
GENERATED = ("articles", "questions", "errata", "datasets", "results")
THEBE = re.compile(r'<script type="text/x-thebe-config">.*?</script>\s*<script>kernelName = .*?</script>', re.DOTALL)


# --- The published address -------------------------------------------------------------------------


def publish_address(app: Sphinx, config: Config) -> None:
    """Put the publisher's repository and address, told by the environment, in place of the placeholder.

    GENSRC_REPOSITORY is `owner/name`; GENSRC_SITE_URL is the address of the site's root, by default the one that
    GitHub Pages gives to that repository.
    """
    options = config.html_theme_options
    if repository := os.environ.get("GENSRC_REPOSITORY"):
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
            raise ExtensionError(f"GENSRC_REPOSITORY is {repository!r}; it has to be owner/name.")
        options["repository_url"] = f"https://github.com/{repository}"
    owner, name = options["repository_url"].split("/")[-2:]
    host = f"{owner.lower()}.github.io"
    site = os.environ.get("GENSRC_SITE_URL") or (f"https://{host}/" + ("" if name.lower() == host else f"{name}/"))
    config.html_baseurl = config.ogp_site_url = site.rstrip("/") + "/"
    config.ogp_image = "_static/card.png"
    config.ogp_image_alt = f"{config.html_title}, beside a page of handwritten digits that a model drew."
    config.ogp_custom_meta_tags = ['<meta name="twitter:card" content="summary_large_image" />']


# --- Generated pages -------------------------------------------------------------------------------


def write_generated_pages(app: Sphinx, config: Config) -> None:
    """Write book/generated/*.md; a page whose text is as before stays untouched, and Sphinx does not reread it."""
    root = Path(app.srcdir)
    for name in GENERATED:
        path = root / "book" / "generated" / f"{name}.md"
        text = generated_page(name, root)
        if not path.exists() or path.read_text(encoding="utf8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf8")


def generated_page(name: str, root: Path) -> str:
    """The MyST text of a generated page, by the module that knows its data."""
    return importlib.import_module(f"gensrc.book.pages.{name}").page(root)


def leave_out_scratch(app: Sphinx, config: Config) -> None:
    """No page is made of a notebook that is no chapter, and what is wrong with one stops no build."""
    found = (f"notebooks/{name}.ipynb" for name in repository.scratch(Path(app.srcdir)))
    # Sphinx takes what it leaves out for patterns. In brackets a sign stands for itself; Z, which no chapter has, is
    # there since a bracket alone in brackets makes Python warn.
    config.exclude_patterns = [*config.exclude_patterns, *(re.sub(r"[*?[]", r"[Z\g<0>]", path) for path in found)]


# --- Chapters --------------------------------------------------------------------------------------


def open_chapter(app: Sphinx, docname: str, source: list[str]) -> None:
    """Number a chapter's title by its file (2-gans-to-transformers/03-vae is 2.3) and say when it was verified."""
    match = CHAPTER.match(docname)
    if not match:
        return
    notebook = json.loads(source[0])
    number = f"{match['part']}.{int(match['number'])}"
    cell = next((c for c in notebook["cells"] if c["cell_type"] == "markdown"), None)
    text = "".join(cell["source"]) if cell else ""
    title = next((heading for heading in headings.headings(text) if heading.level == 1), None)
    if not cell or not title:
        LOGGER.warning("the first text cell has to start with the chapter's title, `# Title`", location=docname)
        return
    lines = text.splitlines()
    line = verified(notebook)
    lines[title.line] = f"# {number} {title.title}\n\n{{.gensrc-verified}}\n{line}\n"
    cell["source"] = "\n".join(lines)
    source[0] = json.dumps(notebook)


def verified(notebook: dict[str, Any]) -> str:
    """One line that says when, with what and on what the stored outputs of a chapter were made."""
    facts = notebook["metadata"].get("gensrc", {})
    if not facts.get("verified"):
        return "Not verified yet: no recorded run."
    if problems := stamp.problems(notebook):
        return f"Not verified: {problems[0]}."
    day = date.fromisoformat(facts["verified"])
    torch = facts["torch"].partition("+")[0]  # 2.13.0+cpu is 2.13.0
    parts = [
        f"Last verified {day.day} {day:%B %Y} with torch {torch} on {records.machine(facts)}",
        f"{facts['profile']} profile",
        f"{facts['seconds']:.0f} s",
    ]
    return ", ".join(parts) + "."


class Explorer(SphinxDirective):
    """`{explorer} CHAPTER NAME` shows the explorer NAME out of the stored outputs of CHAPTER on another page."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        chapter, name = self.arguments
        path = Path(self.env.srcdir) / "notebooks" / f"{chapter}.ipynb"
        self.env.note_dependency(str(path))
        page = stored_explorer(path, name) if path.exists() else None
        if page is None:
            LOGGER.warning(f"no explorer {name!r} in notebooks/{chapter}.ipynb", location=self.get_location())
            return []
        return [nodes.raw("", page, format="html")]


def stored_explorer(path: Path, name: str) -> str | None:
    """The HTML of the explorer `name` in the outputs of a notebook."""
    for cell in json.loads(path.read_text(encoding="utf8"))["cells"]:
        for output in cell.get("outputs", []):
            explorer = output.get("metadata", {}).get("gensrc", {}).get("explorer", {})
            if explorer.get("name") == name:
                return "".join(output["data"]["text/html"])
    return None


class Parts(SphinxDirective):
    """`{parts}`, with a paragraph a part, shows the parts of _toc.yml and the chapters that exist."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        root = Path(self.env.srcdir)
        self.env.note_dependency(str(root / "_toc.yml"))
        toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf8"))
        parts = [part for part in toc["parts"] if "glob" in part["chapters"][0]]
        paragraphs = re.split(r"\n\s*\n", "\n".join(self.content))
        if len(paragraphs) != len(parts):
            raise self.error(f"{len(paragraphs)} paragraphs for {len(parts)} parts of _toc.yml")
        return [self.part(part, about) for part, about in zip(parts, paragraphs, strict=True)]

    def part(self, part: dict[str, Any], about: str) -> nodes.container:
        files = (f"notebooks/{name}" for name in repository.chapters(Path(self.env.srcdir)))
        chapters = [file for file in files if fnmatch.fnmatchcase(file, part["chapters"][0]["glob"])]
        shown = nodes.container(classes=["gensrc-part"])
        shown += nodes.rubric(text=part["caption"])
        shown += nodes.paragraph(text=about)
        shown += self.links(chapters) if chapters else nodes.paragraph(text="In preparation.", classes=["gensrc-soon"])
        return shown

    def links(self, chapters: list[str]) -> nodes.bullet_list:
        listing = nodes.bullet_list()
        for docname in chapters:
            link = addnodes.pending_xref(
                "",
                nodes.inline(),
                refdomain="std",
                reftype="doc",
                reftarget="/" + docname,
                refexplicit=False,
                refwarn=True,
                refdoc=self.env.docname,
            )
            listing += nodes.list_item("", addnodes.compact_paragraph("", "", link))
        return listing


class NumberFigures(SphinxTransform):
    """Number a chapter's figures 2.3.1, 2.3.2 ..., so that a figure keeps its number when other chapters change."""

    default_priority = 500  # after translation, before labels are collected

    def apply(self, **kwargs: Any) -> None:
        match = CHAPTER.match(self.env.docname)
        if not match or self.app.builder.format != "html":
            return
        captions = [c for f in self.document.findall(nodes.figure) for c in f.children if isinstance(c, nodes.caption)]
        for count, caption in enumerate(captions, start=1):
            number = f"Figure {match['part']}.{int(match['number'])}.{count}"
            caption.insert(0, nodes.inline("", number + " ", classes=["caption-number"]))
            caption.parent["gensrc_number"] = number


def name_figures(app: Sphinx, doctree: nodes.document) -> None:
    """Let a reference to a numbered figure read "Figure 2.3.1" instead of its whole caption."""
    labels = app.env.domains["std"].labels
    for figure in doctree.findall(nodes.figure):
        for name in figure["names"]:
            if "gensrc_number" in figure and name in labels:
                labels[name] = (*labels[name][:2], figure["gensrc_number"])


class OutputLexer(RegexLexer):
    """Marks what `notebook.claim` and `notebook.report` print: the tick; the value, and its tolerance."""

    name = "gensrc-output"
    tokens: ClassVar = {
        "root": [
            (report_lines.TICK_IN_TEXT, Generic.Inserted),
            (report_lines.VALUE_IN_TEXT, bygroups(Text, Generic.Strong, Generic.Output)),
            (report_lines.OTHER_TEXT, Text),
        ]
    }


def rewrite_all(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Write every page again when what all of them show has changed: the titles in the sidebar, or our assets.

    Sphinx by itself rewrites the changed page alone, and copies no style sheet when no page has changed.
    """
    book = Path(app.srcdir) / "book"
    assets = [path for path in [*sorted((book / "assets").rglob("*")), book / "404.md"] if path.is_file()]
    files = {path.relative_to(book).as_posix(): path.read_bytes() for path in assets}
    titles = {name: title.astext() for name, title in env.titles.items()}
    frame = hashlib.sha256(repr(sorted(titles.items()) + sorted(files.items())).encode()).hexdigest()
    known = getattr(env, "gensrc_frame", frame)
    env.gensrc_frame = frame  # type: ignore[attr-defined]  # Sphinx keeps it with the environment
    return [] if known == frame else sorted(env.found_docs)


# --- Pages without a source file -------------------------------------------------------------------


def collect_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The page that a web server shows for an address that does not exist."""
    text = (Path(app.srcdir) / "book" / "404.md").read_text(encoding="utf8")
    title = text.partition("\n")[0].removeprefix("# ")
    yield "404", {"title": title, "pagetitle": title, "body": MarkdownIt().render(text)}, "page.html"


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Make 404.html work from any address and index.html lead to the first page; remove pages of lost sources."""
    if exception or app.builder.format != "html":
        return
    folder = Path(app.outdir)
    made = {app.builder.get_target_uri(name) for name in [*app.env.found_docs, "404", "search", "index"]}
    for path in folder.rglob("*.html"):
        address = path.relative_to(folder)
        if address.as_posix() not in made and "_static" not in address.parts:
            path.unlink()
    page = folder / "404.html"
    published = "/OWNER/" not in app.config.html_theme_options["repository_url"]
    root = urlparse(app.config.html_baseurl).path if published else "/"
    page.write_text(absolute_links(page.read_text(encoding="utf8"), root), encoding="utf8")
    first = app.builder.get_target_uri(app.config.root_doc)
    text = first_page((folder / first).read_text(encoding="utf8"), first, app.config.html_title)
    (folder / "index.html").write_text(text, encoding="utf8")


def first_page(target: str, address: str, title: str) -> str:
    """The page at the site's root: leads on at once, and shows its target's data to whoever shares the address."""
    shared = "\n".join(re.findall(r'<meta (?:property="og:|name="(?:description|twitter:card)")[^>]*>', target))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
{shared}
<link rel="canonical" href="{address}">
<meta http-equiv="refresh" content="0; url={address}">
</head>
<body><main><h1><a href="{address}">{title}</a></h1></main></body>
</html>
"""


def absolute_links(text: str, root: str) -> str:
    """Let every relative link of a page at the site's root start at `root`, so that it works from any address."""
    relative = r'(href|src|action|data-content_root)="(?![a-z]+:|/|#)(?:\./)?'
    return re.sub(relative, rf'\1="{root}', text)


def use_templates(app: Sphinx, config: Config) -> None:
    """Let the templates beside this file come before the theme's own."""
    config.templates_path = [str(Path(__file__).with_name("templates")), *config.templates_path]


def add_filter(app: Sphinx) -> None:
    if app.builder.format == "html":
        app.builder.templates.environment.filters["without_icon_script"] = without_icon_script


def without_icon_script(head: str) -> str:
    return re.sub(r"<script[^>]*fontawesome\.js[^>]*></script>", "", head)


def describe_page(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Keep the line of the last verification out of the page's description, which is what it begins with."""
    for line in list(doctree.findall(nodes.paragraph)) if doctree else []:
        if "gensrc-verified" in line["classes"]:
            line.parent.remove(line)


def mend_page(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Take out what the page does not need, and what misleads a screen reader."""
    body = THEBE.sub("", context.get("body", ""))
    for wrong, right in MISLEADING.items():
        body = body.replace(wrong, right)
    context["body"] = body
    needless = ("thebe",) if 'class="math' in body else ("thebe", "mathjax")
    for kind in ("script_files", "css_files"):
        context[kind] = [file for file in context[kind] if not any(word in described(file) for word in needless)]


def described(asset: Any) -> str:
    """The file name of a script or style sheet, and its text where it stands in the page itself."""
    return f"{getattr(asset, 'filename', asset)} {getattr(asset, 'attributes', {}).get('body', '')}".lower()


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", publish_address, priority=10)
    app.connect("config-inited", leave_out_scratch, priority=10)
    app.connect("config-inited", write_generated_pages)
    app.connect("config-inited", use_templates, priority=900)
    app.connect("builder-inited", add_filter)
    app.connect("html-page-context", describe_page, priority=400)
    app.connect("html-page-context", mend_page, priority=900)
    app.connect("source-read", open_chapter)
    app.connect("env-updated", rewrite_all)
    app.connect("html-collect-pages", collect_pages)
    app.connect("build-finished", finish, priority=900)
    app.add_transform(NumberFigures)
    app.connect("doctree-read", name_figures)
    app.add_lexer(OutputLexer.name, OutputLexer)
    app.add_directive("explorer", Explorer)
    app.add_directive("parts", Parts)
    # A change of this file, or of what it reads lines and headings by, rereads every page.
    code = "".join(inspect.getsource(module) for module in (sys.modules[__name__], headings, report_lines))
    version = int(hashlib.sha256(code.encode()).hexdigest()[:7], 16)
    return {"env_version": version, "parallel_read_safe": True, "parallel_write_safe": True}
