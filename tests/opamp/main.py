"""The steps, one after the other, for each transport; see README.md."""

import argparse
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "interop"))
import install  # noqa: E402  # how Go programs are had, once for all suites

# A debug build on a busy machine of two cores, several times over.
PATIENCE_S = 60
SECRET = "do-not-tell-anybody"
# Where it is waited until a configuration has proved itself.
PROVE = ("https",)
# The key under `server`, the scheme, and whether it goes through a proxy.
TRANSPORTS = {
    "http": ("http", "http", False),
    "https": ("http", "https", False),
    "ws": ("ws", "ws", False),
    "wss": ("ws", "wss", False),
    "wss-proxy": ("ws", "wss", True),
}


class Failed(Exception):
    pass


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    def __init__(self, binary, port, key, ca=None):
        words = [binary, "--listen", f"127.0.0.1:{port}", "--key", key] + (["--ca", ca] if ca else [])
        self.child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.next(lambda said: "listening" in said)

    def _read(self):
        for line in self.child.stdout:
            self.lines.put(json.loads(line))

    def next(self, wanted=lambda said: "sequence" in said, within=PATIENCE_S):
        """The next line for which `wanted` holds; what comes before it is passed over."""
        end, passed = time.monotonic() + within, []
        while True:
            try:
                said = self.lines.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                raise Failed(f"nothing of the kind within {within} s, but {passed[-3:]}") from None
            if wanted(said):
                return said
            passed.append(said)

    def drain(self):
        while not self.lines.empty():
            self.lines.get_nowait()

    def say(self, words):
        self.child.stdin.write(words + "\n")
        self.child.stdin.flush()

    def stop(self):
        self.child.kill()
        self.child.wait()


