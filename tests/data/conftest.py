"""A local mirror, an empty cache and an empty pack for every test that asks for one."""

from collections.abc import Iterator
from pathlib import Path

import pooch
import pytest
from small_data import Mirror

from gensrc.data import registry


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    mirror = Mirror()
    yield mirror
    mirror.server.shutdown()
    mirror.server.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the user's, and no GENSRC_DATA."""
    monkeypatch.delenv("GENSRC_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    return tmp_path / "cache" / "gensrc"


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of the pack."""
    folder = tmp_path / "pack"
    folder.mkdir()
    monkeypatch.setattr(registry, "PACK", folder)
    return folder
