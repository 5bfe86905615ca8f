"""Installs, plays, judges, prints. See README.md."""

import argparse
import json
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent / "interop"))
import cases  # noqa: E402  (it needs what stands in tests/interop)
import install  # noqa: E402
import judge  # noqa: E402
import processes  # noqa: E402
import scenario  # noqa: E402
import selftest  # noqa: E402
import verdict  # noqa: E402

AGENT = HERE.parents[1] / "target" / "release" / "tfo-otel-agent"
BOTH = ("grpc", "http/protobuf")
CLIENTS = {"python": BOTH, "go": BOTH, "node": (*BOTH, "http/json"), "java": BOTH}
BOUNDED = ("python", "go")
# Most of a case is waiting.
AT_ONCE = 4


@dataclass
class Client:
    """One program with one protocol."""

    language: str
    protocol: str
    words: list
    env: dict


@dataclass
class Row:
    """One client in one case."""

    language: str
    protocol: str
    case: str
    verdict: str = ""
    reasons: list = field(default_factory=list)
    wants: list = field(default_factory=list)
    seconds: float = 0


def client_of(language, say):
    """How a language's client is started: words, environment."""
    if language == "python":
        return [install.python(say), "-B", HERE / "python" / "jobs.py"], {}
    if language == "go":
        return [install.go(say, "sdk-go", HERE / "go")], {}
    if language == "node":
        return ["node", HERE / "node" / "jobs.cjs"], {"NODE_PATH": str(install.node(say))}
    return ["java", "-Xshare:auto", "-cp", install.java(say, "sdk-java", HERE / "java"), "Client"], {}


def gather(languages, names, say):
    """The collector, the clients that can be had here, and the rows of those that cannot."""
    skipped, clients = [], []

    def skip(language, reason):
        for protocol in CLIENTS[language]:
            skipped.extend(Row(language, protocol, name, "SKIPPED", [reason]) for name in names)

    try:
        collector = install.collector(say)
    except install.Missing as missing:
        for language in languages:
            skip(language, f"no collector: {missing}")
        return None, [], skipped
    for language in languages:
        try:
            words, env = client_of(language, say)
        except install.Missing as missing:
            skip(language, str(missing))
            continue
        clients += [Client(language, protocol, words, env) for protocol in CLIENTS[language]]
    return collector, clients, skipped


def play(stage, names, bounded, tell):
    """All cases with one client, one after the other."""
    rows, broke = [], None
    for name in names:
        row = Row(stage.client.language, stage.client.protocol, name)
        rows.append(row)
        if broke:
            row.reasons.append(f"not played, since `{broke}` did not come to its end")
            continue
        began, stage.wants = time.monotonic(), row.wants
        try:
            row.reasons += cases.CASES[name](stage, bounded)
        except (processes.Died, OSError) as broken:
            row.reasons.append(f"the case did not come to its end: {broken}")
            broke = name
        row.seconds = time.monotonic() - began
        tell(f"{row.language} {row.protocol} {name}: {row.seconds:.1f} s{'' if not row.reasons else ' FAIL'}")
    return rows


def run(home, clients, collector, agent, names, bounded, tell):
    """Everything that is played. Rows, judged but for what came to the far end; and the far end's own accounts."""
    ports = processes.ports(4 + 6 * len(clients))
    far = far_end(home, "collected", collector, ports[0:2])
    control = far_end(home, "control", collector, ports[2:4])
    stages = []
    try:
        far.start()
        control.start()
        for i, client in enumerate(clients):
            place = home / f"{client.language}-{client.protocol.replace('/', '-')}"
            place.mkdir()
            mine = ports[4 + 6 * i : 10 + 6 * i]
            stages.append(cases.Stage(place, client, i, mine, agent, ports[1], ports[2:4]))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            rows = [row for some in pool.map(lambda stage: play(stage, names, bounded, tell), stages) for row in some]
        far.stop()
        control.stop()
    finally:
        for stage in stages:
            stage.close()
        for server in (far, control):
            server.give_up()
    return rows


