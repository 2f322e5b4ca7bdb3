"""Tests the checker: plants violations into copies of a world's data, one at a time, and demands that exactly the named
invariants say so. Takes the arguments of check.py; the world itself has to pass, and is not changed."""

import os
import sys
import tempfile
from urllib.parse import urlsplit, urlunsplit

sys.dont_write_bytecode = True

import check  # noqa: E402
import twins  # noqa: E402
from plants import PLANTS, Scene  # noqa: E402
from sources import Books, read_database, run_sql  # noqa: E402

SECRET = "planted-secret-0123"


def read_lines(path):
    with open(path, encoding="utf-8") as file:
        return file.readlines()


def write_lines(folder, name, lines):
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(lines)
    return path


def planted(args, books, function, folder):
    """Plants one violation and runs the checker over what is then there; gives the names of what is violated."""
    carrier, ledger = args.ledger[0].split("=", 1)
    lists = {os.path.basename(path): read_lines(path) for path in args.list}
    scene = Scene(books, read_lines(ledger), lists, read_lines(args.exports))
    sql = function(scene)
    options = check.parse(["--database", args.database])
    options.__dict__.update(args.__dict__)
    options.ledger = [f"{carrier}={write_lines(folder, 'ledger', scene.ledger)}"]
    options.list = [write_lines(folder, name, lines) for name, lines in scene.lists.items()]
    options.exports = write_lines(folder, "exports", scene.exports)
    options.remember = write_lines(folder, "remember", [
        f"{' '.join(map(str, attempt))} {row.class_} {row.moved_minor}\n" for attempt, row in books.outcomes.items()])
    options.log, options.secret = [*args.log, write_lines(folder, "log", [scene.log])], [SECRET]
    return check.look(options, sql)


def scratch(args):
    """A copy of the database: what is planted is rolled back, and never in the world's own."""
    url = urlsplit(args.database)
    name = f"{url.path[1:]}_scratch"
    script = f'DROP DATABASE IF EXISTS "{name}";\nCREATE DATABASE "{name}" TEMPLATE "{url.path[1:]}";'
    run_sql(urlunsplit(url._replace(path="/postgres")), script)
    args.database = urlunsplit(url._replace(path=f"/{name}"))


def main(arguments):
    args = check.parse(arguments)
    healthy = check.look(args)
    if any(found.total for found in healthy):
        check.report(healthy, sys.stdout)
        print("the world does not pass: nothing can be planted into it")
        return 1
    books = Books(*read_database(args.database), check.options_of(args))
    wrong = 0
    scratch(args)
    for what, expected, function in PLANTS:
        with tempfile.TemporaryDirectory(prefix="tollbook-plant-") as folder:
            results = planted(args, books, function, folder)
        said = {found.name for found in results if found.total}
        names = " ".join(sorted(said, key=lambda name: int(name[1:])))
        print(f"{names or 'nothing':<16} {what}", flush=True)
        if said != expected:
            wrong += 1
            print(f"  WRONG: expected {' '.join(sorted(expected))}")
            for found in results:
                for violation in found.violations[:3]:
                    print(f"    {found.name}: {violation['what']}")
    print(f"{len(PLANTS)} plants, {wrong} reported wrongly")
    zones, periods, differences = twins.agree()
    print(f"{periods} periods in {zones} zones compared with the other calendar, {len(differences)} differences")
    print("".join(f"  {text}\n" for text in differences[:20]), end="")
    return 1 if wrong or differences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
