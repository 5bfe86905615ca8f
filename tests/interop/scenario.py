"""The story: real clients send all the time, while the collector goes away and comes back and the agent is killed.

```text
 one round
 calm ──┤ collector gone ──────────────────────────────────────────┤ collector back ──────────┤
                      outage │ kill -9, absent │ agent, same spool │ kill -9, at once again │ after
```

The clients never stop and never know. The second kill of a round falls into the drain.
"""

import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

import processes
import verdict

HERE = Path(__file__).resolve().parent
# A client waits for one call of at most 1 s; the agent has everything on disk long before.
CLIENT_END_S = 30
DRAIN_S = 60
# The agent knocks at least once a second (`max_interval`).
DRAIN_BEGINS_S = 5
# What was on its way twice when all was there once.
LATE_S = 1


@dataclass(frozen=True)
class Pace:
    """How long each part of a round lasts, in seconds, and how much is sent meanwhile by each of the rows."""

    rounds: int
    calm: float
    outage: float
    # Longer than an exporter's own retries (1 s), so that each client is refused and knows it.
    absent: float
    alone: float
    after: float
    batch: int
    every: float

    def lasts(self):
        return self.rounds * (self.calm + self.outage + self.absent + self.alone + self.after)


BOUNDED = Pace(rounds=1, calm=4, outage=5, absent=4, alone=4, after=5, batch=10, every=0.2)
LONG = Pace(rounds=5, calm=5, outage=8, absent=4, alone=3, after=5, batch=20, every=0.2)


@dataclass
class Kill:
    """One SIGKILL of the agent, and the state of things at that moment."""

    # Records acknowledged and not delivered.
    waiting: int
    # Records delivered since the collector came back; None: it was away.
    drained: int | None


class Tail:
    """The new whole lines of files that grow."""

    def __init__(self):
        self.read = {}

    def new(self, path):
        try:
            with open(path, "rb") as file:
                file.seek(self.read.get(path, 0))
                text = file.read()
        except FileNotFoundError:
            return b""
        text = text[: text.rfind(b"\n") + 1]
        self.read[path] = self.read.get(path, 0) + len(text)
        return text


class Watch:
    """Who has what, while the story runs: by numbers alone."""

    def __init__(self, home, ledgers):
        self.home, self.ledgers = home, ledgers
        self.tail = Tail()
        self.acked, self.delivered = set(), set()

    def waiting(self):
        """How many records are acknowledged and not delivered."""
        # First what was acknowledged, then what came of it.
        for ledger in self.ledgers:
            for line in self.tail.new(ledger).decode().splitlines():
                what, _, first, count = line.split()
                if what == "acked":
                    self.acked.update(range(int(first), int(first) + int(count)))
        for path in collected(self.home):
            self.delivered |= verdict.seqs(self.tail.new(path))
        return len(self.acked - self.delivered)


def collected(home):
    return sorted(home.glob("collected-*.jsonl"))


# A server called localhost and collector.example, and its authority.
CERTIFICATES = HERE.parents[1] / "src" / "uplink" / "tests" / "tls"
# How the agent sends: its exporter, by the ports of the collector.
OUT = {
    "http": ("otlphttp", "endpoint: http://127.0.0.1:{http}, compression: gzip"),
    "https": (
        "otlphttp",
        "endpoint: 'https://localhost:{http}', compression: gzip, tls: {{ca_file: {certificates}/ca.pem}}",
    ),
    "json": ("otlphttp", "endpoint: http://127.0.0.1:{http}, compression: zstd, encoding: json"),
    "grpc": ("otlp", "endpoint: 127.0.0.1:{grpc}, compression: snappy, tls: {{insecure: true}}"),
    "grpc-tls": (
        "otlp",
        "endpoint: localhost:{grpc}, compression: zstd, balancer_name: round_robin, tls: {{ca_file: {certificates}/ca.pem}}",
    ),
}


def collector_config(home, name, grpc, http, tls=False):
    # `rotation` is there for its writer, which alone has no buffer: what was answered survives a kill.
    path = home / f"{name}.yaml"
    pair = f"cert_file: {CERTIFICATES}/server.pem, key_file: {CERTIFICATES}/server.key"
    server = f", tls: {{{pair}}}" if tls else ""
    path.write_text(f"""receivers:
  otlp:
    protocols:
      grpc: {{endpoint: 127.0.0.1:{grpc}{server}}}
      http: {{endpoint: 127.0.0.1:{http}{server}}}
exporters:
  file: {{path: {home / name}.jsonl, rotation: {{max_megabytes: 1000000}}}}
service:
  telemetry: {{metrics: {{level: none}}, logs: {{level: warn}}}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [file]}}
    metrics: {{receivers: [otlp], exporters: [file]}}
    logs: {{receivers: [otlp], exporters: [file]}}
""")
    return path


def agent_config(home, out, grpc, http, metrics, collector):
    exporter, settings = OUT[out]
    settings = settings.format(grpc=collector[0], http=collector[1], certificates=CERTIFICATES)
    path = home / "agent.yaml"
    path.write_text(f"""receivers:
  otlp:
    protocols:
      grpc: {{endpoint: 127.0.0.1:{grpc}}}
      http: {{endpoint: 127.0.0.1:{http}}}
processors:
  batch: {{timeout: 200ms, send_batch_size: 512, send_batch_max_size: 1024}}
exporters:
  {exporter}:
    {{{settings},
     retry_on_failure: {{initial_interval: 250ms, max_interval: 1s}}, sending_queue: {{storage: file_storage}}}}
extensions:
  file_storage: {{directory: {home / "spool"}}}
service:
  extensions: [file_storage]
  telemetry: {{metrics: {{address: 127.0.0.1:{metrics}}}}}
  pipelines:
    traces: {{receivers: [otlp], processors: [batch], exporters: [{exporter}]}}
    metrics: {{receivers: [otlp], processors: [batch], exporters: [{exporter}]}}
    logs: {{receivers: [otlp], processors: [batch], exporters: [{exporter}]}}
""")
    return path