def far_end(home, name, binary, ports):
    config = scenario.collector_config(home, name, *ports)
    return processes.Server(name, [binary, "--config", config], home / f"{name}.log", ports)


def finish(home, rows):
    """What came to the far end, and what is known."""
    # A file of which nothing came is not there.
    come, direct = (verdict.read_collector(home.glob(f"{name}.jsonl"))[0] for name in ("collected", "control"))
    for row in rows:
        row.reasons += judge.arrived(row.wants, come, direct if row.case == "200" else None)
        row.verdict = "FAIL" if row.reasons else "PASS"


def report(rows, languages):
    """Prints it. True: nothing failed."""
    wide = max((len(row.case) for row in rows), default=0)
    for row in rows:
        because = f"  {'; '.join(row.reasons)}" if row.reasons else ""
        print(f"{row.verdict:7}  {row.language:6}  {row.protocol:13}  {row.case:{wide}}{because}".rstrip())
    for (language, protocol), what in cases.KNOWN.items():
        if language in languages:
            for one in sorted(what):
                print(f"known    {language:6}  {protocol:13}  {one}")
    count = {verdict: sum(row.verdict == verdict for row in rows) for verdict in ("PASS", "FAIL", "SKIPPED")}
    if count["SKIPPED"]:
        print(f"SKIPPED  {count['SKIPPED']} rows are not proved here")
    print(f"{count['PASS']} passed, {count['FAIL']} failed, {count['SKIPPED']} skipped")
    return count["FAIL"] == 0


def play_all(options, say):
    agent = options.agent.resolve()
    if not agent.is_file():
        sys.exit(f"no agent at {agent}; `cargo build --release` makes one, --agent names another")
    languages = [one for one in (BOUNDED if options.bounded else CLIENTS) if options.language in (None, one)]
    names = [name for name in (cases.BOUNDED if options.bounded else cases.CASES) if options.case in name]
    try:
        collector, clients, rows = gather(languages, names, say)
    except install.Broken as broken:
        print(f"FAIL     what the test needs does not build: {broken}\n0 passed, 1 failed, 0 skipped")
        return False
    if not clients:
        return report(rows, languages)
    home, good, began = Path(tempfile.mkdtemp(prefix="tfo-sdk-")), False, time.monotonic()
    try:
        tell = lambda what: say(f"{time.monotonic() - began:5.1f}s  {what}")  # noqa: E731
        played = run(home, clients, collector, agent, names, options.bounded, tell)
        finish(home, played)
        (home / "rows.json").write_text(json.dumps([vars(row) for row in played], indent=1))
        good = report(played + rows, languages)
    except (processes.Died, verdict.Unreadable) as broken:
        print(f"FAIL     the story was not played and told to its end: {broken}")
        print(f"0 passed, 1 failed, {len(rows)} skipped")
    finally:
        if good and not options.keep:
            shutil.rmtree(home, ignore_errors=True)
        else:
            say(f"configurations, logs, spools and what arrived stay in {home}")
    return good


def main():
    parser = argparse.ArgumentParser(prog="tests/sdk/run", description="SDKs as clients of the agent.")
    parser.add_argument("--bounded", action="store_true", help=f"only {' and '.join(BOUNDED)}, few cases")
    parser.add_argument("--agent", type=Path, default=AGENT, help="the agent's binary, target/release/tfo-otel-agent")
    parser.add_argument("--language", choices=CLIENTS, help="only this one")
    parser.add_argument("--case", default="", help="only cases with this in their name")
    parser.add_argument("--keep", action="store_true", help="keep the run's folder also when all is well")
    parser.add_argument("--self-test", action="store_true", help="only test the judge")
    options = parser.parse_args()
    scenario.ends_on_sigterm()

    def say(what):
        print(what, file=sys.stderr, flush=True)

    selftest.ask(HERE, options.self_test, say)
    sys.exit(not play_all(options, say))


main()
