"""The core: what was made, what was acknowledged, what arrived, and what follows. Plain files and plain functions.

```text
            ┌─────────────▶ control collector ─▶ control*.jsonl    how a record looks that came directly
clients ────┤
            └─▶ agent ────▶ collector ─────────▶ collected*.jsonl  how it looks that came through the agent
```

A record is a span, a log record or a data point together with all that stands around it (resource, scope, metric,
schema). It is known by its signal and its number, the attribute `seq`. Nothing here knows what a record should look
like: through the agent it must look as it looks directly, byte for byte of the collector's own JSON.
"""

import hashlib
import json
import re
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from itertools import islice

SIGNALS = ("traces", "metrics", "logs")
# Every row has numbers of its own, so that a number alone says whose record it is.
ROW_NUMBERS = 10_000_000

_ENVELOPES = {
    "resourceSpans": ("traces", "scopeSpans", "spans"),
    "resourceMetrics": ("metrics", "scopeMetrics", "metrics"),
    "resourceLogs": ("logs", "scopeLogs", "logRecords"),
}
_POINTS = ("sum", "gauge", "histogram", "exponentialHistogram", "summary")
_SEQ = re.compile(rb'\{"key":"seq","value":\{"intValue":"(\d+)"\}\}')


# Of the control's lines, so many tell what the clients send: a hundred batches of each row.
_SAMPLE_LINES = 1_500


class Unreadable(Exception):
    """A collector's file is not what a collector writes."""


@dataclass(frozen=True)
class Place:
    """Where a record stands: a file and the line's first byte."""

    path: str
    offset: int


@dataclass
class Found:
    """What a collector has of one record."""

    digest: bytes
    place: Place
    times: int = 1
    # A copy that differs from the first one, when there is one.
    other: Place | None = None


@dataclass
class Row:
    """The account of one client, protocol and signal."""

    client: str
    protocol: str
    signal: str
    sent: int = 0
    acknowledged: int = 0
    delivered: int = 0
    lost: int = 0
    duplicates: int = 0
    invented: int = 0
    altered: int = 0
    refused: int = 0
    verdict: str = ""
    reasons: list[str] = field(default_factory=list)

    def as_json(self):
        return asdict(self)


@dataclass
class Book:
    """A client's own account of one signal: numbers made and acknowledged, calls refused."""

    made: set[int] = field(default_factory=set)
    acked: set[int] = field(default_factory=set)
    refused: int = 0


def read_ledger(path):
    """The books of one client, by signal. A last line that is only half written is no line yet."""
    books = {signal: Book() for signal in SIGNALS}
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        return books
    for line in text.split("\n")[:-1]:
        what, signal, first, count = line.split()
        book, first, count = books[signal], int(first), int(count)
        if what == "refused":
            book.refused += count
        else:
            (book.made if what == "made" else book.acked).update(range(first, first + count))
    return books


def seqs(text):
    """The numbers in raw lines, without understanding them: enough to watch a drain."""
    return {int(seq) for seq in _SEQ.findall(text)}


def records(line):
    """(signal, seq, around, item) of one line of a collector's file; seq is None where a record has none.

    `around` is one object for all items it surrounds.
    """
    for outer, (signal, middle, inner) in _ENVELOPES.items():
        for group in line.get(outer, ()):
            around = {"resource": group.get("resource"), "schema": group.get("schemaUrl")}
            for scope in group.get(middle, ()):
                within = {**around, "scope": scope.get("scope"), "scopeSchema": scope.get("schemaUrl")}
                for item in scope.get(inner, ()):
                    if signal != "metrics":
                        yield signal, seq_of(item), within, item
                        continue
                    kind = next((kind for kind in _POINTS if kind in item), None)
                    data = dict(item.get(kind, {}))
                    points = data.pop("dataPoints", ())
                    about = {**within, "metric": {**item, kind: data}}
                    for point in points:
                        yield signal, seq_of(point), about, point


def seq_of(item):
    for attribute in item.get("attributes", ()):
        if attribute["key"] == "seq":
            return int(attribute["value"]["intValue"])
    return None


def lines(paths):
    """(place, parsed line) of a collector's files, one file per life of the collector.

    A collector killed while it wrote leaves a torn last line. It had not answered yet, so that is nobody's loss.
    """
    for path in paths:
        offset = 0
        with open(path, "rb") as file:
            for raw in file:
                place, offset = Place(str(path), offset), offset + len(raw)
                try:
                    yield place, json.loads(raw)
                except ValueError:
                    if raw.endswith(b"\n"):
                        raise Unreadable(f"{place.path} holds a line at byte {place.offset} that is no JSON") from None


def digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode())


def read_collector(paths):
    """All that a collector has: by (signal, seq) what was found, and how many records had no number."""
    found, strays = {}, 0
    for place, line in lines(paths):
        before, common = None, b""
        for signal, seq, around, item in records(line):
            if seq is None:
                strays += 1
                continue
            if around is not before:
                before, common = around, digest(around).digest()
            whole = common + digest(item).digest()
            first = found.get((signal, seq))
            if first is None:
                found[signal, seq] = Found(whole, place)
            else:
                first.times += 1
                if whole != first.digest:
                    first.other = place
    return found, strays


def show(place, signal, seq):
    """The record itself, for a person."""
    with open(place.path, "rb") as file:
        file.seek(place.offset)
        line = json.loads(file.readline())
    return next({**around, "record": item} for s, q, around, item in records(line) if (s, q) == (signal, seq))


