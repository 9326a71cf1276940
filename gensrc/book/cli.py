"""The console script `gensrc-book`.

Exit status: 0 all is well, 1 something was found (stale, failed, against the contract), 2 it could not be
done as asked. Each command imports what it needs when it runs, so that `status` stays quick.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from gensrc.book import publish, repository
from gensrc.book.repository import BookError

Command = Callable[[argparse.Namespace], int]


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        return options.run(options)
    except BookError as error:
        print(f"gensrc-book: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ngensrc-book: interrupted; the stored notebooks are as they were.", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="gensrc-book", description="Executes and checks the book's chapters.")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    one = _add(commands, "execute", execute, "run chapters and store their outputs")
    _add_chapters(one, "default: those that are stale")
    one.add_argument("--all", action="store_true", help="all chapters, stale or not")
    one.add_argument("--profile", default="quick", help="quick replaces the notebooks, full writes book/results")
    one.add_argument("--seed", type=int, default=0, help="another seed leaves the notebooks as they are")
    one.add_argument("--jobs", type=int, help="chapters at a time")
    one.add_argument("--timeout", type=float, metavar="S", help="seconds that one chapter may take")
    one.add_argument("--results", type=Path, metavar="FOLDER", help="where full runs are recorded")

    _add(commands, "status", status, "say which chapters are stale, and why")

    one = _add(commands, "clean", clean, "take out what makes diffs noisy")
    _add_chapters(one, "default: all")

    one = _add(commands, "check", check, "say what a chapter does not keep of what all chapters keep")
    _add_chapters(one, "default: all")

    one = _add(commands, "compare", compare, "compare a full run with a recorded one, within tolerance")
    one.add_argument("result", type=Path, help="the record to judge, or a folder of records")
    one.add_argument("reference", type=Path, help="the record or folder to judge by")

    _add(commands, "site", site, "build the site, strictly, in _build/html")
    one = _add(commands, "serve", serve, "serve the built site on this machine")
    one.add_argument("--port", type=int, default=8000, help="default: %(default)s")

    publish.add_commands(commands)
    return top


def _add(commands: argparse._SubParsersAction, name: str, run: Command, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(run=run)
    return command


def _add_chapters(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument("chapter", nargs="*", help=f"such as 2-gans-to-transformers/03-vae or 03-vae ({default})")


def execute(options: argparse.Namespace) -> int:
    from gensrc.book import execute

    root = repository.find_root()
    plan = execute.plan(
        root,
        profile=options.profile,
        seed=options.seed,
        jobs=options.jobs,
        timeout=options.timeout,
        results=options.results,
    )
    asked = options.chapter or options.all
    chapters = repository.choose(root, options.chapter) if asked else execute.needed(plan)
    if not chapters:
        print("Nothing to execute: no chapter is stale.")
    return 0 if execute.execute(plan, chapters) else 1


def status(options: argparse.Namespace) -> int:
    from gensrc.book import stamp

    prints = stamp.Fingerprints(repository.find_root())
    rows = [stamp.status(prints, chapter) for chapter in repository.chapters(prints.root)]
    print(stamp.table(rows))
    return 1 if any(row.reasons for row in rows) else 0


def clean(options: argparse.Namespace) -> int:
    from gensrc.book import clean

    root = repository.find_root()
    for chapter in repository.choose(root, options.chapter):
        path = repository.notebook_path(root, chapter)
        text = clean.dumps(clean.clean(repository.read_notebook(path)))
        if text != path.read_text(encoding="utf8"):
            repository.write_atomically(path, text)
            print(f"cleaned {chapter}")
    return 0


def check(options: argparse.Namespace) -> int:
    from gensrc.book import contract

    root = repository.find_root()
    chapters = repository.choose(root, options.chapter)
    problems = [f"{chapter}: {problem}" for chapter in chapters for problem in contract.check(root, chapter)]
    problems += contract.clashes(root)
    print("\n".join(problems) or "All chapters checked keep the contract.")
    return 1 if problems else 0


def compare(options: argparse.Namespace) -> int:
    from gensrc.book import results

    problems = results.compare_files(options.result, options.reference)
    print("\n".join(problems) or "All figures agree within their tolerances.")
    return 1 if problems else 0


def site(options: argparse.Namespace) -> int:
    from gensrc.book import site

    print(f"The site is at {site.build() / 'index.html'}")
    return 0


def serve(options: argparse.Namespace) -> int:
    from gensrc.book import site

    site.serve(port=options.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