class Proxy:
    """One that knows CONNECT and nothing else."""

    def __init__(self):
        self.tunnels = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._tunnel, args=(client,), daemon=True).start()

    def _tunnel(self, client):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = client.recv(1)
            if not byte:
                return client.close()
            head += byte
        word, target = head.split()[:2]
        host, port = target.decode().rsplit(":", 1)
        try:
            if word != b"CONNECT":
                raise OSError
            far = socket.create_connection((host, int(port)), timeout=10)
        except OSError:
            client.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return client.close()
        far.settimeout(None)
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        self.tunnels += 1
        for a, b in ((client, far), (far, client)):
            threading.Thread(target=self._carry, args=(a, b), daemon=True).start()

    def _carry(self, a, b):
        try:
            while data := a.recv(65536):
                b.sendall(data)
        except OSError:
            pass
        for end in (a, b):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Agent:
    def __init__(self, binary, home, config):
        self.binary, self.home, self.config = binary, home, config
        self.log = open(home / "agent.log", "a", encoding="utf-8")
        self.start()

    def start(self):
        env = {k: v for k, v in os.environ.items() if k not in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy")}
        words = [self.binary, "run", "--config", self.config]
        self.child = subprocess.Popen(words, stdout=self.log, stderr=self.log, env=env)

    def end(self, how=signal.SIGTERM):
        self.child.send_signal(how)
        return self.child.wait(timeout=PATIENCE_S)


def configuration(home, kind, scheme, port, otlp, proxy, site):
    tls = f"\n        tls: {{ca_file: '{home}/ca.pem'}}" if scheme in ("https", "wss") else ""
    polling = "\n        polling_interval: 1s" if kind == "http" else ""
    through = f"\n        proxy_url: http://127.0.0.1:{proxy.port}" if proxy else ""
    return f"""
receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{otlp}'}}}}}}}}
processors: {{batch: {{timeout: 1s}}}}
exporters:
  otlphttp:
    endpoint: http://127.0.0.1:1
    headers: {{Authorization: Bearer {SECRET}}}
    sending_queue: {{storage: file_storage}}
extensions:
  file_storage: {{directory: '{home}/spool'}}
  opamp:
    server:
      {kind}:
        endpoint: {scheme}://127.0.0.1:{port}/v1/opamp
        headers: {{X-Key: {SECRET}}}{tls}{polling}{through}
    agent_description:
      non_identifying_attributes: {{site: {site}}}
    capabilities: {{accepts_remote_config: true}}
service:
  extensions: [file_storage, opamp]
  telemetry: {{metrics: {{level: none}}}}
  pipelines: {{logs: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}}}
"""


def post(otlp):
    """An empty export: whether the data path answers."""
    request = urllib.request.Request(f"http://127.0.0.1:{otlp}/v1/logs", data=b"{}", headers={"content-type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return answer.status
    except (urllib.error.URLError, OSError):
        return None


def check(holds, what):
    if not holds:
        raise Failed(what)


def is_whole(said):
    return all(part in said for part in ("identifying", "health", "config"))


def looks_right(said, uid=None, site="north"):
    check(is_whole(said), f"not everything is told: {said}")
    check(said["unknown"] == 0, "opamp-go does not know a field of it")
    check(said["capabilities"] & 0x1807 == 0x1807, f"capabilities {said['capabilities']:#x}")
    check(len(said["uid"]) == 32 and said["uid"][12] == "7" or uid is not None, f"the uid is no UUIDv7: {said['uid']}")
    check(uid is None or said["uid"] == uid, f"the uid is {said['uid']}, not {uid}")
    who = said["identifying"]
    check(who["service.name"] == "tfo-otel-agent" and who["service.version"], f"it is {who}")
    check(who["service.instance.id"].replace("-", "") == said["uid"], f"it is {who}")
    check(said["other"]["site"] == site and said["other"]["os.type"] and said["other"]["host.name"], f"it is {said['other']}")
    health = said["health"]
    check(health["healthy"] and 0 < health["started"] <= health["at"], f"its health is {health}")
    check("otlphttp" in health["parts"], f"its parts are {health['parts']}")
    check("X-Key" in said["config"] and "otlphttp" in said["config"], "the configuration is not the agent's")
    check(SECRET not in said["config"], "a secret is told")


def scenario(name, agent_path, server_path, home, say):
    kind, scheme, proxied = TRANSPORTS[name]
    proxy = Proxy() if proxied else None
    port, otlp = free_port(), free_port()
    ca = str(home / "ca.pem") if scheme in ("https", "wss") else None
    config = home / "agent.yaml"
    config.write_text(configuration(home, kind, scheme, port, otlp, proxy, "north"), encoding="utf-8")
    server = Server(server_path, port, SECRET, ca)
    agent = Agent(agent_path, home, config)
    try:
        first = server.next()
        looks_right(first)
        check(first["sequence"] == 1, f"the first message has the number {first['sequence']}")
        uid = first["uid"]
        say(f"ok {name}: connect")

        numbers = [server.next() for _ in range(3)] if kind == "http" else []
        check(all("identifying" not in said and "config" not in said for said in numbers), "what is known is told again")
        check([said["sequence"] for said in numbers] == [2, 3, 4][: len(numbers)], "numbers are left out")
        say(f"ok {name}: quiet")

        server.say("full")
        if kind == "ws":
            server.say("push")
        looks_right(server.next(is_whole), uid)
        say(f"ok {name}: full")

        config.write_text(configuration(home, kind, scheme, port, otlp, proxy, "south"), encoding="utf-8")
        agent.child.send_signal(signal.SIGHUP)
        looks_right(server.next(lambda said: said.get("other", {}).get("site") == "south"), uid, "south")
        say(f"ok {name}: changes")

        server.stop()
        time.sleep(2)
        check(agent.child.poll() is None and post(otlp) == 200, "the agent is gone, or does not answer")
        # A certificate of its own each time: the agent reads the file again when it is not answered.
        server = Server(server_path, port, SECRET, ca)
        looks_right(server.next(is_whole), uid, "south")
        say(f"ok {name}: server")

        server.stop()
        server = Server(server_path, port, "another key", ca)
        time.sleep(8)
        server.drain()
        check(agent.child.poll() is None and post(otlp) == 200, "the agent is gone, or does not answer")
        check(server.lines.empty(), "it is let in without the key")
        server.stop()
        say(f"ok {name}: key")

        server = Server(server_path, port, SECRET, ca)
        agent.end(signal.SIGKILL)
        agent.start()
        looks_right(server.next(is_whole), uid, "south")
        check(agent.end() == 0, "the agent does not end well")
        last = server.next(lambda said: said.get("disconnect"))
        check(last["uid"] == uid, f"another one takes leave: {last}")
        agent.start()
        looks_right(server.next(is_whole), uid, "south")
        say(f"ok {name}: restart")

        def offer(number, text):
            server.say(f"remote {number:02x} -{text.encode().hex()}")
            if kind == "ws":
                server.say("push")

        def stage(number, status):
            told = lambda said: said.get("remote", {}).get("hash") == f"{number:02x}" and said["remote"]["status"].endswith(status)  # noqa: E731
            return server.next(told)["remote"]

        offer(1, "exporters: {otlphttp: {endpoint: 'http://127.0.0.1:2'}}")
        why = stage(1, "_FAILED")["why"]
        check("exporters.otlphttp.endpoint" in why, f"it failed because {why!r}")
        offer(2, "processors: {batch: {timeout: 3s}}")
        stage(2, "_APPLYING")
        if name in PROVE:
            # A minute in force is what it takes.
            server.next(lambda said: said.get("remote", {}).get("status", "").endswith("_APPLIED"), 2 * PATIENCE_S)
            agent.end(signal.SIGKILL)
            agent.start()
            looks = server.next(is_whole)
            check(looks["remote"]["hash"] == "02" and "timeout: 3s" in looks["config"], f"after a kill it tells {looks['remote']}")
        else:
            agent.end(signal.SIGKILL)
            agent.start()
            looks = server.next(is_whole)
            check(looks["remote"]["hash"] == "" and "timeout: 1s" in looks["config"], f"what had not proved itself outlives a kill: {looks}")
            stage(2, "_APPLYING")
        offer(3, "")
        stage(3, "_APPLYING")
        say(f"ok {name}: remote")

        other = "0193c1a27b4e7c3d9f102a6b8c4d5e6f"
        server.say(f"name {other}")
        if kind == "ws":
            server.say("push")
        looks_right(server.next(lambda said: said.get("uid") == other and is_whole(said)), other, "south")
        agent.end()
        server.next(lambda said: said.get("disconnect"))
        agent.start()
        looks_right(server.next(is_whole), other, "south")
        say(f"ok {name}: name")
        if proxy:
            check(proxy.tunnels >= 6, f"only {proxy.tunnels} connections went through the proxy")
            say(f"ok {name}: proxy, {proxy.tunnels} tunnels")
    finally:
        server.stop()
        if agent.child.poll() is None:
            agent.end(signal.SIGKILL)
        if proxy:
            proxy.listener.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--agent")
    parser.add_argument("--long", action="store_true", help="ten times (TFO_OPAMP_ROUNDS)")
    parser.add_argument("--only", help="these transports, with commas between")
    parser.add_argument("--keep", action="store_true", help="leave the directories")
    given = parser.parse_args()
    say = lambda line: print(line, flush=True)  # noqa: E731
    try:
        server = install.go(say, "opampserver", HERE / "server")
    except install.Missing as missing:
        say(f"SKIPPED: {missing}")
        return 77
    agent = given.agent
    if agent is None:
        subprocess.run(["cargo", "build", "--locked", "--bin", "tfo-otel-agent"], cwd=ROOT, check=True)
        agent = ROOT / "target" / "debug" / "tfo-otel-agent"
    failed, steps = 0, 0
    rounds = int(os.environ.get("TFO_OPAMP_ROUNDS", "10")) if given.long else 1
    for _ in range(rounds):
        for name in given.only.split(",") if given.only else TRANSPORTS:
            home = Path(tempfile.mkdtemp(prefix="tfo-opamp-"))
            try:
                scenario(name, str(Path(agent).resolve()), str(server), home, say)
            except (Failed, subprocess.TimeoutExpired) as error:
                failed += 1
                say(f"FAILED {name}: {error}")
                log = (home / "agent.log").read_text(encoding="utf-8", errors="replace")
                say("\n".join(log.splitlines()[-20:]))
            finally:
                steps += 1
                if given.keep:
                    say(f"left: {home}")
                else:
                    shutil.rmtree(home, ignore_errors=True)
    say(f"{steps - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