def difference(a, b, path=""):
    """The first place where two values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            if a.get(key) != b.get(key):
                return difference(a.get(key), b.get(key), f"{path}.{key}")
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b)):
            if x != y:
                return difference(x, y, f"{path}[{i}]")
    directly, through = (json.dumps(value, ensure_ascii=False) for value in (a, b))
    return f"{path.lstrip('.')}: directly {directly}, through the agent {through}"


# What the records of a signal must hold directly, else "nothing was altered" would say little.
_EVERY = {"stringValue", "intValue", "boolValue", "doubleValue", "arrayValue", "beyond 2^53", "beyond ASCII"}
_EVERY |= {"resource", "scope"}
MUST_HOLD = {
    "traces": _EVERY | {"traceId", "spanId", "parentSpanId", "events", "links", "status"},
    "metrics": _EVERY | {"sum", "gauge", "histogram", "exponentialHistogram"},
    "logs": _EVERY | {"traceId", "spanId", "severityNumber", "body", "eventName"},
}


def features(around, item):
    """What a record holds, as far as `MUST_HOLD` asks."""
    held = {key for key in item if item[key]} | around.get("metric", {}).keys()
    held |= {"resource"} if (around["resource"] or {}).get("attributes") else set()
    held |= {"scope"} if (around["scope"] or {}).get("name") else set()
    for attribute in item.get("attributes", ()):
        for kind, value in attribute["value"].items():
            held.add(kind)
            if kind == "intValue" and abs(int(value)) > 2**53:
                held.add("beyond 2^53")
            if kind == "stringValue" and not value.isascii():
                held.add("beyond ASCII")
    return held


def held_directly(paths):
    """By row (its index of numbers) what its records hold, from a sample of what the control collector has."""
    held = defaultdict(set)
    for _, line in islice(lines(paths), _SAMPLE_LINES):
        for _, seq, around, item in records(line):
            if seq is not None:
                held[seq // ROW_NUMBERS] |= features(around, item)
    return held


def judge(rows, books, control, collected, held):
    """Fills the rows. `books` and `held` go by the row's index; says how many records belong to no row."""
    index = {(row.signal, i): i for i, row in enumerate(rows)}
    foreign = 0
    arrived = defaultdict(set)
    for (signal, seq), found in collected.items():
        i = index.get((signal, seq // ROW_NUMBERS))
        if i is None:
            foreign += 1
            continue
        row, direct = rows[i], control.get((signal, seq))
        row.duplicates += found.times - 1
        if seq not in books[i].made or direct is None:
            row.invented += 1
            continue
        arrived[i].add(seq)
        if found.digest != direct.digest or found.other is not None:
            row.altered += 1
            if row.altered == 1:
                copy = found.place if found.digest != direct.digest else found.other
                differs = difference(show(direct.place, signal, seq), show(copy, signal, seq))
                row.reasons.append(f"{signal} {seq} altered at {differs}")
    for i, row in enumerate(rows):
        book = books[i]
        row.sent, row.acknowledged, row.refused = len(book.made), len(book.acked), book.refused
        row.delivered, lost = len(book.acked & arrived[i]), sorted(book.acked - arrived[i])
        row.lost = len(lost)
        pending = len(book.made - book.acked)
        lacks = sorted(MUST_HOLD[row.signal] - held.get(i, set()))
        row.reasons += [
            reason
            for wrong, reason in (
                (lost, f"lost {row.lost}, the first is {lost[0] if lost else None}"),
                (row.invented, f"{row.invented} arrived that were never made"),
                (row.altered, f"{row.altered} arrived otherwise than directly"),
                (pending, f"{pending} never acknowledged"),
                (not book.acked, "nothing was acknowledged"),
                (book.acked and not row.refused, "never met the absent agent"),
                (book.acked and lacks, f"the client sent no {', '.join(lacks)}"),
            )
            if wrong
        ]
        row.verdict = "FAIL" if row.reasons else "PASS"
    return foreign


_PARTS = ("delivered", "waiting", "dead_letters", "quarantined", "lost")


def agents_books(text):
    """The agent's own counts by pipeline, from its metrics: accepted, and what became of it."""
    books = {signal: dict.fromkeys(("accepted", *_PARTS), 0) for signal in SIGNALS}
    for line in text.splitlines():
        name, _, rest = line.partition("{")
        what = name.removeprefix("tfo_agent_items_")
        pipeline = re.search(r'pipeline="([^"/?]*)', rest)
        if what != name and what in books["logs"] and pipeline and pipeline[1] in books:
            books[pipeline[1]][what] += int(float(rest.rsplit(" ", 1)[1]))
    return books


def against_the_books(books, collected):
    """What the agent says of itself and the collector does not bear out; nothing, if all is well.

    What a client offered again, since it never got its answer, the agent may have twice, and then the collector has too.
    """
    wrong = []
    for signal, book in books.items():
        arrived = [found.times for (of, _), found in collected.items() if of == signal]
        once, all_times = len(arrived), sum(arrived)
        if book["accepted"] != sum(book[part] for part in _PARTS):
            wrong.append(f"{signal}: the books do not add up: {book}")
        if book["accepted"] != book["delivered"]:
            wrong.append(f"{signal}: all arrived, and not by the books: {book}")
        if not once <= book["delivered"] <= all_times:
            wrong.append(f"{signal}: {book['delivered']} delivered by the books, {once} arrived ({all_times} with repetitions)")
    return wrong
