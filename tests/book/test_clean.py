"""What cleaning takes out of a notebook, what it leaves, and that doing it twice changes nothing."""

import copy
import json
from typing import Any

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from gensrc.book import clean

WIDGET = "application/vnd.jupyter.widget-view+json"
FIGURE = {"name": "loss", "caption": "Loss falls.", "alt": "A falling line, steep at first.", "kind": "plot"}


def cleaned(*outputs: NotebookNode, metadata: dict[str, Any] | None = None) -> NotebookNode:
    """The one cell of a notebook with these outputs, cleaned."""
    cell = new_code_cell("pass", outputs=list(outputs), execution_count=1, metadata=metadata or {})
    return clean.clean(new_notebook(cells=[cell])).cells[0]


def stream(name: str, text: str) -> NotebookNode:
    return new_output("stream", name=name, text=text)


def display(data: dict[str, Any], **metadata: Any) -> NotebookNode:
    return new_output("display_data", data=data, metadata=metadata)


def test_stamps_of_tools_go_and_the_authors_metadata_stay() -> None:
    noise = {"papermill": {"duration": 1}, "execution": {"iopub.status.busy": "now"}, "colab": {}, "tags": []}
    assert cleaned(metadata=noise).metadata == {}
    mine = {"tags": ["hide-input"], "mystnb": {"code_prompt_show": "Show"}, "editable": False}
    assert cleaned(metadata=mine).metadata == mine


@pytest.mark.parametrize(
    "left",
    [
        {"slideshow": {"slide_type": "slide"}},
        {"jp-MarkdownHeadingCollapsed": True, "heading_collapsed": True},
        {"jupyter": {"source_hidden": True, "outputs_hidden": True}, "collapsed": False, "scrolled": True},
        {"id": "Xb3kQ0_aZ-9s", "outputId": "5f", "colab": {"base_uri": "x"}, "cellView": "form"},
        {"vscode": {"languageId": "python"}, "notebookRunGroups": {"groupValue": "1"}},
        {"pycharm": {"name": "#%%"}, "nbgrader": {}, "ExecuteTime": {}, "trusted": True, "what comes next": 1},
    ],
)
def test_what_editors_leave_goes(left: dict[str, Any]) -> None:
    mine = {"tags": ["parameters"]}
    assert cleaned(metadata=mine | left).metadata == mine
    nb = clean.clean(new_notebook(metadata=left | {"accelerator": "GPU", "toc": {}, "gensrc": {"hash": "x"}}))
    assert sorted(nb.metadata) == ["gensrc", "kernelspec", "language_info"]


def test_of_an_output_stays_what_the_book_and_the_picture_say() -> None:
    said = {"image/png": {"alt": "A line."}, "gensrc": {"figure": FIGURE}}
    (output,) = cleaned(display({"image/png": "AAAA"}, **said, colab={}, needs_background="light")).outputs
    assert output.metadata == said


def test_a_copy_that_colab_has_saved_keeps_its_ids(book: Any) -> None:
    """Colab writes an older format, in which cells have no ids, and puts them among the metadata."""
    path = book.chapter("1-part/01-a", "print(1)", "print(2)", "print(3)")
    book.run("clean")
    nb = book.read("1-part/01-a")
    nb.cells[4]["id"], nb.cells[5]["id"] = "the-idea", "cell-0009"
    book.save("1-part/01-a", nb)
    before = path.read_bytes()
    data = json.loads(before)
    for cell in data["cells"]:
        cell["metadata"] = {**cell["metadata"], "id": cell.pop("id")}
    data["metadata"] |= {"accelerator": "GPU", "colab": {"provenance": []}}
    data["nbformat_minor"] = 0
    path.write_text(json.dumps(data))
    assert book.run("clean") == (0, "cleaned 1-part/01-a\n")
    assert path.read_bytes() == before


