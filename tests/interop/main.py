"""Installs, plays, judges, prints. See README.md."""

import argparse
import gc
import json
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import install
import processes
import scenario
import selftest
import verdict

HERE = Path(__file__).resolve().parent
AGENT = HERE.parents[1] / "target" / "release" / "tfo-otel-agent"


@dataclass
class Client:
    """One program with one protocol; it sends all signals."""

    language: str
    protocol: str
    words: list = field(default_factory=list)
    env: dict = field(default_factory=dict)

    @property
    def name(self):
        return f"{self.language}-{self.protocol.replace('/', '-')}"

    def rows(self):
        return [verdict.Row(self.language, self.protocol, signal) for signal in verdict.SIGNALS]


CLIENTS = {"python": ("grpc", "http"), "node": ("grpc", "http/protobuf", "http/json")}


@dataclass
class Check:
    """Something that must hold for the run as a whole."""

    name: str
    holds: bool
    detail: str = ""


def gather(say):
    """What can be played here: the collector, the clients, and rows that are skipped with their reasons."""
    skipped, clients = [], []

    def skip(language, reason):
        for protocol in CLIENTS[language]:
            for row in Client(language, protocol).rows():
                row.verdict, row.reasons = "SKIPPED", [reason]
                skipped.append(row)

    try:
        collector = install.collector(say)
    except install.Missing as missing:
        for language in CLIENTS:
            skip(language, f"no collector: {missing}")
        return None, [], skipped
    for language, protocols in CLIENTS.items():
        try:
            if language == "python":
                words, env = [install.python(say), "-B", HERE / "python" / "client.py"], {}
            else:
                words, env = ["node", HERE / "node" / "client.cjs"], {"NODE_PATH": str(install.node(say))}
        except install.Missing as missing:
            skip(language, str(missing))
            continue
        clients += [Client(language, protocol, words, env) for protocol in protocols]
    return collector, clients, skipped


def judge(home):
    """The verdict over a run's folder: rows, and checks of the whole."""
    # Nothing we read has cycles, and looking for them among 300,000 kept records takes as long as all the rest.
    gc.disable()
    run = json.loads((home / "run.json").read_text())
    clients = [Client(*names) for names in run["clients"]]
    rows = [row for client in clients for row in client.rows()]
    books = {}
    for i, client in enumerate(clients):
        for j, book in enumerate(verdict.read_ledger(home / f"{client.name}.ledger").values()):
            books[i * len(verdict.SIGNALS) + j] = book
    control = [home / "control.jsonl"]
    direct, _ = verdict.read_collector(control)
    came, strays = verdict.read_collector(scenario.collected(home))
    foreign = verdict.judge(rows, books, direct, came, verdict.held_directly(control))
    kills = run["kills"]
    waited = [kill["waiting"] for kill in kills if kill["drained"] is None]
    drained = [kill["drained"] for kill in kills if kill["drained"] is not None]
    checks = [
        Check("killed with acknowledged records not delivered", bool(waited) and all(waited), f"{waited}"),
        Check("killed again when the drain had begun", bool(drained) and all(drained), f"{drained}"),
        Check("nothing arrived that is nobody's", not foreign + strays, f"{foreign + strays} records"),
        Check("the agent ends on SIGTERM with 0", run["agent_ended_on_sigterm"]),
    ]
    wrong = verdict.against_the_books(verdict.agents_books((home / "books.prom").read_text()), came)
    checks.append(Check("the agent's books are what the collector has", not wrong, "; ".join(wrong)))
    for client in clients:
        log = (home / f"{client.name}.log").read_text(errors="replace")
        odd = [line for line in log.splitlines() if "deserialize" in line or "artial success" in line.lower()]
        checks.append(Check(f"{client.name} understood every answer", not odd, odd[0] if odd else ""))
    return rows, checks, kills