class Stage:
    """Everybody of one run, in one folder."""

    def __init__(self, home, agent, collector, out, pace, say):
        self.home, self.pace, self.say, self.binary, self.out = home, pace, say, collector, out
        ports = processes.ports(7)
        self.control_ports, self.collector_ports, self.agent_ports = ports[0:2], ports[2:4], ports[4:6]
        self.control = self.far_end("control", self.control_ports)
        self.lives = 0
        self.collector = None
        self.metrics_port = ports[6]
        config = agent_config(home, out, *self.agent_ports, self.metrics_port, self.collector_ports)
        words = [agent, "run", "--config", config]
        self.agent = processes.Server("the agent", words, home / "agent.log", self.agent_ports)
        self.clients, self.watch, self.kills = [], None, []

    def far_end(self, name, ports):
        # The control collector is asked by the clients, which know no TLS here.
        tls = self.out in ("https", "grpc-tls") and ports == self.collector_ports
        config = collector_config(self.home, name, *ports, tls)
        return processes.Server(name, [self.binary, "--config", config], self.home / f"{name}.log", ports)

    def collector_starts(self):
        # A file for each life: a line torn by a kill ends that file, not a line of the next life.
        self.lives += 1
        self.collector = self.far_end(f"collected-{self.lives}", self.collector_ports)
        self.collector.start()

    def client_starts(self, client, index):
        """`index`: of the client's first row; it has one row for each signal."""

        def url(ports):
            return f"http://127.0.0.1:{ports[0 if client.protocol == 'grpc' else 1]}"

        firsts = [(index + i) * verdict.ROW_NUMBERS + 1 for i in range(len(verdict.SIGNALS))]
        words = [*client.words, "--protocol", client.protocol]
        words += ["--agent", url(self.agent_ports), "--control", url(self.control_ports)]
        words += ["--ledger", self.home / f"{client.name}.ledger"]
        words += ["--batch", self.pace.batch, "--every", self.pace.every]
        words += ["--at-most", self.pace.lasts() + CLIENT_END_S + DRAIN_S, *firsts]
        with open(self.home / f"{client.name}.log", "w") as log:
            env = processes.loopback_only() | client.env
            self.clients.append(processes.spawn(words, log, stdin=subprocess.PIPE, env=env))

    def look(self, seconds):
        """Lets time pass, and looks whether all that should live does."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for server in (self.control, self.agent, self.collector):
                if server is not None:
                    server.check()
            for client in self.clients:
                if client.poll() is not None:
                    raise processes.Died(f"a client ended by itself ({client.returncode}), see its log in {self.home}")
            time.sleep(min(0.1, max(0.0, end - time.monotonic())))

    def kill_the_agent(self, drained=None):
        waiting = self.watch.waiting()
        self.agent.kill()
        self.kills.append(Kill(waiting, drained))
        self.say(f"agent killed, {waiting} acknowledged records not delivered yet")

    def drain_begins(self):
        """Waits for the first records that arrive again; how many they are."""
        self.watch.waiting()
        before, end = len(self.watch.delivered), time.monotonic() + DRAIN_BEGINS_S
        while len(self.watch.delivered) == before and time.monotonic() < end:
            self.look(0.01)
            self.watch.waiting()
        return len(self.watch.delivered) - before

    def round(self, number):
        pace = self.pace
        self.look(pace.calm)
        if number % 2:
            self.collector.stop()
        else:
            self.collector.kill()
        self.collector = None
        self.say("collector gone")
        self.look(pace.outage)
        self.kill_the_agent()
        self.look(pace.absent)
        self.agent.start()
        self.say("agent started again on the same spool")
        self.look(pace.alone)
        self.collector_starts()
        self.say("collector back")
        self.kill_the_agent(drained=self.drain_begins())
        self.agent.start()
        self.look(pace.after)

    def play(self, clients):
        self.control.start()
        self.collector_starts()
        self.agent.start()
        for i, client in enumerate(clients):
            self.client_starts(client, i * len(verdict.SIGNALS))
        self.watch = Watch(self.home, [self.home / f"{client.name}.ledger" for client in clients])
        self.say(f"{len(clients)} clients send")
        for number in range(self.pace.rounds):
            self.round(number)
        for client in self.clients:
            client.stdin.close()
        end = time.monotonic() + CLIENT_END_S
        for client in self.clients:
            try:
                client.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.say("a client did not end in time")
                processes.end(client)
        self.clients = []
        self.say("clients ended; the backlog drains")
        end = time.monotonic() + DRAIN_S
        while self.watch.waiting() and time.monotonic() < end:
            self.look(0.2)
        self.look(LATE_S)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            (self.home / "books.prom").write_bytes(answer.read())
        ended_well = self.agent.stop()
        self.collector.stop()
        self.control.stop()
        return {"kills": [asdict(kill) for kill in self.kills], "agent_ended_on_sigterm": ended_well}

    def clear(self):
        for server in (self.agent, self.collector, self.control):
            if server is not None:
                server.give_up()
        for client in self.clients:
            processes.end(client)


def ends_on_sigterm():
    """Turns the signal into an exception, so that every `finally` has its turn."""

    def leave(*_):
        sys.exit(143)

    signal.signal(signal.SIGTERM, leave)
