"""The files of the data sets: where they are, how they are fetched, and checks of their bytes.

Every data set has a folder in `files/` with its part of the pack and a card (`card.json`): licence, attribution, source
and, for each file, its size and SHA-256. A file's name includes the folder, such as "mnist/t10k-labels-idx1-ubyte.xz".
It is looked for first below the folder that the environment variable GENSRC_DATA names, then in the pack or, if it is
no file of the pack, in the user's cache. If it is in neither it is fetched, into GENSRC_DATA's folder if that is set
and else into the cache.

A file is read only if its checksum is the card's. All failures raise DataError.
"""

import gzip
import hashlib
import json
import logging
import os
import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gensrc import provenance

PACK = Path(__file__).resolve().parent / "files"
TIMEOUT = 30  # seconds without a byte after which a mirror counts as dead
LOGGER = logging.getLogger(__name__)


class DataError(RuntimeError):
    """A data file that is missing, damaged, of another format or unavailable; the message says what to do."""


@dataclass(frozen=True)
class File:
    """One file of a data set."""

    name: str  # "folder/file", the same wherever the file lies
    size: int  # bytes
    sha256: str
    urls: tuple[str, ...] = ()  # the mirrors to fetch it from, best first; none for a file of the pack


@dataclass(frozen=True)
class Source:
    """The package that a pack file was made from."""

    client: str  # "npm", "pip", "apt" or "apt-lists": who fetches it
    package: str
    version: str
    sha256: str  # of the archive that the client fetches


@dataclass(frozen=True)
class Card:
    """The card of a data set. The texts are MyST, for the book's page of data sets."""

    name: str
    title: str
    about: str
    loader: str  # the function that chapters call, dotted
    counts: dict[str, int]  # split -> examples in the pack
    on_demand_counts: dict[str, int]  # split -> examples in the files that are fetched; empty if there are none
    licence: str
    licence_url: str
    attribution: str
    source: Source | None  # none if the pack holds no file of it
    cut: str  # how the pack's files were made from the source
    use: str  # what it is good for, and what it is not
    quirks: str  # duplicates, leakage and other surprises
    files: tuple[File, ...]  # in the pack
    on_demand: tuple[File, ...]
    more_sources: tuple[Source, ...] = ()


def cards(pack: Path) -> list[Card]:
    """The cards of all data sets in the folder `pack`, by name."""
    return [_card(path) for path in sorted(pack.glob("*/card.json"))]


@cache
def _card(path: Path) -> Card:
    fields = json.loads(path.read_text(encoding="utf8"))
    fields["source"] = Source(**fields["source"]) if fields["source"] else None
    fields["more_sources"] = tuple(Source(**source) for source in fields.get("more_sources", ()))
    for part in ("files", "on_demand"):
        entries = [entry | {"urls": tuple(entry.get("urls", ()))} for entry in fields[part]]
        fields[part] = tuple(File(**entry) for entry in entries)
    return Card(**fields)


def read(name: str) -> bytes:
    """The content of the file `name`, without the compression that its suffix .xz or .gz tells.

    Raises DataError as `path` does, and if this Python cannot read .xz.
    """
    found = path(name)
    content = found.read_bytes()
    if found.suffix == ".gz":
        return gzip.decompress(content)
    return _decompress_xz(content) if found.suffix == ".xz" else content


def _decompress_xz(content: bytes) -> bytes:
    try:
        import lzma  # a Python that was built without liblzma lacks it
    except ImportError as error:
        raise DataError(
            "This Python was built without the module lzma, which the data pack needs: "
            "install liblzma and build Python again, or use another Python."
        ) from error
    return lzma.decompress(content)


def path(name: str) -> Path:
    """The path of the file `name`, fetched if necessary, its bytes checked.

    Raises DataError if there is no such file, if it is damaged, or if it cannot be fetched or written.
    """
    file = _file(name)
    found = _find(file)
    if found:
        _check(found, file)
    else:
        found = _fetch(file)
    if not file.urls:  # recorded as the pack's file even if a copy with the same bytes was read
        provenance.record(PACK / file.name)
    return found


