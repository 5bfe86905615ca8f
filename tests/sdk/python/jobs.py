"""The Python SDK's own exporters, job by job: see README.md, "A client"."""

import logging
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "interop" / "python"))
import client  # noqa: E402  (tests/interop's, with what a batch of it holds)


class Said(logging.Handler):
    """What the SDK logs, for whoever gave us the job."""

    def emit(self, record):
        print("said", " ".join(record.getMessage().split()), flush=True)


def main():
    protocol = {"grpc": "grpc", "http/protobuf": "http"}[sys.argv[1]]
    logging.getLogger().addHandler(Said(logging.WARNING))
    logging.Filterer.filter = lambda *_: True  # else what was said in the job before is not said again for 20 s
    sources, batches = {name: make() for name, make in client.SOURCES.items()}, {}
    for line in sys.stdin:
        signal, url, compression, first, count, timeout, header = line.rstrip("\n").split(" ", 6)
        key = signal, int(first), int(count)
        if key not in batches:
            batches[key] = sources[signal].batch(range(key[1], key[1] + key[2]))
        headers = dict([header.split("=", 1)]) if header else None
        exporter = client.exporter(protocol, signal, url, compression == "gzip", float(timeout), headers)
        began = time.monotonic()
        good = client.exported(exporter, batches[key])
        print("done", "SUCCESS" if good else "FAILURE", f"{time.monotonic() - began:.3f}", flush=True)
        exporter.shutdown()


main()
