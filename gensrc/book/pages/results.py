"""The page "Results of the recorded full runs", from the records in book/results."""

from collections.abc import Mapping
from pathlib import Path

from gensrc.book import repository
from gensrc.book.pages import articles
from gensrc.book.run import records
from gensrc.book.run.records import Result

HEADER = """\
# Results of the recorded full runs

Each table lists what a chapter reported when it was last run in the full profile, with the tolerance within which
another machine must find the number again. They are compared on a GPU runner by `gensrc-book compare`.
"""


def page(root: Path) -> str:
    """The results page of the repository at `root`, as MyST text."""
    titles = {name: written.title for name, written in articles.written_chapters(root).items()}
    return render(records.load_all(repository.results_folder(root)), titles)


def render(results: list[Result], titles: Mapping[str, str]) -> str:
    """The results page as MyST text: a section a chapter, under its title, which the contents beside it show."""
    if not results:
        return f"{HEADER}\nNone yet.\n"
    return "\n".join([HEADER, *(_section(result, titles.get(result["chapter"], "")) for result in results)])


def _section(result: Result, title: str) -> str:
    rows = [f"| {_cell(entry['label'])} | {_number(entry)} | ±{entry['bound']} |" for entry in result["reports"]]
    table = ["| quantity | value | tolerance |", "|:--|--:|--:|", *rows] if rows else ["It reported no number."]
    heading = title or result["chapter"]
    link = f"{{doc}}`The chapter </notebooks/{result['chapter']}>`"
    return "\n".join([f"## {heading}", "", f"{link} was {_circumstances(result)}", "", *table, ""])


def _circumstances(result: Result) -> str:
    """The rest of a sentence: where, when and at what cost."""
    versions = [f"{name} {result[name]}" for name in ("gensrc", "torch", "python") if result[name]]
    made = f"run on {result['date']}" + (f" from commit `{result['commit']}`" if result["commit"] else "")
    gpu = f" and {result['gpu_peak_mb']} MB on the GPU" if result["gpu_peak_mb"] else ""
    carried = (
        f" Its code was rearranged until {result['carried']}, which left every output of the quick profile as it was."
        if result.get("carried")
        else ""
    )
    return (
        f"{made} with {', '.join(versions)} on {records.machine(result)}: {result['seconds'] / 60:.1f} minutes, "
        f"{result['peak_mb']} MB of memory{gpu}, {result['claims']} claims held.{carried}"
    )


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|")


def _number(entry: Result) -> str:
    return _cell(f"{entry['printed']} {entry['unit']}".rstrip())
