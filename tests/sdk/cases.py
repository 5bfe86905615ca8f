"""The cases: what the agent is made to answer, and what each SDK has to make of it.

```text
            ┌────────────────────────────▶ control collector
SDK client ─┴▶ tap ─▶ agent ─▶ gate ─▶ collector
               notes           can be cut
```

A stage is one client (language and protocol) with an agent of its own, which each case starts with the configuration it
needs and ends with SIGTERM.
"""

import json
import queue
import random
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import judge
import processes
import scenario
import tap
import verdict

SIGNALS = verdict.SIGNALS
ITEMS = {"traces": "spans", "metrics": "metric_points", "logs": "log_records"}
TOKEN = "the-right-one"
COUNT = 10
# Of the richest records 400 bytes and more each: 1.3 MB and more, and well below the limit once they are compressed.
OVERSIZE = 3_200
LIMIT_MIB = 1
MEMORY_MIB, SPIKE_MIB, HELD_MIB = 4, 1, 5

# A client is given so long by default; Go's waits 5 s and more before it comes back the first time, so two of its waits
# are 20 s at most.
TIMEOUT_S = 10
PATIENT_S = 45
IMPATIENT_S = 4
# An SDK that asks again what it was told not to makes its request anew each time; so long, that also on a busy machine
# it asks twice.
INSISTS_S = 8
GRACE_S = 60
FILLS = 60
ARRIVES_S = 20

# What is known of SDKs that do not do what OTLP says. Each is held to exactly that: who mends it turns a row red.
INSISTS = "retries RESOURCE_EXHAUSTED without RetryInfo until its timeout or last try; OTLP (Failures) says not to"
IMPOLITE = "does not wait as long as RetryInfo or Retry-After asks"
NO_RETRY = "retries nothing over gRPC, though OTLP says UNAVAILABLE is to be retried"
DEAF = "does not tell of a partial success"
KNOWN = {
    ("python", "grpc"): {INSISTS, IMPOLITE, DEAF},
    ("python", "http/protobuf"): {DEAF},
    ("node", "grpc"): {NO_RETRY},
    ("java", "grpc"): {INSISTS, IMPOLITE, DEAF},
    ("java", "http/protobuf"): {DEAF},
}
# Who lets its user say what media type a body has; the others say it themselves whatever they are told.
SETS_MEDIA_TYPE = {("python", "http/protobuf")}


