"""What the test needs beside this repository: fetched once into a cache outside of it, pinned, by the ordinary clients.

Each thing has a place named after the hash of the files that pin it, and a stamp once it is complete. What cannot be
had is `Missing`, with the reason; what should build and does not is an error.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import processes

HERE = Path(__file__).resolve().parent
# A cold Go build of the collector takes about 4 minutes on two cores; a registry may be slow once.
TIMEOUT_S = 900
COPY_DEPENDENCIES = "org.apache.maven.plugins:maven-dependency-plugin:3.11.0:copy-dependencies"
_COMPLAINT = re.compile(r"\berror\b|disabled|lookup|forbidden|denied|refused|no such", re.IGNORECASE)


class Missing(Exception):
    """It cannot be had here, so nothing can be said about what needs it."""


class Broken(Exception):
    """All is there, and still it does not build."""


def cache():
    base = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("HOME") and os.environ["HOME"] + "/.cache")
    return Path(base) / "tfo-interop" if base else HERE.parents[1] / "target" / "interop"


def collector(say):
    """The collector's binary."""
    return go(say, "collector", HERE / "collector")


def go(say, name, folder):
    """The binary of the Go program in a folder."""
    version = tool("go", "version")
    sources = [folder / file for file in ("go.mod", "go.sum", "main.go")]
    with place(name, version, sources) as (home, there):
        binary = home / name
        if not there:
            say(f"building {name}, once (minutes)")
            env = {"CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-mod=readonly"}
            # Two steps: what fails in the first is the world's doing, in the second ours.
            fetch(home, ["go", "list", "-deps", "."], folder, env)
            built(home, ["go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "."], folder, env)
        return binary


def java(say, name, folder):
    """The class path of a Java program and the libraries that its `pom.xml` names."""
    version = tool("javac", "-version") + tool("mvn", "--version")
    sources = sorted(folder.glob("*.java"))
    with place(name, version, [folder / "pom.xml", *sources]) as (home, there):
        if not there:
            say(f"installing what {name} needs and compiling it, once")
            words = ["mvn", "--batch-mode", "--quiet", "--strict-checksums", "--file", folder / "pom.xml"]
            fetch(home, [*words, COPY_DEPENDENCIES, f"-DoutputDirectory={home / 'lib'}"], home)
            built(home, ["javac", "-cp", f"{home / 'lib'}/*", "-d", home / "classes", *sources], home)
        return f"{home / 'classes'}:{home / 'lib'}/*"


def python(say):
    """A Python that has the SDK."""
    version = tool(sys.executable, "--version")
    pins = HERE / "python" / "requirements.txt"
    with place("python", version, [pins]) as (home, there):
        if not there:
            say("installing the Python SDK, once")
            fetch(home, [sys.executable, "-m", "venv", home / "venv"], home)
            fetch(home, [home / "venv/bin/python", "-m", "pip", "install", "--quiet", "--no-input", "-r", pins], home)
        return home / "venv" / "bin" / "python"


def node(say):
    """A `node_modules` that has the SDK."""
    version = tool("node", "--version") + tool("npm", "--version")
    pins = [HERE / "node" / name for name in ("package.json", "package-lock.json", ".npmrc")]
    with place("node", version, pins) as (home, there):
        if not there:
            say("installing the Node.js SDK, once")
            for pin in pins:
                shutil.copy(pin, home)
            fetch(home, ["npm", "ci", "--ignore-scripts", "--no-progress"], home)
        return home / "node_modules"


def tool(name, question):
    try:
        return subprocess.run([name, question], capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise Missing(f"{Path(name).name} does not run here: {error}") from error


@contextmanager
def place(name, version, pins):
    """The folder of a thing, ours alone while we look, and whether the thing is there already."""
    key = hashlib.sha256(version.encode())
    for pin in pins:
        key.update(pin.read_bytes())
    home = cache() / f"{name}-{key.hexdigest()[:16]}"
    home.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{home}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = home / "complete"
        there = stamp.exists()
        if not there:
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
        yield home, there
        stamp.touch()


def fetch(home, words, cwd, env=None):
    code, log = command(home, words, cwd, env)
    if code:
        said = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
        # The first complaint is the cause; npm and pip end on advice, Go on a summary.
        line = next((line for line in said if _COMPLAINT.search(line)), said[-1])
        raise Missing(f"{Path(words[0]).name} said: {line[:160]} ({log})")


def built(home, words, cwd, env=None):
    code, log = command(home, words, cwd, env)
    if code:
        raise Broken(f"see {log}")


def command(home, words, cwd, env=None):
    """Runs it to its end or to the deadline. Its exit code, and where its output is."""
    log = home.with_suffix(".log")
    with open(log, "w") as out:
        child = processes.spawn(words, out, cwd=cwd, env={**os.environ, **(env or {})})
        try:
            return child.wait(TIMEOUT_S), log
        except subprocess.TimeoutExpired:
            out.write(f"\nno end after {TIMEOUT_S} s\n")
            return 1, log
        finally:
            processes.end(child, group=True)
