"""The console script `gensrc-book`.

Exit status: 0 all is well, 1 something was found (stale, failed, against the rules), 2 it could not be
done as asked, 128 and its number if a signal ended it. Each command imports what it needs when it runs, so
that `status` stays quick.
"""

import argparse
import contextlib
import gc
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from gensrc.book import repository
from gensrc.book.repository import BookError

ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
Command = Callable[[argparse.Namespace], int]


def main(arguments: list[str] | None = None) -> int:
    _print_anything()
    options = parser().parse_args(arguments)
    if folder := os.environ.get("GENSRC_DATA"):  # each chapter runs in a folder of its own
        os.environ["GENSRC_DATA"] = os.path.abspath(os.path.expanduser(folder))
    try:
        with _ended_by_signals():
            status = options.run(options)
            sys.stdout.flush()
        return status
    except BookError as error:
        _complain(str(error))
        return 2
    except BrokenPipeError:  # whoever read what it prints has gone, as `head` does
        _print_nothing()
        return 141  # as one that SIGPIPE ended
    except OSError as error:
        from gensrc.book.run import storage

        _complain(storage.said(error))
        _print_nothing()
        return 2
    except (KeyboardInterrupt, SystemExit) as ended:
        _complain("interrupted; what had not come to its end is as it was.", before="\n")
        return int(ended.code or 0) if isinstance(ended, SystemExit) else 128 + signal.SIGINT


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Have a signal that ends processes raise an exception as Ctrl-C does, so that nothing is left running.

    Only the first does: others, as of someone who presses Ctrl-C twice, must not cut the tidying up short.
    """

    def end(number: int, _: object) -> None:
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # as `nohup` has it
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) == end:
                signal.signal(number, handler)


def _print_anything() -> None:
    """Have ? printed for what the encoding of the terminal lacks, such as the tick: no command ends by what it says."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started this
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (open to the end)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _complain(message: str, before: str = "") -> None:
    with contextlib.suppress(OSError):  # a terminal that was closed changes no exit status
        print(f"{before}gensrc-book: {message}", file=sys.stderr, flush=True)


