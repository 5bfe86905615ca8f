#!/usr/bin/env python3
"""Numbered log records for tests of the whole machine: a far end that writes down what arrives, a client that writes down what was
acknowledged, and the comparison. Nothing but Python's own library.

    telemetry.py far-end  --port P --seen FILE --refuse FILE     answers 503 while the second file exists;
                     with "400 00000009" in it so to what holds this number
    telemetry.py send     --port P --first N --count N --acknowledged FILE [--patience S]
    telemetry.py compare  --acknowledged FILE --seen FILE [--patience S]
"""

import argparse
import gzip
import http.client
import http.server
import json
import re
import sys
import time

# In a protobuf body a text stands as it is.
NUMBER = re.compile(rb"number=(\d{8});")


def answer(path, numbers):
    try:
        with open(path, encoding="ascii") as file:
            code, *of = file.read().split() or ["503"]
    except FileNotFoundError:
        return 200
    return int(code) if not of or of[0].encode() in numbers else 200


def far_end(args):
    seen = open(args.seen, "ab", buffering=0)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            numbers = NUMBER.findall(body)
            status = answer(args.refuse, numbers)
            if status == 200:
                # Written before the answer: what was answered for is here.
                seen.write(b"".join(number + b"\n" for number in numbers))
            self.send_response(status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    http.server.ThreadingHTTPServer(("127.0.0.1", args.port), Handler).serve_forever()


def send(args):
    acknowledged = open(args.acknowledged, "a", encoding="ascii")
    end = time.monotonic() + args.patience
    numbers = list(range(args.first, args.first + args.count))
    for at in range(0, len(numbers), 10):
        some = numbers[at : at + 10]
        records = [{"body": {"stringValue": f"number={number:08};"}} for number in some]
        body = json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]})
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", args.port, timeout=20)
                connection.request("POST", "/v1/logs", body, {"content-type": "application/json"})
                answer = connection.getresponse()
                text = answer.read()
                connection.close()
                if answer.status == 200:
                    break
                why = f"{answer.status} {text[:200]!r}"
            except OSError as error:
                why = str(error)
            if time.monotonic() > end:
                sys.exit(f"not acknowledged: {why}")
            time.sleep(0.1)
        acknowledged.write("".join(f"{number:08}\n" for number in some))
        acknowledged.flush()


def read(path):
    with open(path, encoding="ascii") as file:
        return file.read().split()


def compare(args):
    end = time.monotonic() + args.patience
    while True:
        acknowledged, seen = read(args.acknowledged), read(args.seen)
        missing = sorted(set(acknowledged) - set(seen))
        if not missing or time.monotonic() > end:
            break
        time.sleep(0.2)
    print(f"acknowledged {len(acknowledged)}, arrived {len(set(seen))}, missing {len(missing)}, twice {len(seen) - len(set(seen))}")
    sys.exit(1 if missing or not acknowledged else 0)


def main():
    parser = argparse.ArgumentParser()
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("far-end")
    part.set_defaults(do=far_end)
    part.add_argument("--port", type=int, required=True)
    part.add_argument("--seen", required=True)
    part.add_argument("--refuse", required=True)
    part = parts.add_parser("send")
    part.set_defaults(do=send)
    part.add_argument("--port", type=int, required=True)
    part.add_argument("--first", type=int, required=True)
    part.add_argument("--count", type=int, required=True)
    part.add_argument("--acknowledged", required=True)
    part.add_argument("--patience", type=float, default=30)
    part = parts.add_parser("compare")
    part.set_defaults(do=compare)
    part.add_argument("--acknowledged", required=True)
    part.add_argument("--seen", required=True)
    part.add_argument("--patience", type=float, default=60)
    args = parser.parse_args()
    args.do(args)


main()
