"""The anchors of a notebook are those that MyST gives to its headings."""

import json

import pytest

from gensrc.book.anchors import anchors


def test_anchors_are_the_slugs_of_headings_outside_code(tmp_path):
    code = "````md\n## fenced\n```\n# still fenced\n````"
    markdown = (
        f"# The title\n\nan # inline one\n\n{code}\n\n  ### A0-E6: a loss, `sum` or mean? ##  \n#### Too deep\n#no"
    )
    cells = [
        {"cell_type": "markdown", "source": markdown.splitlines(keepends=True)},
        {"cell_type": "code", "source": "# a comment\n"},
        {"cell_type": "markdown", "source": "## Other"},
    ]
    path = tmp_path / "chapter.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    assert anchors(path) == {"the-title", "a0-e6-a-loss-sum-or-mean", "other"}


@pytest.mark.parametrize("text", ["{", '{"cells": [{}]}', "[]", '{"metadata": {}}'])
def test_an_unreadable_notebook_is_named(tmp_path, text):
    path = tmp_path / "chapter.ipynb"
    path.write_text(text)
    with pytest.raises(ValueError, match="cannot be read as a notebook") as caught:
        anchors(path)
    assert str(path) in str(caught.value)