def _print_nothing() -> None:
    """Let Python, when it ends, write what is left to print to nowhere instead of failing once more."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="gensrc-book", description="Executes, checks and publishes the book's chapters.")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_running(commands)
    _add_checking(commands)
    _add_publishing(commands)
    return top


def _add_running(commands: argparse._SubParsersAction) -> None:
    one = _add(commands, "execute", execute, "run chapters and store their outputs")
    _add_chapters(one, "default: those that are stale")
    one.add_argument("--all", action="store_true", help="all chapters, stale or not")
    one.add_argument("--profile", default="quick", help="quick replaces the notebooks, full writes book/results")
    one.add_argument("--seed", type=int, default=0, help="another seed leaves the notebooks as they are")
    one.add_argument("--jobs", type=int, help="chapters at a time")
    one.add_argument("--timeout", type=float, metavar="S", help="seconds that one chapter may take")
    one.add_argument("--results", type=Path, metavar="FOLDER", help="where full runs are recorded")

    one = _add(commands, "compare", compare, "compare a full run with a recorded one, within tolerance")
    one.add_argument("result", type=Path, help="the record to judge, or a folder of records")
    one.add_argument("reference", type=Path, help="the record or folder to judge by")

    one = _add(commands, "carry", carry, "carry records of full runs over a change of code that changes no output")
    one.add_argument("before", type=Path, metavar="FOLDER", help="a checkout from before the change")
    _add_chapters(one, "default: all")
    one.add_argument("--current", type=Path, metavar="FILE", help="what the old `gensrc-book status` printed")


def _add_checking(commands: argparse._SubParsersAction) -> None:
    _add(commands, "status", status, "say which chapters are stale, and why")

    one = _add(commands, "chapters", chapters, "print the notebooks of the chapters that are meant, one a line")
    _add_chapters(one, "default: all")

    one = _add(commands, "clean", clean, "take out what makes diffs noisy")
    _add_chapters(one, "default: all")

    one = _add(commands, "check", check, "say which rules chapters, the .yml files of book/ and data cards break")
    _add_chapters(one, "default: all, and the other files too")


def _add_publishing(commands: argparse._SubParsersAction) -> None:
    _add(commands, "site", site, "build the site, strictly, in _build/html")
    _add(commands, "links", links, "ask every address that the pages link whether it is there")
    one = _add(commands, "serve", serve, "serve the built site on this machine")
    one.add_argument("--port", type=int, default=8000, help="default: %(default)s")

    _add(commands, "address", address, "print the address of the repository that the sources name")
    one = _add(commands, "publish", publish, "write the notebooks as Colab opens them, and push them if asked")
    _add_publisher(one, "who publishes")
    one.add_argument("--tag", help="the release that it installs (default: that of gensrc's version)")
    one.add_argument("--push", metavar="REMOTE", help="push the folder as the branch that Colab opens, and the tag")

    one = _add(commands, "cell", cell, "print the first code cell that every chapter must have")
    one.add_argument("--write", action="store_true", help="put it into every chapter's cell tagged colab")
    one = _add(commands, "colab", colab, "run each published chapter alone, installed as a reader of Colab does")
    _add_publisher(one, "where the release is published")


def _add(commands: argparse._SubParsersAction, name: str, run: Command, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(run=run)
    return command


def _add_chapters(command: argparse.ArgumentParser, default: str) -> None:
    names = "such as 2-gans-to-transformers/03-vae, 03-vae or '*'"
    command.add_argument("chapter", nargs="*", help=f"{names} ({default})")


def _add_publisher(command: argparse.ArgumentParser, whose: str) -> None:
    command.add_argument("--repository", required=True, metavar="OWNER/NAME", help=whose)
    command.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="a new or empty folder")


# --- Running -----------------------------------------------------------------------------------------


def execute(options: argparse.Namespace) -> int:
    from gensrc.book.run import execute

    root = repository.find_root()
    plan = execute.plan(
        root,
        profile=options.profile,
        seed=options.seed,
        jobs=options.jobs,
        timeout=options.timeout,
        results=options.results,
    )
    _tell_of_scratch(root)
    asked = options.chapter or options.all
    chapters = repository.choose(root, options.chapter) if asked else execute.needed(plan)
    if not chapters:
        print("Nothing to execute: no chapter is stale.")
    return 0 if execute.execute(plan, chapters) else 1


def _tell_of_scratch(root: Path) -> None:
    if note := repository.note_on_scratch(root):
        print(note, file=sys.stderr)


def compare(options: argparse.Namespace) -> int:
    from gensrc.book.run import records

    problems = records.compare_files(options.result, options.reference)
    print("\n".join(problems) or "All figures agree within their tolerances.")
    return 1 if problems else 0


def carry(options: argparse.Namespace) -> int:
    from gensrc.book.run import carry

    root = repository.find_root()
    told = carry.carry(root, options.before, repository.choose(root, options.chapter), options.current)
    print("\n".join(f"{chapter}: {what}" for chapter, what in told.items()) or "There are no chapters.")
    return 0


# --- Checking ----------------------------------------------------------------------------------------


def status(options: argparse.Namespace) -> int:
    from gensrc.book.checks import staleness

    gc.disable()  # the syntax trees of the whole book stay alive to the end: looking for garbage among them takes long
    try:
        prints = staleness.Fingerprints(repository.find_root())
        rows = [staleness.status(prints, chapter) for chapter in repository.chapters(prints.root)]
    finally:
        gc.enable()
    _tell_of_scratch(prints.root)
    print(staleness.table(rows))
    return 1 if any(row.reasons for row in rows) else 0


def chapters(options: argparse.Namespace) -> int:
    """For the Makefile, which hands the files to nbval: so never nothing, which pytest would take for everything."""
    root = repository.find_root()
    found = repository.choose(root, options.chapter)
    if not found:
        raise BookError("there are no chapters in notebooks/ yet.")
    print("\n".join(repository.notebook_path(Path(), chapter).as_posix() for chapter in found))
    return 0


def clean(options: argparse.Namespace) -> int:
    from gensrc import atomic
    from gensrc.book import clean

    root = repository.find_root()
    for chapter in repository.choose(root, options.chapter):
        path = repository.notebook_path(root, chapter)
        text = clean.dumps(clean.clean(repository.read_notebook(path)))
        if text != path.read_text(encoding="utf8"):
            atomic.write(path, text)
            print(f"cleaned {chapter}")
    return 0


def check(options: argparse.Namespace) -> int:
    """Without a name: all chapters and whatever else people write by hand."""
    from gensrc.book.checks import chapter_rules
    from gensrc.book.pages import articles, datasets, errata, questions
    from gensrc.book.run import cost_line

    root = repository.find_root()
    chapters = repository.choose(root, options.chapter)
    problems = [f"{chapter}: {problem}" for chapter in chapters for problem in chapter_rules.check(root, chapter)]
    problems += [f"{chapter}: {problem}" for chapter in chapters for problem in cost_line.problems(root, chapter)]
    problems += chapter_rules.clashes(root)
    if not options.chapter:
        for page in (articles, errata, questions, datasets):
            problems += page.problems_of(root)
    print("\n".join(problems) or "All that was checked keeps the rules.")
    return 1 if problems else 0


# --- Publishing --------------------------------------------------------------------------------------


def site(options: argparse.Namespace) -> int:
    from gensrc.book.site import build

    print(f"The site is at {build.build() / 'index.html'}")
    return 0


def links(options: argparse.Namespace) -> int:
    from gensrc.book.site import build

    print(f"Every link leads somewhere; the list is {build.check_links()}")
    return 0


def serve(options: argparse.Namespace) -> int:
    from gensrc.book.site import build

    build.serve(port=options.port)
    return 0


def address(options: argparse.Namespace) -> int:
    print(repository.address(repository.find_root()))
    return 0


def publish(options: argparse.Namespace) -> int:
    import gensrc
    from gensrc.book.checks import staleness
    from gensrc.book.release import colab_cell, publish

    root = repository.find_root()
    for row in staleness.of_book(root):
        if row.reasons:
            raise BookError(f"{row.chapter} is stale ({row.reasons[0]}), so nothing is published: execute it first.")
    tag = options.tag or colab_cell.tag(gensrc.__version__)
    written = publish.publish(root, options.repository, tag, options.out)
    print(f"{options.out}: {len(written)} notebooks of {options.repository}, {tag}.")
    if options.push:
        publish.push(root, options.out, options.push, tag)
        print(f"Pushed as branch '{repository.branch(root)}' of {options.push}.")
    return 0


def cell(options: argparse.Namespace) -> int:
    import gensrc
    from gensrc.book.release import colab_cell

    root = repository.find_root()
    if options.write:
        for chapter in colab_cell.write_all(root):
            print(f"wrote the first cell of {chapter}")
    else:
        print(colab_cell.cell(repository.address(root), gensrc.__version__))
    return 0


def colab(options: argparse.Namespace) -> int:
    from gensrc.book.release import colab

    failures = 0
    for chapter, outcome in colab.run_all(repository.find_root(), options.repository, options.out):
        if isinstance(outcome, BookError):
            failures += 1
            print(f"{chapter}: {outcome}")
        else:
            print(f"{chapter}: runs; installed {', '.join(f'{name} {version}' for name, version in outcome.items())}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
