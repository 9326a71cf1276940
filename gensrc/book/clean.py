"""Quiet diffs: what an execution or an editor leaves in a notebook that says nothing about the chapter is taken out.

Cleaning is idempotent and depends on the notebook alone, so that executing an unchanged chapter twice on one
machine gives the same file, byte for byte.
"""

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbformat import NotebookNode

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
# All that stays of the metadata: what the book reads, and by what Jupyter protects a cell. Each editor leaves more.
KEPT_OF_NOTEBOOK = {"gensrc", "kernelspec", "language_info"}
KEPT_OF_CELL = {"tags", "mystnb", "editable", "deletable"}
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
# The version is left out: another Python that prints the same is no change.
LANGUAGE = {"name": "python", "pygments_lexer": "ipython3"}

# Jupyter gives a new cell eight hexadecimal digits or a UUID, VS Code the digits behind a mark, Colab twelve signs.
RANDOM_ID = re.compile(
    r"(?:#?VSC-)?[0-9a-f]{8}(-[0-9a-f]{4}){0,3}(-[0-9a-f]{12})?|(?=.*\d)(?=.*[A-Z])(?=.*[a-z])[\w-]{12}", re.ASCII
)
# "Epoch 1:  40%|####      | 4/10 [00:01<00:02, 3.20it/s]", "4it [00:01, 3.2it/s]", tqdm's box of widgets
PROGRESS = re.compile(r"(?s)\s*(.*\d+%\|.*\|.*\[.*\]|.*\d+\S*(it|\w+)? \[\d+:\d+.*\]|HBox\(children=.*)\s*")


def clean(nb: "NotebookNode") -> "NotebookNode":
    """Take the noise out of `nb`, in place."""
    _name_cells(nb)
    _keep_only(KEPT_OF_NOTEBOOK, nb.metadata)
    nb.metadata["kernelspec"] = dict(KERNEL)
    nb.metadata["language_info"] = dict(LANGUAGE)
    for cell in nb.cells:
        _clean_metadata(cell)
        if cell.cell_type == "code":
            cell.outputs = _merged([kept for output in cell.outputs if (kept := _clean_output(output))])
            _describe_figure(cell)
    return nb


def dumps(nb: "NotebookNode") -> str:
    """The notebook as the text of a file: sorted keys, indent 1, plain Unicode, a final newline."""
    import nbformat

    return nbformat.v4.writes(nb).rstrip("\n") + "\n"


def _keep_only(kept: set[str], metadata: dict[str, Any]) -> None:
    for key in [key for key in metadata if key not in kept]:
        del metadata[key]


def _clean_metadata(cell: "NotebookNode") -> None:
    _keep_only(KEPT_OF_CELL, cell.metadata)
    if not cell.metadata.get("tags", True):
        del cell.metadata["tags"]


def _clean_output(output: "NotebookNode") -> "NotebookNode | None":
    """The output without its live parts; None where nothing worth keeping remains."""
    if output.output_type == "stream":
        return None if output.name == "stderr" else output
    if is_progress_bar(output):
        return None
    data = output.get("data")
    if data is not None:
        data.pop(WIDGET_VIEW, None)
        _keep_only({"gensrc", *data}, output.metadata)  # besides ours, what a picture says of itself
    return None if data == {} else output


def is_progress_bar(output: dict[str, Any]) -> bool:
    """A display that is tqdm's live bar and nothing else."""
    data = output.get("data") or {}
    text = data.get("text/plain", "")
    text = text if isinstance(text, str) else "".join(text)
    return WIDGET_VIEW in data and set(data) <= {WIDGET_VIEW, "text/plain"} and bool(PROGRESS.fullmatch(text))


def _merged(outputs: list["NotebookNode"]) -> list["NotebookNode"]:
    """Neighbouring pieces of the same stream become one: where the kernel cut them is chance."""
    merged: list[NotebookNode] = []
    for output in outputs:
        last = merged[-1] if merged else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            merged.append(output)
    return merged


def figures(cell: dict[str, Any]) -> list[dict[str, str]]:
    """The name, caption, alt text and kind of each figure that `notebook.figure` showed in this cell."""
    described = (output.get("metadata", {}).get("gensrc", {}).get("figure") for output in cell.get("outputs", []))
    return [figure for figure in described if figure]


def _describe_figure(cell: "NotebookNode") -> None:
    """Copy a figure's caption and alt text to where MyST-NB reads them; remove those of one now gone."""
    mystnb = dict(cell.metadata.get("mystnb", {}))
    if mystnb.get("image", {}).get("classes", "").startswith("gensrc-"):
        del mystnb["image"]
        mystnb.pop("figure", None)
    for figure in figures(cell)[:1]:
        mystnb["figure"] = {"caption": figure["caption"], "name": f"fig-{figure['name']}"}
        mystnb["image"] = {"alt": figure["alt"], "classes": f"gensrc-{figure['kind']}"}
    cell.metadata.pop("mystnb", None)
    if mystnb:
        cell.metadata["mystnb"] = mystnb


def _name_cells(nb: "NotebookNode") -> None:
    """Keep ids that someone chose; random and repeated ones become the first free cell-0001, cell-0002 ..."""
    nb.nbformat_minor = max(nb.nbformat_minor, 5)
    kept: set[str] = set()
    nameless = []
    for cell in nb.cells:
        # Colab moves a cell's id into its metadata, and whoever reads the file gives it a random one.
        own = (cell.get("id"), cell.metadata.get("id"))
        name = next((name for name in own if name and not RANDOM_ID.fullmatch(str(name)) and name not in kept), None)
        if name is None:
            nameless.append(cell)
        else:
            cell["id"] = name
            kept.add(name)
    free = (name for number in range(1, len(nb.cells) + 1) if (name := f"cell-{number:04d}") not in kept)
    for cell, name in zip(nameless, free, strict=False):
        cell["id"] = name