class Stage:
    """One client, an agent of its own, and what is between them and the far end."""

    def __init__(self, home, client, index, ports, agent, collector, control):
        self.home, self.client, self.binary, self.control = home, client, agent, control
        self.grpc, self.http, self.hold, self.metrics, at, gate = ports
        self.over_grpc = client.protocol == "grpc"
        self.tap = tap.Tap(at, self.grpc if self.over_grpc else self.http, client.protocol)
        self.url, self.direct_url = (f"http://127.0.0.1:{port}" for port in (at, self.tap.target))
        self.gate = tap.Tap(gate, collector)
        self.collected, self.tail, self.seqs = home.parent / "collected.jsonl", scenario.Tail(), set()
        self.next = (index + 1) * verdict.ROW_NUMBERS + 1
        self.lives, self.server, self.wants = 0, None, []
        self.log = open(home / "client.log", "w")
        env = processes.loopback_only() | client.env
        pipes = {"stdin": subprocess.PIPE, "env": env, "text": True}
        self.child = processes.spawn([*client.words, client.protocol], subprocess.PIPE, stderr=self.log, **pipes)
        self.lines = queue.Queue()
        processes.background(self.listen)

    def close(self):
        processes.end(self.child)
        self.tap.close()
        self.gate.close()
        self.log.close()

    def knows(self, what):
        return what in KNOWN.get((self.client.language, self.client.protocol), ())

    # ---- the agent

    @contextmanager
    def agent(self, **options):
        """An agent with this configuration; it must end well, and with nothing of ours left in it."""
        self.lives += 1
        config = self.home / f"agent-{self.lives}.yaml"
        config.write_text(self.config(**options))
        words = [self.binary, "run", "--config", config]
        listens = self.grpc, self.http, self.hold, self.metrics
        self.server = processes.Server("the agent", words, self.home / "agent.log", listens)
        try:
            self.server.start()
            self.gate.mend()
            yield
            self.server.check()
            self.all_arrives()
            if not self.server.stop():
                raise processes.Died(f"the agent did not end on SIGTERM with 0, see {self.server.log}")
        finally:
            self.server.give_up()

    def config(self, token=False, limits=False, memory=False, spool="", signals=SIGNALS):
        auth = ", auth: {authenticator: bearertokenauth}" if token else ""
        small = f", max_recv_msg_size_mib: {LIMIT_MIB}" if limits else ""
        short = f", max_request_body_size: {LIMIT_MIB << 20}" if limits else ""
        names = "[memory_limiter, batch]" if memory else "[batch]"
        limiter = f"memory_limiter: {{check_interval: 50ms, limit_mib: {MEMORY_MIB}, spike_limit_mib: {SPIKE_MIB}}}"
        pipeline = f"{{receivers: [otlp, otlp/others], processors: {names}, exporters: [otlphttp]}}"
        pipelines = "\n".join(f"    {signal}: {pipeline}" for signal in signals)
        return f"""receivers:
  otlp:
    protocols:
      grpc: {{endpoint: 127.0.0.1:{self.grpc}{small}{auth}}}
      http: {{endpoint: 127.0.0.1:{self.http}{short}{auth}}}
  otlp/others: # of whom the numbers of `otlp` say nothing
    protocols: {{http: {{endpoint: 127.0.0.1:{self.hold}}}}}
processors:
  batch: {{timeout: 50ms}}
  {limiter if memory else ""}
exporters:
  otlphttp:
    endpoint: http://127.0.0.1:{self.gate.listener.getsockname()[1]}
    retry_on_failure: {{initial_interval: 250ms, max_interval: 1s}}
    sending_queue: {{storage: file_storage}}
extensions:
  file_storage: {{directory: {self.home / f"spool-{self.lives}"}{spool}}}
  {f"bearertokenauth: {{token: {TOKEN}}}" if token else ""}
service:
  extensions: [file_storage{", bearertokenauth" if token else ""}]
  telemetry: {{metrics: {{address: 127.0.0.1:{self.metrics}}}}}
  pipelines:
{pipelines}
"""

    def numbers(self):
        """The agent's own account, without other receivers: (metric, transport, reason) → value."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = {}
        for name, labels, value in re.findall(r"^(\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
            of = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            if of.get("receiver") in (None, "otlp"):
                found[name, of.get("transport"), of.get("reason")] = float(value)
        return found

    def all_arrives(self):
        """Waits until the far end has what should be there, or it is too late."""
        wanted = {seq for _, first, count, there in self.wants if there for seq in range(first, first + count)}
        end = time.monotonic() + ARRIVES_S
        while time.monotonic() < end:
            self.seqs |= verdict.seqs(self.tail.new(self.collected))
            if wanted <= self.seqs:
                return
            time.sleep(0.05)

    # ---- the client

    def listen(self):
        for line in self.child.stdout:
            self.log.write(line)
            self.log.flush()
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def begin(self, signal, count=COUNT, compression="none", timeout=TIMEOUT_S, url=None, header="", **which):
        """Gives the client a job. `again`: the batch of the job before. `there`: it should come to the far end."""
        again, there = which.get("again", False), which.get("there", True)
        first = self.wants.pop()[1] if again else self.next
        self.next = max(self.next, first + count)
        self.wants.append((signal, first, count, there))
        self.tap.answers.clear()
        url = url or self.url
        self.job = signal, timeout, url.startswith(self.url), self.numbers()
        self.child.stdin.write(f"{signal} {url} {compression} {first} {count} {timeout} {header}\n")
        self.child.stdin.flush()

    def finish(self):
        """What was seen of the job."""
        signal, timeout, tapped, before = self.job
        said, end = [], time.monotonic() + timeout + GRACE_S
        while True:
            try:
                line = self.lines.get(timeout=max(0.1, end - time.monotonic()))
            except queue.Empty:
                why = f"the client is at one job for {timeout + GRACE_S} s, see {self.log.name}"
                raise processes.Died(why) from None
            if line is None:
                raise processes.Died(f"the client ended by itself, see {self.log.name}")
            what, _, rest = line.partition(" ")
            if what == "done":
                break
            said.append(rest if what == "said" else line)
        after = self.numbers()
        transport = "grpc" if self.over_grpc else "http"

        def more(name, reason=None):
            key = name, transport, reason
            return round(after.get(key, 0) - before.get(key, 0))

        reasons = {key[2] for key in after if key[0] == "tfo_agent_requests_refused" and key[1] == transport}
        refused = {reason: more("tfo_agent_requests_refused", reason) for reason in reasons}
        result, seconds = rest.split()
        return judge.Seen(
            protocol=self.client.protocol,
            success=result == "SUCCESS",
            seconds=float(seconds),
            timeout=timeout,
            said=said,
            answers=list(self.tap.answers) if tapped else None,
            accepted=more(f"otelcol_receiver_accepted_{ITEMS[signal]}"),
            refused=more(f"otelcol_receiver_refused_{ITEMS[signal]}"),
            requests={reason: n for reason, n in refused.items() if n},
        )

    def export(self, *args, **more):
        self.begin(*args, **more)
        return self.finish()

    def export_directly(self, signal, count=COUNT):
        """A new batch to the control collector, to know how it looks; `again` sends the same to the agent."""
        self.wants.append((signal, self.next, count, True))
        self.next += count
        port = self.control[0 if self.over_grpc else 1]
        first = self.wants[-1][1]
        self.child.stdin.write(f"{signal} http://127.0.0.1:{port} none {first} {count} {TIMEOUT_S} \n")
        self.child.stdin.flush()
        while not (self.lines.get(timeout=TIMEOUT_S + GRACE_S) or "done").startswith("done"):
            pass

    def there_is_room(self, signal):
        """A new batch is taken; at once, or as soon as the agent has seen that it may."""
        end, seen = time.monotonic() + TIMEOUT_S, self.export(signal)
        while not seen.success and time.monotonic() < end:
            seen = self.export(signal, again=True)
        return named(judge.taken(seen, COUNT), signal, "afterwards")

    def refused_times(self, times):
        """Waits until the job under way was refused so often."""
        end = time.monotonic() + PATIENT_S
        while len(self.tap.answers) < times and time.monotonic() < end:
            self.server.check()
            time.sleep(0.02)

    # ---- pressure

    @contextmanager
    def memory_held(self):
        """An upload of which the rest does not come holds more than memory_limiter allows. Leave it to let go."""
        with socket.create_connection(("127.0.0.1", self.hold)) as holder:
            size = HELD_MIB << 20
            about = "Host: x", "Content-Type: application/x-protobuf", f"Content-Length: {size + 1}"
            holder.sendall("\r\n".join(("POST /v1/logs HTTP/1.1", *about, "", "")).encode() + bytes(size))
            self.memory_is(lambda live: live > MEMORY_MIB << 20)
            yield holder
        self.memory_is(lambda live: live < (MEMORY_MIB - SPIKE_MIB) << 20)

    def memory_is(self, right):
        """Waits until it is, and the limiter has looked."""
        heap, end = ("otelcol_process_runtime_heap_alloc_bytes", None, None), time.monotonic() + TIMEOUT_S
        while not right(self.numbers()[heap]) and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.1)  # two looks

    def fill_the_spool(self):
        """Posts of its own, larger ones first, until not even a small one has room, and none came by housekeeping."""
        dice, quiet = random.Random(1), 0
        for _ in range(FILLS):
            room = [size for size in (500_000, 50_000, 5_000, 500) if self.fills(size, dice)]
            quiet = 0 if room else quiet + 1
            if quiet == 3:
                return
            time.sleep(0.3)
        raise processes.Died(f"the spool has room again and again, see {self.server.log}")

    def fills(self, size, dice):
        """Posts of this size until one is refused; whether one was taken."""
        for times in range(FILLS):
            text = {"stringValue": dice.randbytes(size // 2).hex()}
            body = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": text}]}]}]}
            url, text = f"http://127.0.0.1:{self.hold}/v1/logs", json.dumps(body).encode()
            request = urllib.request.Request(url, text, {"Content-Type": "application/json"})
            try:
                urllib.request.urlopen(request, timeout=30).close()
            except urllib.error.HTTPError as refusal:
                if refusal.code == 503:
                    return times > 0
                raise
        return True


def named(faults, *names):
    return [f"{' '.join(names)}: {fault}" for fault in faults]


def success(stage, bounded):
    """200: everything arrives once and unaltered, at once, and nothing is said about it."""
    with stage.agent():
        for signal in SIGNALS:
            for compression in ("none", "gzip"):
                stage.export_directly(signal)
                seen = stage.export(signal, compression=compression, again=True)
                yield from named(judge.taken(seen, COUNT), signal, compression)


def partial(stage, bounded):
    """The agent never answers a partial success: it takes a request whole or refuses it whole. So the SDK is shown its
    full success and, as a control, the same with a partial one put in its place on the way."""
    with stage.agent():
        yield from named(judge.taken(stage.export("traces"), COUNT), "full")
        stage.tap.partial = True
        seen = stage.export("traces")
        stage.tap.partial = False
        heard = any("partial" in line.lower() for line in seen.said)
        yield from judge.wrong(
            (len(seen.answers) == 1, "control: asked again, which OTLP forbids"),
            ([answer.body for answer in seen.answers] == [tap.PARTIAL[seen.protocol]], "control: it was not partial"),
            (heard != stage.knows(DEAF), f"control: {'' if heard else 'not '}told of a partial success: {seen.said}"),
        )


def unauthenticated(stage, bounded):
    """401, UNAUTHENTICATED: a wrong token is final, no token too, and the right one opens."""
    with stage.agent(token=True):
        for signal in SIGNALS:
            for header in ("authorization=Bearer a-wrong-one", ""):
                seen = stage.export(signal, header=header, there=False)
                yield from named(judge.given_up(seen, "unauthenticated", "unauthenticated"), signal, header)
            right = stage.export(signal, header=f"authorization=Bearer {TOKEN}")
            yield from named(judge.taken(right, COUNT), signal, "right token")


def not_served(stage, bounded):
    """404, UNIMPLEMENTED: a signal without a pipeline, over HTTP a path that is nobody's; 415: another media type."""
    over_http = not stage.over_grpc
    with stage.agent(signals=("traces", "logs")):
        seen = stage.export("metrics", there=False)
        yield from named(judge.given_up(seen, "not served", None if over_http else "invalid"), "no pipeline")
        if over_http:
            seen = stage.export("traces", url=f"{stage.url}/elsewhere", there=False)
            yield from named(judge.given_up(seen, "not served", None), "no such path")
            sets = (stage.client.language, stage.client.protocol) in SETS_MEDIA_TYPE
            seen = stage.export("traces", header="content-type=text/plain", there=not sets)
            yield from named(judge.given_up(seen, "media", None) if sets else judge.taken(seen, COUNT), "media type")
        yield from named(judge.taken(stage.export("traces"), COUNT), "afterwards")


