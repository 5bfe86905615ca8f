// The JavaScript SDK's own exporters, job by job: see ../README.md, "A client".
"use strict";

const readline = require("node:readline");
const { diag, DiagLogLevel } = require("@opentelemetry/api");
const { SOURCES, exporter } = require("../../interop/node/client.cjs"); // with what a batch of it holds

const say = (...words) => process.stdout.write(`${words.join(" ")}\n`);
const said = (...words) => say("said", words.map(String).join(" ").split(/\s+/).join(" "));

async function main() {
  diag.setLogger({ error: said, warn: said, info() {}, debug() {}, verbose() {} }, DiagLogLevel.WARN);
  const sources = Object.fromEntries(Object.entries(SOURCES).map(([signal, Source]) => [signal, new Source()]));
  const batches = new Map();
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [signal, url, compression, first, count, timeout, ...rest] = line.split(" ");
    const key = `${signal} ${first} ${count}`;
    if (!batches.has(key)) {
      const seqs = Array.from({ length: Number(count) }, (_, i) => Number(first) + i);
      batches.set(key, await sources[signal].batch(seqs));
    }
    const header = rest.join(" ").match(/^([^=]+)=(.*)$/);
    const headers = header ? { [header[1]]: header[2] } : {};
    const one = exporter(process.argv[2], signal, url, compression, 1000 * timeout, headers);
    const began = performance.now();
    const result = await new Promise((done) => one.export(batches.get(key), done));
    if (result.error) said(result.error.name, "code", result.error.code, result.error.message);
    say("done", result.code === 0 ? "SUCCESS" : "FAILURE", ((performance.now() - began) / 1000).toFixed(3));
    await one.shutdown();
  }
  process.exit(0); // exporters keep connections
}

main();
