"""Only what a run reads from the package is noted."""

from gensrc import provenance


def test_files_of_the_package_are_noted_once_and_others_never(tmp_path, monkeypatch):
    trace = tmp_path / "trace"
    monkeypatch.setenv("GENSRC_TRACE", str(trace))
    for path in (provenance.PACKAGE / "data" / "b", provenance.PACKAGE / "data" / "a", tmp_path / "x"):
        provenance.record(path)
        provenance.record(path)
    assert provenance.recorded(trace) == ["gensrc/data/a", "gensrc/data/b"]


def test_without_a_trace_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.delenv("GENSRC_TRACE", raising=False)
    provenance.record(provenance.PACKAGE / "data" / "a")
    assert provenance.recorded(tmp_path / "none") == []
