"""A wire on the loopback between a client and a server that notes what the server answers, and when.

It passes every byte on as it is. It can be cut (`open = False`: whoever connects is sent away), and, for the control of
the case `partial`, it can put a partial success in the place of a full one.
"""

import json
import socket
import threading
import time
from dataclasses import dataclass

import processes

FULL = {"grpc": b"\x0a\x00", "http/protobuf": b"\x0a\x00", "http/json": b'{"partialSuccess":{}}'}
_WHY = "the control says one is missing"
_INNER = b"\x08\x01\x12" + bytes([len(_WHY)]) + _WHY.encode()
_PARTIAL = b"\x0a" + bytes([len(_INNER)]) + _INNER
# Of traces, the one signal the control sends.
_PARTIAL_JSON = json.dumps({"partialSuccess": {"rejectedSpans": "1", "errorMessage": _WHY}}).encode()
PARTIAL = {"grpc": _PARTIAL, "http/protobuf": _PARTIAL, "http/json": _PARTIAL_JSON}

PREFACE = 24  # bytes of HTTP/2's client connection preface (RFC 9113, 3.4)
DATA, HEADERS = 0, 1
END_STREAM = 1


@dataclass
class Answer:
    """One answer of the server. `status`, `retry_after`: of HTTP/1.1; gRPC's stand in compressed headers, which its
    clients understand and we do not."""

    asked: float
    answered: float
    body: bytes
    status: int | None = None
    retry_after: str | None = None


class Tap:
    """All connections through one port."""

    def __init__(self, port, target, protocol=None):
        self.target, self.protocol = target, protocol
        self.open, self.partial = True, False
        self.answers, self.sockets = [], []
        self.listener = socket.create_server(("127.0.0.1", port))
        processes.background(self.accept)

    def close(self):
        self.open = False
        for one in [self.listener, *self.sockets]:
            hang_up(one)

    def cut(self):
        """Whoever is connected is not any more, and nobody else will be until `open`."""
        self.open = False
        for one in self.sockets:
            hang_up(one)
        self.sockets.clear()

    def mend(self):
        self.open = True

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return  # closed
            try:
                if not self.open:
                    raise ConnectionRefusedError
                server = socket.create_connection(("127.0.0.1", self.target), 5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            self.sockets += [client, server]
            parser = {None: Blind, "grpc": Grpc}.get(self.protocol, Http)(self)
            processes.background(carry, client, server, parser.asked)
            processes.background(carry, server, client, parser.answered)


def hang_up(one):
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    one.close()


def carry(source, sink, look):
    """Everything, until there is no more."""
    whole = True
    while True:
        try:
            piece = source.recv(1 << 16)
        except OSError:
            break
        if not piece:
            break
        piece = look(piece)
        try:
            if whole and piece:
                sink.sendall(piece)
        except OSError:
            whole = False  # who does not listen may still have something to say
    try:
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class Blind:
    """Looks at nothing."""

    def __init__(self, tap):
        self.asked = self.answered = lambda piece: piece


class Http:
    """HTTP/1.1, one request after the other on a connection."""

    def __init__(self, tap):
        self.tap, self.since, self.buffer = tap, None, b""

    def asked(self, piece):
        if self.since is None:
            self.since = time.monotonic()
        return piece

    def answered(self, piece):
        self.buffer += piece
        out = b""
        while True:
            head, end, rest = self.buffer.partition(b"\r\n\r\n")
            if not end:
                return out
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            length = int(headers.get("content-length", 0))
            if len(rest) < length:
                return out
            body, self.buffer = rest[:length], rest[length:]
            status = int(first.split()[1])
            if self.tap.partial and body == FULL[self.tap.protocol]:
                body = PARTIAL[self.tap.protocol]
                head = head.replace(b"content-length: %d" % length, b"content-length: %d" % len(body))
            if status >= 200:
                now = time.monotonic()
                self.tap.answers.append(Answer(self.since or now, now, body, status, headers.get("retry-after")))
                self.since = None
            out += head + end + body


class Grpc:
    """HTTP/2, as far as its frames: a stream is one call."""

    def __init__(self, tap):
        self.tap, self.began, self.bodies = tap, {}, {}
        self.there, self.back, self.skip = b"", b"", PREFACE

    def asked(self, piece):
        self.there += piece
        if self.skip:
            skipped = min(self.skip, len(self.there))
            self.skip, self.there = self.skip - skipped, self.there[skipped:]
        while frame := cut_off(self.there):
            self.there, kind, _, stream, _ = frame
            if kind == HEADERS:
                self.began.setdefault(stream, time.monotonic())
        return piece

    def answered(self, piece):
        self.back += piece
        out = b""
        while frame := cut_off(self.back):
            whole = self.back[: len(self.back) - len(frame[0])]
            self.back, kind, flags, stream, payload = frame
            if kind == DATA:
                if self.tap.partial and payload[5:] == FULL["grpc"]:
                    payload = b"\x00" + len(PARTIAL["grpc"]).to_bytes(4) + PARTIAL["grpc"]
                    whole = len(payload).to_bytes(3) + whole[3:9] + payload
                self.bodies[stream] = self.bodies.get(stream, b"") + payload
            if kind == HEADERS and flags & END_STREAM and stream in self.began:
                began, body = self.began.pop(stream), self.bodies.pop(stream, b"")
                self.tap.answers.append(Answer(began, time.monotonic(), body[5:]))
            out += whole
        return out


def cut_off(buffer):
    """(what follows it, type, flags, stream, payload) of the first whole frame, if there is one (RFC 9113, 4.1)."""
    if len(buffer) < 9:
        return None
    length = int.from_bytes(buffer[:3])
    if len(buffer) < 9 + length:
        return None
    stream = int.from_bytes(buffer[5:9]) & 0x7FFFFFFF
    return buffer[9 + length :], buffer[3], buffer[4], stream, buffer[9 : 9 + length]
