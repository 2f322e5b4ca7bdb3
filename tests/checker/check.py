"""The independent checker: reads a carrier's own ledger, the database and exports, and says which of the invariants
I1 to I21 do not hold. Shares no code with the engine. See docs/how-to/check-the-books.md.

Exit codes: 0 every invariant holds, 1 violations, 2 it cannot look."""

import argparse
import json
import shlex
import sys
import traceback
from types import SimpleNamespace

sys.dont_write_bytecode = True

import attempts  # noqa: E402
import money  # noqa: E402
import rules  # noqa: E402
import traces  # noqa: E402
from sources import Books, CannotRun, read_database  # noqa: E402

INVARIANTS = [
    money.i01, money.i02, money.i03, money.i04, money.i05, attempts.i06, attempts.i07, attempts.i08, attempts.i09,
    attempts.i10, money.i11, money.i12, rules.i13, traces.i14, traces.i15, attempts.i16, rules.i17, rules.i18, traces.i19,
    traces.i20, traces.i21,
]
DESCRIBED_MAX = 50


class Found:
    """What one invariant found: violations (the first are described, all are counted), and what was not looked at."""

    def __init__(self, invariant):
        self.name = invariant.__name__.upper().replace("I0", "I")
        self.statement = " ".join(invariant.__doc__.split())
        self.violations, self.total, self.rows_looked_at, self.unchecked, self.notes = [], 0, 0, [], []

    def looked(self, rows=1):
        """So many rows were looked at."""
        self.rows_looked_at += rows

    def violation(self, sentence, *rows):
        """Something that may not be, with the rows that show it."""
        self.total += 1
        if len(self.violations) < DESCRIBED_MAX:
            self.violations.append({"what": sentence, "rows": [shown(row) for row in rows]})

    def not_checked(self, reason):
        """A part that nobody looked at, and why."""
        if reason not in self.unchecked:
            self.unchecked.append(reason)

    def note(self, sentence):
        """Something worth knowing that is no violation."""
        self.notes.append(sentence)

    def as_json(self):
        return {"invariant": self.name, "statement": self.statement, "holds": not self.total, "violations": self.total,
                "described": self.violations, "rows_looked_at": self.rows_looked_at, "not_checked": self.unchecked,
                "notes": self.notes}


def shown(row):
    """A row as it may stand in a report: numbers of subscribers are cut."""
    fields = {name: value for name, value in row._asdict().items() if name != "written_by"}
    if "msisdn" in fields:
        fields["msisdn"] = money.masked(fields["msisdn"])
    return fields


def check(books):
    """Runs every invariant; gives one Found each."""
    results = []
    for invariant in INVARIANTS:
        found = Found(invariant)
        invariant(books, found)
        results.append(found)
    return results


def report(results, out):
    """For people: one line per invariant, then what is wrong, then what nobody looked at."""
    for found in results:
        mark = "VIOLATED" if found.total else "holds" if found.rows_looked_at else "not checked"
        count = f"{found.total} violations" if found.total else f"{found.rows_looked_at} rows" if found.rows_looked_at else ""
        print(f"{found.name:<4} {mark:<12} {count:<16} {found.statement}", file=out)
    for found in results:
        if found.total:
            print(f"\n{found.name}: {found.total} violations", file=out)
        for violation in found.violations:
            print(f"  {violation['what']}", file=out)
            for row in violation["rows"]:
                print(f"    {' '.join(f'{name}={value}' for name, value in row.items())}", file=out)
        if found.total > len(found.violations):
            print(f"  and {found.total - len(found.violations)} more", file=out)
    print("\nNot checked:", file=out)
    for found in results:
        for reason in found.unchecked:
            print(f"  {found.name}: {reason}", file=out)
    for found in results:
        for note in found.notes:
            print(f"Note, {found.name}: {note}", file=out)
    wrong = [found.name for found in results if found.total]
    print(f"\n{'Violated: ' + ', '.join(wrong) if wrong else 'Every invariant that was checked holds.'}", file=out)


def parse(arguments):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--database", required=True, metavar="URL", help="postgres://…")
    parser.add_argument("--ledger", action="append", default=[], metavar="CARRIER=FILE", help="a carrier's own ledger")
    parser.add_argument("--list", action="append", default=[], metavar="CSV", help="a list that was imported")
    parser.add_argument("--log", action="append", default=[], metavar="PATH", help="a log, dump or folder to scan (I21)")
    parser.add_argument("--secret", action="append", default=[], metavar="TEXT", help="a secret that may stand nowhere (I21)")
    parser.add_argument("--secret-file", action="append", default=[], metavar="FILE", help="the same, one a line")
    parser.add_argument("--msisdn", action="append", default=[], metavar="NUMBER", help="a number that may stand nowhere")
    parser.add_argument("--toll", metavar="COMMAND", help="toll with its options; explains a sample (I14, I15)")
    parser.add_argument("--sample", type=int, default=20, help="how many charges are explained")
    parser.add_argument("--exports", metavar="FILE", help="stories of an earlier run, one JSON a line, instead of --toll")
    parser.add_argument("--save-exports", metavar="FILE", help="keep the stories of --toll")
    parser.add_argument("--remember", metavar="FILE", help="compare outcomes with those of the last check, and keep them (I8)")
    parser.add_argument("--resolved", action="store_true", help="nothing may be UNKNOWN any more (I3, I16)")
    parser.add_argument("--lag-hours", type=float, default=24, help="business hours that charging may be behind (I13)")
    parser.add_argument("--scale", type=int, help="business seconds per second while it ran, if the clock was changed since")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the report")
    return parser.parse_args(arguments)


def options_of(args):
    """What the invariants need of the command line."""
    secrets = list(args.secret)
    for path in args.secret_file:
        with open(path, encoding="utf-8") as file:
            secrets += [text.strip() for text in file if text.strip()]
    ledgers = []
    for text in args.ledger:
        carrier, equals, path = text.partition("=")
        if not equals:
            raise CannotRun(f"--ledger {text}: CARRIER=FILE is needed")
        ledgers.append((carrier, path))
    exports = []
    if args.exports:
        with open(args.exports, encoding="utf-8") as file:
            exports = [json.loads(text) for text in file]
    return SimpleNamespace(ledgers=ledgers, lists=args.list, logs=args.log, secrets=secrets, msisdns=args.msisdn,
                           toll=shlex.split(args.toll or ""), sample=args.sample, exports=exports, remember=args.remember,
                           resolved=args.resolved, lag_hours=args.lag_hours, scale=args.scale)


def look(args, planted=None):
    """Reads everything and runs every invariant."""
    options = options_of(args)
    books = Books(*read_database(args.database, planted), options)
    if options.scale is None:
        options.scale = books.scale
    if options.toll:
        books.exports = traces.explain(books)
        if args.save_exports:
            with open(args.save_exports, "w", encoding="utf-8") as file:
                file.writelines(json.dumps(story) + "\n" for story in books.exports)
    return check(books)


def main(arguments):
    args = parse(arguments)
    try:
        results = look(args)
    except (CannotRun, OSError, ValueError) as why:
        print(f"check: {why}", file=sys.stderr)
        return 2
    except Exception:  # a flaw of the checker, or data of a shape that nobody thought of: no verdict either
        traceback.print_exc()
        return 2
    violated = any(found.total for found in results)
    if args.json:
        print(json.dumps({"holds": not violated, "invariants": [found.as_json() for found in results]}))
    else:
        report(results, sys.stdout)
    return 1 if violated else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