def test_the_notebooks_metadata_become_small() -> None:
    metadata = {
        "gensrc": {"hash": "x"},
        "papermill": {"start_time": "now"},
        "widgets": {WIDGET: {"state": {}}},
        "kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"},
        "language_info": {"name": "python", "version": "3.11.7"},
    }
    nb = clean.clean(new_notebook(metadata=metadata))
    assert sorted(nb.metadata) == ["gensrc", "kernelspec", "language_info"]
    assert nb.metadata.kernelspec == {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert "version" not in nb.metadata.language_info


def test_stderr_goes_and_pieces_of_stdout_are_joined() -> None:
    cell = cleaned(stream("stdout", "a"), stream("stderr", "warning"), stream("stdout", "b\n"))
    assert cell.outputs == [stream("stdout", "ab\n")]


def test_stdout_on_both_sides_of_a_picture_stays_apart() -> None:
    picture = display({"image/png": "AAAA"})
    assert cleaned(stream("stdout", "a"), picture, stream("stdout", "b")).outputs == [
        stream("stdout", "a"),
        picture,
        stream("stdout", "b"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "  0%|          | 0/10 [00:00<?, ?it/s]",
        "Epoch 3: 100%|██████████| 469/469 [00:01<00:00, 320.11it/s, loss=104.2]",
        "0it [00:00, ?it/s]",
        "1.2MB [00:01, 900kB/s]",
        "HBox(children=(FloatProgress(value=0.0), HTML(value='')))",
    ],
)
def test_progress_bars_go(text: str) -> None:
    assert cleaned(display({WIDGET: {"model_id": "1"}, "text/plain": text})).outputs == []


@pytest.mark.parametrize(
    "data",
    [
        {"text/plain": "  0%|          | 0/10 [00:00<?, ?it/s]"},  # printed on purpose
        {"text/plain": "[figure a] A caption | An alt text", "image/png": "AAAA"},
    ],
)
def test_what_is_no_live_bar_stays(data: dict[str, Any]) -> None:
    assert cleaned(display(data)).outputs == [display(data)]


def test_an_explorer_keeps_its_static_page_and_loses_its_live_view() -> None:
    static = {"text/html": "<figure></figure>", "text/plain": "[explorer z] Latent plane | A grid of digits"}
    assert cleaned(display({WIDGET: {"model_id": "1"}, **static})).outputs == [display(static)]


def test_a_live_view_alone_leaves_nothing() -> None:
    assert cleaned(display({WIDGET: {"model_id": "1"}})).outputs == []


def test_a_figure_is_described_where_mystnb_looks() -> None:
    output = display({"image/png": "AAAA"}, gensrc={"figure": FIGURE})
    assert cleaned(output, metadata={"mystnb": {"code_prompt_show": "Show"}}).metadata.mystnb == {
        "code_prompt_show": "Show",
        "figure": {"caption": "Loss falls.", "name": "fig-loss"},
        "image": {"alt": "A falling line, steep at first.", "classes": "gensrc-plot"},
    }


def test_the_description_of_a_figure_that_is_gone_goes_too() -> None:
    described = cleaned(display({"image/png": "AAAA"}, gensrc={"figure": FIGURE})).metadata
    assert cleaned(metadata=copy.deepcopy(described)).metadata == {}
    by_hand = {"mystnb": {"image": {"alt": "A drawing by hand", "classes": "drawing"}}}
    assert cleaned(metadata=copy.deepcopy(by_hand)).metadata == by_hand


def test_random_cell_ids_become_stable_and_chosen_ones_stay() -> None:
    nb = new_notebook(cells=[new_markdown_cell(str(number)) for number in range(6)])
    chosen = ["3f0a9c1e", "the-idea", "cell-0002", "the-idea", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"]
    for cell, name in zip(nb.cells, chosen, strict=False):
        cell["id"] = name
    del nb.cells[5]["id"]
    clean.clean(nb)
    names = [cell["id"] for cell in nb.cells]
    assert names == ["cell-0001", "the-idea", "cell-0002", "cell-0003", "cell-0004", "cell-0005"]
    for number, name in enumerate(
        ["Xb3kQ0_aZ-9s", "#VSC-3f0a9c1e", "VSC-3f0a9c1e", "Introduction", "VAE-overview", "x"]
    ):
        nb.cells[number]["id"] = name
    names = [cell["id"] for cell in clean.clean(nb).cells]
    assert names == ["cell-0001", "cell-0002", "cell-0003", "Introduction", "VAE-overview", "x"]


def test_a_cell_put_in_between_changes_no_other_id() -> None:
    nb = clean.clean(new_notebook(cells=[new_markdown_cell(name) for name in "abc"]))
    nb.cells.insert(1, new_markdown_cell("new"))
    clean.clean(nb)
    assert [cell["id"] for cell in nb.cells] == ["cell-0001", "cell-0004", "cell-0002", "cell-0003"]


def test_cleaning_twice_changes_nothing_and_the_text_is_that_of_jupyter() -> None:
    outputs = [stream("stdout", "é ≈\n"), display({"image/png": "AAAA"}, gensrc={"figure": FIGURE})]
    nb = new_notebook(cells=[new_markdown_cell("# T"), new_code_cell("pass", outputs=outputs)])
    once = clean.dumps(clean.clean(nb))
    twice = clean.dumps(clean.clean(copy.deepcopy(nb)))
    assert once == twice
    assert once == json.dumps(json.loads(once), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    assert "é ≈" in once


def test_the_command_cleans_and_says_which(book: Any) -> None:
    book.chapter("1-part/01-a", "print(1)")
    book.chapter("1-part/02-b", "print(2)")
    assert book.run("clean", "02-b") == (0, "cleaned 1-part/02-b\n")
    assert book.run("clean") == (0, "cleaned 1-part/01-a\n")
    assert book.run("clean") == (0, "")