def throttled(stage, bounded):
    """503, UNAVAILABLE, because memory is short: the SDK waits as long as asked, comes back, and nothing is lost or
    doubled once there is room."""
    with stage.agent(memory=True):
        for signal in SIGNALS[:1] if bounded else SIGNALS:
            with stage.memory_held() as held:
                yield from named(comes_back(stage, signal, 1, held.close), signal)


def spool_full(stage, bounded):
    """The same because the disk's budget is used up while the far end is away (`when_full: refuse`)."""
    with stage.agent(spool=", max_size_mib: 6, when_full: refuse"):
        stage.gate.cut()
        stage.fill_the_spool()
        yield from comes_back(stage, "traces", 2, stage.gate.mend)


def comes_back(stage, signal, times, make_room):
    """Refused so often, then there is room."""
    if stage.knows(NO_RETRY):
        seen = stage.export(signal, there=False)
        make_room()
        yield from judge.gave_up_in_time(seen, COUNT, retries=False)
        yield from stage.there_is_room(signal)
        return
    stage.begin(signal, timeout=PATIENT_S)
    stage.refused_times(times)
    make_room()
    yield from judge.delivered_later(stage.finish(), COUNT, honours=not stage.knows(IMPOLITE))


def too_long(stage, bounded):
    """Memory stays short for longer than the SDK may wait: it ends by its timeout, tells why, and nothing was taken."""
    polite, retries = not stage.knows(IMPOLITE), not stage.knows(NO_RETRY)
    with stage.agent(memory=True):
        with stage.memory_held():
            for signal in SIGNALS:
                seen = stage.export(signal, timeout=IMPATIENT_S, there=False)
                yield from named(judge.gave_up_in_time(seen, COUNT, polite, retries), signal)
        yield from named(judge.taken(stage.export("traces"), COUNT), "afterwards")


def oversize(stage, bounded):
    """413, RESOURCE_EXHAUSTED without RetryInfo: too large, on the wire or once it is inflated. Final, and the agent
    goes on. Without a tap, so that nothing stands between the agent's closing and the client's reading."""
    with stage.agent(limits=True):
        for signal in SIGNALS[:1] if bounded else SIGNALS:
            for compression in ("none", "gzip"):
                about = {"compression": compression, "url": stage.direct_url, "there": False}
                seen = stage.export(signal, count=OVERSIZE, timeout=INSISTS_S, **about)
                insists, known = stage.knows(INSISTS), "too_large"
                faults = judge.insisted(seen, known) if insists else judge.given_up(seen, known, known)
                yield from named(faults, signal, compression)
            yield from named(judge.taken(stage.export(signal), COUNT), signal, "afterwards")


CASES = {
    "200": success,
    "partial": partial,
    "4xx unauthenticated": unauthenticated,
    "4xx not served": not_served,
    "5xx memory is short": throttled,
    "5xx spool is full": spool_full,
    "5xx for too long": too_long,
    "oversize": oversize,
}
BOUNDED = ("200", "partial", "4xx unauthenticated", "4xx not served", "5xx memory is short", "oversize")