def table(rows):
    heads = "client protocol signal sent acknowledged delivered lost duplicates refused verdict".split()

    def cell(row, head):
        value = getattr(row, head)
        # Of what was not played there are no numbers.
        return "-" if row.verdict == "SKIPPED" and isinstance(value, int) else str(value)

    lines = [heads] + [tuple(cell(row, head) for head in heads) for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    for line, row in zip(lines, [None, *rows]):
        words = [w.ljust(n) if i < 3 or i == 9 else w.rjust(n) for i, (w, n) in enumerate(zip(line, widths))]
        print("  ".join(words).rstrip() + (f" ({'; '.join(row.reasons)})" if row and row.reasons else ""))


def report(rows, checks, kills, seconds, as_json):
    """Prints it. True: nothing failed."""
    passed = sum(row.verdict == "PASS" for row in rows) + sum(check.holds for check in checks)
    failed = sum(row.verdict == "FAIL" for row in rows) + sum(not check.holds for check in checks)
    skipped = sum(row.verdict == "SKIPPED" for row in rows)
    if as_json:
        result = {
            "passed": passed,
            "failed": failed,
            "skipped": skipped,
            "proved": failed == 0 and skipped == 0 and passed > 0,
            "seconds": round(seconds, 1),
            "kills": kills,
            "checks": [vars(check) for check in checks],
            "rows": [row.as_json() for row in rows],
        }
        print(json.dumps(result, ensure_ascii=False))
        return failed == 0
    table(rows)
    for check in checks:
        print(f"{'PASS' if check.holds else 'FAIL'}  {check.name}{f': {check.detail}' if check.detail else ''}")
    if skipped:
        print(f"SKIPPED  {skipped} rows are not proved here")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return failed == 0


def play(options, say):
    agent = options.agent.resolve()
    if not agent.is_file():
        sys.exit(f"no agent at {agent}; `cargo build --release` makes one, --agent names another")
    try:
        collector, clients, skipped = gather(say)
    except install.Broken as broken:
        return report([], [Check("the collector builds", False, str(broken))], [], 0, options.json)
    if not clients:
        return report(skipped, [], [], 0, options.json)
    home = Path(tempfile.mkdtemp(prefix="tfo-interop-"))
    began = time.monotonic()

    def tell(what):
        say(f"{time.monotonic() - began:5.1f}s  {what}")

    stage, good = None, False
    try:
        pace = scenario.BOUNDED if options.bounded else scenario.LONG
        stage = scenario.Stage(home, agent, collector, options.out, pace, tell)
        run = stage.play(clients)
        run["clients"] = [(client.language, client.protocol) for client in clients]
        (home / "run.json").write_text(json.dumps(run))
        rows, checks, kills = judge(home)
        good = report(rows + skipped, checks, kills, time.monotonic() - began, options.json)
    except (processes.Died, verdict.Unreadable) as broken:
        checks = [Check("the story was played and told to its end", False, str(broken))]
        good = report(skipped, checks, [], time.monotonic() - began, options.json)
    finally:
        if stage is not None:
            stage.clear()
        if good and not options.keep:
            shutil.rmtree(home, ignore_errors=True)
        else:
            say(f"configurations, logs, ledgers, spool and what arrived stay in {home}")
    return good


def main():
    parser = argparse.ArgumentParser(prog="tests/interop/run", description="Real SDKs, the agent, a real Collector.")
    parser.add_argument("--bounded", action="store_true", help="one outage, half a minute; else five, two minutes")
    parser.add_argument("--out", choices=scenario.OUT, default="http", help="how the agent sends to the collector")
    parser.add_argument("--agent", type=Path, default=AGENT, help="the agent's binary, target/release/tfo-otel-agent")
    parser.add_argument("--json", action="store_true", help="the result as one JSON object on the last line")
    parser.add_argument("--keep", action="store_true", help="keep the run's folder also when all is well")
    parser.add_argument("--judge", type=Path, metavar="DIR", help="only judge a kept folder again")
    parser.add_argument("--self-test", action="store_true", help="only test the judge")
    options = parser.parse_args()
    scenario.ends_on_sigterm()

    def say(what):
        print(what, file=sys.stderr, flush=True)

    selftest.ask(HERE, options.self_test, say)
    if options.judge:
        rows, checks, kills = judge(options.judge)
        sys.exit(not report(rows, checks, kills, 0, options.json))
    sys.exit(not play(options, say))


main()