def _file(name: str) -> File:
    known = cards(PACK)
    for card in known:
        for file in card.files + card.on_demand:
            if file.name == name:
                return file
    raise DataError(f"There is no data file {name!r}; the data sets are {', '.join(c.name for c in known)}.")


def _find(file: File) -> Path | None:
    own = _own_folder()
    candidates = [own / file.name] if own else []
    candidates += [_cache() / file.name] if file.urls else [PACK / file.name]
    # Unlike Path.is_file this returns False for a folder without permission.
    return next((candidate for candidate in candidates if os.path.isfile(candidate)), None)


def _own_folder() -> Path | None:
    """The whole path of the folder that GENSRC_DATA names; a relative one counts from the working folder."""
    value = os.environ.get("GENSRC_DATA")
    if not value:
        return None
    # Unlike that of Path this expanduser leaves the name of nobody as it is, and raises nothing.
    folder = Path(os.path.expanduser(value))
    if os.path.isdir(folder):
        return folder.absolute()
    what = "which is a file: name the folder that it lies in" if folder.exists() else "which is no folder: create it"
    if not folder.is_absolute():
        what += f", or write its whole path, since this one counts from {Path.cwd()}"
    raise DataError(f"GENSRC_DATA names {folder}, {what}, or unset the variable.")


def _cache() -> Path:
    import pooch  # only files that are fetched need it

    return pooch.os_cache("gensrc")


def _check(found: Path, file: File) -> None:
    """Raise DataError unless the file `found` holds the bytes that `file` promises."""
    try:
        size, actual = found.stat().st_size, _sha256(found)
    except OSError as error:
        raise DataError(f"{found} cannot be read ({error.strerror}): make it readable, or delete it.") from error
    if actual != file.sha256:
        cure = "install gensrc again" if found.is_relative_to(PACK) else "delete it and run again"
        raise DataError(
            f"{found} is damaged: it has {size} bytes of {file.size} and SHA-256 {actual}, "
            f"expected {file.sha256}: {cure}."
        )


def _sha256(found: Path) -> str:
    with found.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fetch(file: File) -> Path:
    """Download `file` from the first mirror that sends the right bytes, and return its path.

    The bytes go to a temporary file beside the target, are checked there, and then renamed atomically. So `path` never
    finds half a file, even if another process is fetching it.
    """
    if not file.urls:
        raise DataError(f"{file.name} is missing from the package: install gensrc again.")
    folder = _own_folder() or _cache()
    target = folder / file.name
    causes = []
    for url in file.urls:
        partial = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            cause = _try_mirror(url, partial, file)
            if not cause:
                os.replace(partial, target)
                return target
        except OSError as error:
            raise DataError(
                f"{file.name} ({_megabytes(file)}) cannot be written to {target.parent} ({error.strerror}): "
                "make room there, or name a folder with room that you may write to in GENSRC_DATA."
            ) from error
        finally:
            with suppress(OSError):
                partial.unlink()
        causes.append(f"{url}: {cause}")
        LOGGER.warning("%s could not be had from %s", file.name, causes[-1])
    raise DataError(
        f"{file.name} ({_megabytes(file)}) could be had from no mirror; go online and run again, or put the file "
        f"into a folder {Path(file.name).parent} in a folder that you name in GENSRC_DATA.\n  " + "\n  ".join(causes)
    )


def _try_mirror(url: str, partial: Path, file: File) -> str:
    """Download `url` to `partial`; returns "" or the reason for failing. A full disk raises OSError."""
    import pooch
    import requests
    from tqdm.auto import tqdm

    # Asking for the bytes as they are: a .gz file that the transport unpacks has another checksum.
    as_stored = {"Accept-Encoding": "identity"}
    try:
        with tqdm(desc=file.name, total=file.size, unit="B", unit_scale=True) as bar:
            download = pooch.HTTPDownloader(bar, chunk_size=2**16, timeout=TIMEOUT, headers=as_stored)
            download(url, str(partial), None)
    except requests.RequestException as error:  # itself an OSError, but not the disk's
        return f"{type(error).__name__}, {error}"
    actual = _sha256(partial)
    return "" if actual == file.sha256 else f"wrong bytes, SHA-256 {actual}, expected {file.sha256}"


def _megabytes(file: File) -> str:
    return f"{file.size / 1e6:.1f} MB"
