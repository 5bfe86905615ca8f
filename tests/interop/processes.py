"""The processes of a run: started by us, ended by us by their id, and never outliving us."""

import ctypes
import os
import random
import signal
import socket
import subprocess
import threading
import time

# Outside the range that Linux hands to outgoing connections: there, a client that knocks at the absent agent's port
# could be given that very port, and be connected to itself.
PORTS = range(20_000, 30_000)
START_S = 20
STOP_S = 20
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


def loopback_only():
    """Our environment without what would lead a client elsewhere: proxies, and settings of somebody's own SDK."""

    def leads_away(key):
        return key.lower().endswith("_proxy") or key.startswith("OTEL_")

    return {key: value for key, value in os.environ.items() if not leads_away(key)}


class Died(Exception):
    """A process that should run does not."""


def spawn(words, out, **more):
    """Starts it in a group of its own. It is killed when we die, whatever kills us."""
    return subprocess.Popen(
        [str(word) for word in words],
        stdout=out,
        start_new_session=True,
        preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
        **({"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "env": loopback_only()} | more),
    )


def background(what, *args):
    """A thread that does not keep us from ending."""
    thread = threading.Thread(target=what, args=args, daemon=True)
    thread.start()
    return thread


def end(child, group=False):
    """SIGKILL, for a child of ours, with its own children when it may have some."""
    if group:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    if child.poll() is None:
        child.kill()
    child.wait()


def ports(count):
    """Ports of the loopback nobody listens at now."""
    found = []
    for port in random.sample(PORTS, 1_000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports between 20000 and 30000")


class Server:
    """A program that listens, can be killed and started again, and keeps one log over its lives."""

    def __init__(self, name, words, log, listens):
        self.name, self.words, self.log, self.listens = name, words, log, listens
        self.child = None

    def start(self):
        with open(self.log, "a") as out:
            self.child = spawn(self.words, out)
        end_at = time.monotonic() + START_S
        for port in self.listens:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    self.check()
                    if time.monotonic() > end_at:
                        raise Died(f"{self.name} does not listen after {START_S} s, see {self.log}") from None
                    time.sleep(0.02)

    def check(self):
        """Nobody but us may end it."""
        if self.child is not None and self.child.poll() is not None:
            raise Died(f"{self.name} ended by itself ({self.child.returncode}), see {self.log}")

    def kill(self):
        self.check()
        end(self.child)
        self.child = None

    def stop(self):
        """SIGTERM. Whether it ended in time and with 0; it has ended afterwards in any case."""
        self.check()
        self.child.terminate()
        try:
            return self.child.wait(STOP_S) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            end(self.child)
            self.child = None

    def give_up(self):
        if self.child is not None:
            end(self.child)
            self.child = None
