//! One piece of a good file is changed; the report is exactly this.

use std::collections::BTreeMap;
use tfo_otel_agent::app::plan;
use tfo_otel_agent::config::{Imagined, Locations};

/// Nothing is wrong with it.
const GOOD: &str = "\
receivers:
  otlp:
    protocols:
      grpc:
        endpoint: 0.0.0.0:4317
      http:
        endpoint: 0.0.0.0:4318

processors:
  batch:
    timeout: 10s
    send_batch_size: 512
  memory_limiter:
    check_interval: 1s
    limit_mib: 256
  attributes:
    actions:
      - key: tenant
        value: ${env:TENANT}
        action: upsert

exporters:
  otlphttp:
    endpoint: https://collector:4318
    headers:
      X-Tenant-Id: \"${env:TENANT}\"
    compression: gzip
    timeout: 30s
    retry_on_failure:
      initial_interval: 5s
      max_interval: 30s
    sending_queue:
      num_consumers: 10
      storage: file_storage

extensions:
  health_check:
    endpoint: 0.0.0.0:13133
  file_storage:
    directory: /var/lib/queue
    compaction:
      on_start: true

service:
  extensions: [health_check, file_storage]
  pipelines:
    logs:
      receivers: [otlp]
      processors: [memory_limiter, attributes, batch]
      exporters: [otlphttp]
  telemetry:
    logs:
      level: info
";

fn report(text: &str) -> (String, bool) {
    let host = Imagined {
        files: BTreeMap::from([("f.yaml".to_owned(), text.to_owned())]),
        dirs: vec!["/var/lib/queue".to_owned()],
        ..Imagined::with(&[("TENANT", "0123"), ("EMPTY", ""), ("PORT", "70000"), ("SIZE", "0512"), ("N", "64")])
    };
    let outcome = plan::read(&Locations::of("f.yaml"), &host);
    assert_eq!(
        outcome.config.is_some(),
        outcome.report.errors() == 0,
        "a configuration comes without errors or not at all"
    );
    (outcome.report.to_string(), outcome.config.is_some())
}

#[test]
fn the_good_file_is_good() {
    assert_eq!(report(GOOD), (String::new(), true));
}

/// (what is taken out of the good file, what comes in its place, the report)
#[rustfmt::skip]
const CASES: &[(&str, &str, &str)] = &[
    ("    protocols:\n      grpc:",
     "    protocols:\n\t    grpc:",
     "1 problem\n\
         \x20 4:1  -  a tab indents this line; YAML takes only spaces"),
    ("        endpoint: 0.0.0.0:4318",
     "        limits:\n          max_header_list_size: 200000",
     "1 problem\n\
         \x20 8:33  receivers.otlp.protocols.http.limits.max_header_list_size  200000 is not from 1024 to 131072"),
    ("    timeout: 10s",
     "    timeout: '10s",
     "1 problem\n\
         \x20 11:14  -  the quote that opens here is not closed in its lines"),
    ("    timeout: 10s",
     "    timeout: 10s: x",
     "1 problem\n\
         \x20 11:17  -  a second `: ` in one line, or a line indented deeper than its key allows; quote a value that has a colon"),
    ("    timeout: 10s",
     "   timeout: 10s",
     "1 problem\n\
         \x20 12:20  -  a second `: ` in one line, or a line indented deeper than its key allows; quote a value that has a colon"),
    ("receivers: [otlp]",
     "receivers: [otlp",
     "1 problem\n\
         \x20 49:17  -  a `:` stands where a list goes on; is the `[` above not closed?"),
    ("receivers: [otlp]",
     "receivers: [${env:TENANT}]",
     "1 problem\n\
         \x20 48:20  -  inside [ ] or { } a reference needs quotes: \"${env:NAME}\""),
    ("    compression: gzip",
     "    compression: @gzip",
     "1 problem\n\
         \x20 27:18  -  a value cannot begin with `@`; quote it"),
    ("    compression: gzip",
     "    <<: *nothing",
     "1 problem\n\
         \x20 27:9  -  this alias names no anchor above it"),
    ("    timeout: 30s",
     "    timeout: 30s\n    compression: none\n    timeout: 40s",
     "2 problems\n\
         \x20 29:5  exporters.otlphttp.compression  the key `compression` stands twice, first at 27:5\n\
         \x20 30:5  exporters.otlphttp.timeout      the key `timeout` stands twice, first at 28:5"),
    ("  telemetry:\n    logs:\n      level: info\n",
     "---\nsecond: document\n",
     "1 warning\n\
         \x20 51:1  -  warning: a second document begins here; only the first one is read"),
    ("    logs:\n      receivers",
     "    ? [logs]\n    : 1\n    logs:\n      receivers",
     "1 problem\n\
         \x20 47:7  service.pipelines  a key is a list or a map; keys are texts"),
    ("    limit_mib: 256",
     "    limit_mb: 256",
     "2 problems\n\
         \x20 14:5  processors.memory_limiter           there is no limit; give limit_mib or limit_percentage\n\
         \x20 15:5  processors.memory_limiter.limit_mb  `limit_mb` is not a key here; did you mean `limit_mib`?"),
    ("    check_interval: 1s",
     "    chek_interval: 1s",
     "1 problem, 1 warning\n\
         \x20 14:5  processors.memory_limiter.check_interval  warning: check_interval is not given (otelcol refuses that); 1s is assumed\n\
         \x20 14:5  processors.memory_limiter.chek_interval   `chek_interval` is not a key here; did you mean `check_interval`?"),
    ("    send_batch_size: 512",
     "    sendBatchSize: 512",
     "1 problem\n\
         \x20 12:5  processors.batch.sendBatchSize  `sendBatchSize` is not a key here; did you mean `send_batch_size`?"),
    ("  telemetry:",
     "  telemetri:",
     "1 problem\n\
         \x20 51:3  service.telemetri  `telemetri` is not a key here; did you mean `telemetry`?"),
    ("processors:\n  batch",
     "procesors:\n  batch",
     "4 problems\n\
         \x20 9:1    procesors                          `procesors` is not a key here; did you mean `processors`?\n\
         \x20 49:20  service.pipelines.logs.processors  `memory_limiter` is not defined under processors\n\
         \x20 49:36  service.pipelines.logs.processors  `attributes` is not defined under processors\n\
         \x20 49:48  service.pipelines.logs.processors  `batch` is not defined under processors"),
    ("      max_interval: 30s",
     "      frobnicate: 30s",
     "1 problem\n\
         \x20 31:7  exporters.otlphttp.retry_on_failure.frobnicate  `frobnicate` is not a key here; enabled, initial_interval, randomization_factor, multiplier, max_interval, max_elapsed_time, on_expiry, reconnect_spread are"),
    ("        endpoint: 0.0.0.0:4318",
     "        endpoint: 0.0.0.0:4318\n        read_timeout: 5s\n        middlewares: [x]",
     "1 problem, 1 warning\n\
         \x20 8:9  receivers.otlp.protocols.http.read_timeout  warning: has no effect: limits.body_idle_timeout and limits.body_timeout bound the body of a request\n\
         \x20 9:9  receivers.otlp.protocols.http.middlewares   middlewares are not available in this build"),
    ("      on_start: true",
     "      on_start: true\n      cleanup_on_start: true\n    fsync: false\n    recreate: true\n    create_directory: false",
     "4 warnings\n\
         \x20 43:7   extensions.file_storage.compaction.cleanup_on_start  warning: has no effect: half-made copies are always removed at start\n\
         \x20 44:12  extensions.file_storage.fsync                        warning: false has no effect: what is acknowledged here is synced\n\
         \x20 45:5   extensions.file_storage.recreate                     warning: has no effect: damaged parts are set aside and counted, and the rest goes on\n\
         \x20 46:5   extensions.file_storage.create_directory             warning: has no effect: the directory is created when it is absent"),
    ("      num_consumers: 10",
     "      sizer: bytes\n      block_on_overflow: true\n      wait_for_result: true",
     "3 warnings\n\
         \x20 33:7  exporters.otlphttp.sending_queue.sizer              warning: has no effect: with storage bytes count, without it uploads\n\
         \x20 34:7  exporters.otlphttp.sending_queue.block_on_overflow  warning: has no effect: a client is told to come back when the queue is full\n\
         \x20 35:7  exporters.otlphttp.sending_queue.wait_for_result    warning: has no effect: a client is answered when its data is on disk"),
    ("    timeout: 10s",
     "    timeout: 10",
     "1 problem\n\
         \x20 11:14  processors.batch.timeout  `10` has no unit; write for example `10s` (otelcol reads it as nanoseconds)"),
    ("    timeout: 10s",
     "    timeout: 1d",
     "1 problem\n\
         \x20 11:14  processors.batch.timeout  `1d` is not a duration; write numbers with units ns, us, ms, s, m or h, for example `1m30s`"),
    ("    timeout: 10s",
     "    timeout: -10s",
     "1 problem\n\
         \x20 11:14  processors.batch.timeout  `-10s` is negative"),
    ("    timeout: 10s",
     "    timeout: [10s]",
     "1 problem\n\
         \x20 11:14  processors.batch.timeout  here is a list; it must be a duration such as `30s`"),
    ("    timeout: 10s",
     "    timeout: 0",
     ""),
    ("    send_batch_size: 512",
     "    send_batch_size: many",
     "1 problem\n\
         \x20 12:22  processors.batch.send_batch_size  `many` is not a whole number"),
    ("    send_batch_size: 512",
     "    send_batch_size: -1",
     "1 problem\n\
         \x20 12:22  processors.batch.send_batch_size  -1 is not from 0 to 4294967295"),
    ("    send_batch_size: 512",
     "    send_batch_size: 5000000000",
     "1 problem\n\
         \x20 12:22  processors.batch.send_batch_size  5000000000 is not from 0 to 4294967295"),
    ("    send_batch_size: 512",
     "    send_batch_size: 1.5",
     "1 problem\n\
         \x20 12:22  processors.batch.send_batch_size  `1.5` is not a whole number"),
    ("    send_batch_size: 512",
     "    send_batch_size: 0512",
     "1 problem\n\
         \x20 12:22  processors.batch.send_batch_size  `0512` begins with a zero, which otelcol reads as octal; write the number without it"),
    ("    send_batch_size: 512",
     "    send_batch_size: ${env:SIZE}",
     "1 problem\n\
         \x20 12:22  processors.batch.send_batch_size  `0512` begins with a zero, which otelcol reads as octal; write the number without it"),
    ("    send_batch_size: 512",
     "    send_batch_size: \"512\"",
     ""),
    ("    send_batch_size: 512",
     "    send_batch_size: 1e3",
     ""),
    ("    send_batch_size: 512",
     "    send_batch_size: ${env:N}",
     ""),
    ("    send_batch_size: 512",
     "    send_batch_size: ${env:GONE}",
     "1 warning\n\
         \x20 12:22  processors.batch.send_batch_size  warning: the variable `GONE` is not set; the default stays"),
    ("      on_start: true",
     "      on_start: yes",
     "1 problem\n\
         \x20 42:17  extensions.file_storage.compaction.on_start  `yes` is neither true nor false"),
    ("    protocols:\n      grpc:\n        endpoint: 0.0.0.0:4317\n",
     "    protocols:\n      grpc: 4317\n",
     "1 problem\n\
         \x20 4:13  receivers.otlp.protocols.grpc  here is a number; it must be a map, an indented block of keys"),
    ("    compression: gzip",
     "    compression: gzipp",
     "1 problem\n\
         \x20 27:18  exporters.otlphttp.compression  `gzipp` is not one of gzip, zstd, snappy, zlib, deflate, none, lz4; did you mean `gzip`?"),
    ("    compression: gzip",
     "    compression: lz4",
     "1 warning\n\
         \x20 27:18  exporters.otlphttp.compression  warning: lz4 is not in this build; gzip is sent, which every OTLP server takes"),
    ("      level: info",
     "      level: loud",
     "1 problem\n\
         \x20 53:14  service.telemetry.logs.level  `loud` is not one of debug, info, warn, error, dpanic, panic, fatal"),
    ("    headers:\n      X-Tenant-Id: \"${env:TENANT}\"",
     "    headers: [X-Tenant-Id]",
     "1 problem\n\
         \x20 25:14  exporters.otlphttp.headers  here is a list; it must be a map"),
    ("      X-Tenant-Id: \"${env:TENANT}\"",
     "      \"X Tenant\": a\n      X-B: \"a\\nb\"\n      X-C: ${env:GONE}",
     "2 problems, 1 warning\n\
         \x20 26:7   exporters.otlphttp.headers.X Tenant  `X Tenant` is not the name of a header\n\
         \x20 27:12  exporters.otlphttp.headers.X-B       the value has a line break or another control character\n\
         \x20 28:12  exporters.otlphttp.headers.X-C       warning: the variable `GONE` is not set; it is read as empty"),
    ("    endpoint: https://collector:4318",
     "    endpoint: collector:4318",
     "1 problem\n\
         \x20 24:15  exporters.otlphttp.endpoint  `collector:4318` has no scheme; it must begin with http:// or https://; did you mean `http://collector:4318`?"),
    ("    endpoint: https://collector:4318",
     "    endpoint: ${env:GONE}",
     "1 problem\n\
         \x20 24:15  exporters.otlphttp.endpoint  the variable `GONE` is not set; without it there is no endpoint"),
    ("    endpoint: https://collector:4318",
     "    endpoint: https://${env:EMPTY}:4318",
     "1 problem\n\
         \x20 24:15  exporters.otlphttp.endpoint  the variable `EMPTY` is set, but empty; without it there is no endpoint"),
    ("    endpoint: https://collector:4318",
     "    endpoint: https://collector:${env:PORT}",
     "1 problem\n\
         \x20 24:15  exporters.otlphttp.endpoint  `https://collector:70000`: `70000` is not a port; write a number from 1 to 65535"),
    ("    endpoint: https://collector:4318",
     "    endpoint: ftp://collector",
     "1 problem\n\
         \x20 24:15  exporters.otlphttp.endpoint  `ftp://collector` has the scheme `ftp`; http and https can be sent to"),
    ("    endpoint: https://collector:4318",
     "    endpoint: https://user:secret@col lector",
     "1 problem\n\
         \x20 24:15  exporters.otlphttp.endpoint  `https://REDACTED@col lector` is not a URL: invalid uri character"),
    ("    endpoint: https://collector:4318",
     "    endpoint: https://user:SEC/RET@collector:4318",
     "1 problem\n\
         \x20 24:15  exporters.otlphttp.endpoint  `https://REDACTED@collector:4318` has a password with `/`, `?` or `#` in it; write them as %2F, %3F, %23"),
    ("    endpoint: https://collector:4318",
     "    endpoint: user:SECRET@collector:4318",
     "1 problem\n\
         \x20 24:15  exporters.otlphttp.endpoint  `REDACTED@collector:4318` has no scheme; it must begin with http:// or https://; did you mean `http://REDACTED@collector:4318`?"),
    ("    endpoint: https://collector:4318",
     "    endpoint: https://collector:4318/v1/logs",
     "1 warning\n\
         \x20 24:15  exporters.otlphttp.endpoint  warning: is a base, to which /v1/logs is added again; meant is probably logs_endpoint"),
    ("    endpoint: https://collector:4318",
     "    endpoint: https://collector:4318/?a=b",
     "1 problem\n\
         \x20 24:15  exporters.otlphttp.endpoint  has a query, which would stand in front of /v1/…; give traces_endpoint, metrics_endpoint and logs_endpoint"),
    ("    endpoint: https://collector:4318\n",
     "",
     "1 problem\n\
         \x20 24:5  exporters.otlphttp  at least one endpoint must be given: endpoint, traces_endpoint, metrics_endpoint, logs_endpoint"),
    ("    endpoint: https://collector:4318",
     "    traces_endpoint: https://collector:4318",
     "1 problem\n\
         \x20 24:5  exporters.otlphttp  the pipeline `logs` sends here; give endpoint or logs_endpoint"),
    ("    endpoint: https://collector:4318",
     "    endpoint: http://collector\n    tls:\n      ca_file: /ca.pem",
     "1 warning\n\
         \x20 26:7  exporters.otlphttp.tls  warning: has no effect: no endpoint begins with https://"),
    ("    compression: gzip",
     "    tls:\n      insecure: true",
     "1 warning\n\
         \x20 28:7  exporters.otlphttp.tls  warning: insecure has no effect over HTTP: https stays https and certificates are checked; meant is http://, or insecure_skip_verify"),
    ("    compression: gzip",
     "    tls:\n      cert_file: /c.pem\n      min_version: \"1.1\"\n      max_version: \"1.4\"",
     "2 problems, 1 warning\n\
         \x20 28:7   exporters.otlphttp.tls              a certificate needs its key and a key its certificate: give cert_file and key_file, or neither\n\
         \x20 29:20  exporters.otlphttp.tls.min_version  warning: TLS below 1.2 does not exist here; 1.2 is taken\n\
         \x20 30:20  exporters.otlphttp.tls.max_version  `1.4` is not one of 1.0, 1.1, 1.2, 1.3"),
    ("    compression: gzip",
     "    auth:\n      authenticator: oauth2client",
     "1 problem\n\
         \x20 28:22  exporters.otlphttp.auth.authenticator  `oauth2client` is not defined under extensions"),
    ("        endpoint: 0.0.0.0:4317",
     "        endpoint: ${env:GONE}:4317",
     "1 problem\n\
         \x20 5:19  receivers.otlp.protocols.grpc.endpoint  the variable `GONE` is not set; without it there is no endpoint"),
    ("        endpoint: 0.0.0.0:4317",
     "        endpoint: 0.0.0.0",
     "1 problem\n\
         \x20 5:19  receivers.otlp.protocols.grpc.endpoint  `0.0.0.0` has no port; write `host:port`"),
    ("        endpoint: 0.0.0.0:4317",
     "        endpoint: 0.0.0.0:4317\n        tls: {cert_file: /c, key_file: /k}",
     "1 problem\n\
         \x20 6:26  receivers.otlp.protocols.grpc.tls.cert_file  `/c` cannot be read: entity not found"),
    ("        endpoint: 0.0.0.0:4318",
     "        endpoint: localhost:4317",
     "1 problem\n\
         \x20 7:19  receivers.otlp.protocols.http.endpoint  localhost:4317 is taken by receivers.otlp.protocols.grpc.endpoint (0.0.0.0:4317)"),
    ("    endpoint: 0.0.0.0:13133",
     "    endpoint: 127.0.0.1:8888",
     "1 problem\n\
         \x20 52:5  service.telemetry.metrics.address  :8888 is taken by extensions.health_check.endpoint (127.0.0.1:8888)"),
    ("      http:\n        endpoint: 0.0.0.0:4318\n",
     "      http:\n        logs_url_path: v1/traces\n",
     "1 problem\n\
         \x20 7:24  receivers.otlp.protocols.http.logs_url_path  is the path of another signal too; one of them would never arrive"),
    ("    protocols:\n      grpc:\n        endpoint: 0.0.0.0:4317\n      http:\n        endpoint: 0.0.0.0:4318\n",
     "    protocols:\n",
     "1 problem\n\
         \x20 3:5  receivers.otlp.protocols  names neither grpc nor http; nothing would listen"),
    ("exporters: [otlphttp]",
     "exporters: [otlphtp]",
     "1 problem\n\
         \x20 50:19  service.pipelines.logs.exporters  `otlphtp` is not defined under exporters; did you mean `otlphttp`?"),
    ("exporters: [otlphttp]",
     "exporters: [otlphttp/typo]",
     "1 problem\n\
         \x20 50:19  service.pipelines.logs.exporters  `otlphttp/typo` is not defined under exporters; did you mean `otlphttp`?"),
    ("      storage: file_storage",
     "      storage: file_storage/disk",
     "1 problem\n\
         \x20 34:16  exporters.otlphttp.sending_queue.storage  `file_storage/disk` is not defined under extensions; did you mean `file_storage`?"),
    ("exporters: [otlphttp]",
     "exporters: []",
     "1 problem\n\
         \x20 47:5  service.pipelines.logs.exporters  a pipeline needs at least one exporter"),
    ("receivers: [otlp]",
     "receivers: [otlp, batch]",
     "1 problem\n\
         \x20 48:25  service.pipelines.logs.receivers  `batch` is not defined under receivers (it is defined under processors)"),
    ("receivers: [otlp]",
     "receivers: [otlp, otlp]",
     "1 warning\n\
         \x20 48:25  service.pipelines.logs.receivers  warning: `otlp` stands here twice; it is taken once"),
    ("processors: [memory_limiter, attributes, batch]",
     "processors: [batch, attributes, batch]",
     "1 problem\n\
         \x20 49:39  service.pipelines.logs.processors  `batch` stands here twice; a processor acts once in a pipeline"),
    ("    logs:\n      receivers",
     "    log:\n      receivers",
     "1 problem\n\
         \x20 47:5  service.pipelines.log  `log` is no signal; a pipeline is one of traces, metrics, logs, maybe with /name; did you mean `logs`?"),
    ("    logs:\n      receivers",
     "    logs/:\n      receivers",
     "1 problem\n\
         \x20 47:5  service.pipelines.logs/  the id `logs/` has nothing after the slash; write `type` or `type/name`"),
    ("extensions: [health_check, file_storage]",
     "extensions: [health_check]",
     "1 warning\n\
         \x20 34:16  exporters.otlphttp.sending_queue.storage  warning: `file_storage` is not listed in service.extensions; it is started all the same"),
    ("extensions: [health_check, file_storage]",
     "extensions: [healthcheck, file_storage]",
     "1 problem\n\
         \x20 45:16  service.extensions  `healthcheck` is not defined under extensions; did you mean `health_check`?"),
    ("      storage: file_storage",
     "      storage: file_store",
     "1 problem\n\
         \x20 34:16  exporters.otlphttp.sending_queue.storage  `file_store` is not defined under extensions; did you mean `file_storage`?"),
    ("      storage: file_storage",
     "      storage: health_check",
     "1 problem\n\
         \x20 34:16  exporters.otlphttp.sending_queue.storage  `health_check` is not a storage; a file_storage is"),
    ("  pipelines:\n    logs:\n      receivers: [otlp]\n      processors: [memory_limiter, attributes, batch]\n      exporters: [otlphttp]\n",
     "  pipelines:\n",
     "1 problem\n\
         \x20 46:3  service.pipelines  there are no pipelines; a service needs at least one"),
    ("  otlp:\n    protocols",
     "  otlpp:\n    protocols",
     "2 problems\n\
         \x20 2:3    receivers.otlpp                   `otlpp` is no receiver type; there are otlp, self; did you mean `otlp`?\n\
         \x20 48:19  service.pipelines.logs.receivers  `otlp` is not defined under receivers; did you mean `otlpp`?"),
    ("exporters:\n  otlphttp:\n",
     "exporters:\n  jaeger:\n  otlphttp:\n",
     "1 problem\n\
         \x20 23:3  exporters.jaeger  `jaeger` is no exporter type; there are otlphttp, otlp_http, otlp, otlp_grpc, logging, debug, loadbalancing, load_balancing"),
    ("receivers:\n  otlp:\n",
     "receivers:\n  filelog:\n    include: [/x]\n  otlp:\n",
     "1 warning\n\
         \x20 2:3  receivers.filelog  warning: the receiver `filelog` is not available in this build; nothing uses it"),
    ("receivers:\n  otlp:\n    protocols:\n      grpc:\n        endpoint: 0.0.0.0:4317\n      http:\n        endpoint: 0.0.0.0:4318\n",
     "receivers:\n  prometheus:\n",
     "1 problem, 1 warning\n\
         \x20 2:3    receivers.prometheus              warning: the receiver `prometheus` is not available in this build; nothing uses it\n\
         \x20 43:19  service.pipelines.logs.receivers  `otlp` is not defined under receivers"),
    ("exporters:\n  otlphttp:\n",
     "connectors:\n  forward:\nexporters:\n  otlphttp:\n",
     "1 problem\n\
         \x20 22:1  connectors  connectors are not available in this build"),
    ("extensions:\n  health_check",
     "extensions:\n  file_storage/b:\n    directory: /var/lib/queue/b\n  health_check",
     ""),
    ("    limit_mib: 256",
     "    spike_limit_mib: 64",
     "1 problem\n\
         \x20 14:5  processors.memory_limiter  there is no limit; give limit_mib or limit_percentage"),
    ("    limit_mib: 256",
     "    limit_mib: 64\n    spike_limit_mib: 64\n    limit_percentage: 50",
     "1 problem, 1 warning\n\
         \x20 16:22  processors.memory_limiter.spike_limit_mib   64 is not less than limit_mib (64); all data would be refused\n\
         \x20 17:23  processors.memory_limiter.limit_percentage  warning: has no effect: limit_mib goes before it"),
    ("    limit_mib: 256",
     "    limit_percentage: 120",
     "2 problems\n\
         \x20 14:5   processors.memory_limiter                   there is no limit; give limit_mib or limit_percentage\n\
         \x20 15:23  processors.memory_limiter.limit_percentage  120 is not from 0 to 100"),
    ("    check_interval: 1s",
     "    check_interval: 0s\n    min_gc_interval_when_soft_limited: 1s",
     "2 warnings\n\
         \x20 14:21  processors.memory_limiter.check_interval                     warning: check_interval is not given (otelcol refuses that); 1s is assumed\n\
         \x20 15:5   processors.memory_limiter.min_gc_interval_when_soft_limited  warning: has no effect: memory is freed at once here; there is no garbage collector"),
    ("    send_batch_size: 512",
     "    send_batch_size: 512\n    send_batch_max_size: 100\n    metadata_keys: [A, b, a]",
     "2 problems, 1 warning\n\
         \x20 13:26  processors.batch.send_batch_max_size  100 is less than send_batch_size (512)\n\
         \x20 14:20  processors.batch.metadata_keys        names `a` twice (upper and lower case are the same)\n\
         \x20 14:20  processors.batch.metadata_keys        warning: has no effect: no receiver of the pipeline `logs` has include_metadata"),
    ("      max_interval: 30s",
     "      max_interval: 1s\n      multiplier: 0.5\n      randomization_factor: 2",
     "1 problem, 2 warnings\n\
         \x20 31:21  exporters.otlphttp.retry_on_failure.max_interval          warning: 1s is shorter than initial_interval (5s); every rest is 1s\n\
         \x20 32:19  exporters.otlphttp.retry_on_failure.multiplier            warning: 0.5 would make rests shorter; it counts as 1\n\
         \x20 33:29  exporters.otlphttp.retry_on_failure.randomization_factor  2 is not from 0 to 1"),
    ("      max_interval: 30s",
     "      max_elapsed_time: 10s\n      on_expiry: keep",
     "1 problem, 1 warning\n\
         \x20 31:25  exporters.otlphttp.retry_on_failure.max_elapsed_time  warning: 10s is shorter than one rest (30s); the window ends before a second try\n\
         \x20 32:18  exporters.otlphttp.retry_on_failure.on_expiry         `keep` is not one of park, drop"),
    ("      num_consumers: 10",
     "      num_consumers: 0\n      queue_size: 0",
     "2 problems\n\
         \x20 33:22  exporters.otlphttp.sending_queue.num_consumers  0 is not from 1 to 4294967295\n\
         \x20 34:19  exporters.otlphttp.sending_queue.queue_size     0 is not from 1 to 9223372036854775807"),
    ("    directory: /var/lib/queue",
     "    directory: queue",
     "1 problem\n\
         \x20 40:16  extensions.file_storage.directory  `queue` is relative; a service has no place of its own"),
    ("    directory: /var/lib/queue",
     "    directory: /var/lib/other\n    directory_permissions: \"0070\"\n    max_size_mib: 2\n    commit_interval: 1m",
     "2 problems, 2 warnings\n\
         \x20 40:16  extensions.file_storage.directory              warning: `/var/lib/other` is not there; it will be created (0070)\n\
         \x20 41:28  extensions.file_storage.directory_permissions  `0070` keeps the agent itself out; it must begin with 07\n\
         \x20 42:19  extensions.file_storage.max_size_mib           2 MiB is less than 6 MiB, three of the smallest segments\n\
         \x20 43:22  extensions.file_storage.commit_interval        warning: clients wait 60s for their answer; many give up after 10s and send again"),
    ("    directory: /var/lib/queue",
     "    directory: /var/lib/queue\n    max_size: 104857601\n    directory_permissions: 999",
     "1 problem, 1 warning\n\
         \x20 41:15  extensions.file_storage.max_size               warning: caps one file of otelcol; taken as max_size_mib: 101, which caps the whole directory\n\
         \x20 42:28  extensions.file_storage.directory_permissions  `999` is not from 0000 to 0777 in octal"),
    ("    endpoint: 0.0.0.0:13133",
     "    path: health\n    check_collector_pipeline:\n      enabled: true",
     "1 problem, 1 warning\n\
         \x20 38:11  extensions.health_check.path                              `health` does not begin with a slash\n\
         \x20 40:16  extensions.health_check.check_collector_pipeline.enabled  warning: acts on /ready alone (the original never finds anything): an outage is no reason to restart this agent"),
    ("    logs:\n      level: info",
     "    logs:\n      output_paths: [http://x, stdout]\n      sampling: {tick: 0s}\n    metrics:\n      readers: []",
     "2 problems, 1 warning\n\
         \x20 53:22  service.telemetry.logs.output_paths   `http://x` is none of stdout, stderr, a path, file:// and an absolute path\n\
         \x20 54:24  service.telemetry.logs.sampling.tick  0 is not a tick; write `enabled: false` for no sampling\n\
         \x20 56:16  service.telemetry.metrics.readers     warning: names none that Prometheus pulls from; metrics are served at localhost:8888, and `level: none` serves none"),
    ("    logs:\n      level: info",
     "    logs:\n      output_paths: [/var/lib/queue, /gone/a.log, file:///gone/b.log, /c.log, d.log]\n      error_output_paths: /var/lib/queue",
     "4 warnings\n\
         \x20 53:22  service.telemetry.logs.output_paths        warning: `/var/lib/queue` cannot be opened: it is a directory; lines for it are missed until it can\n\
         \x20 53:38  service.telemetry.logs.output_paths        warning: `/gone/a.log` cannot be opened: `/gone` is no directory; lines for it are missed until it can\n\
         \x20 53:51  service.telemetry.logs.output_paths        warning: `file:///gone/b.log` cannot be opened: `/gone` is no directory; lines for it are missed until it can\n\
         \x20 54:27  service.telemetry.logs.error_output_paths  warning: `/var/lib/queue` cannot be opened: it is a directory; lines for it are missed until it can"),
    ("    logs:\n      level: info",
     "    metrics:\n      readers:\n        - periodic: {exporter: {otlp: {endpoint: http://x}}}\n        - pull: {exporter: {prometheus: {host: localhost, port: 4317}}}",
     "1 problem, 1 warning\n\
         \x20 53:7   service.telemetry.metrics.address     localhost:4317 is taken by receivers.otlp.protocols.grpc.endpoint (0.0.0.0:4317)\n\
         \x20 54:11  service.telemetry.metrics.readers[0]  warning: is set aside: metrics are served at one place, localhost:4317"),
    ("    logs:\n      level: info",
     "    logs:\n      development: true\n      disable_stacktrace: true",
     "2 warnings\n\
         \x20 53:20  service.telemetry.logs.development         warning: true has no effect: in otelcol it adds stack traces to warnings, and no line here has one\n\
         \x20 54:27  service.telemetry.logs.disable_stacktrace  warning: true has no effect: no line here has a stack trace"),
    ("exporters:\n  otlphttp:\n",
     "exporters:\n  logging:\n    loglevel: debug\n  debug:\n    verbosity: detailed\n  otlphttp:\n",
     "3 warnings\n\
         \x20 24:15  exporters.logging.loglevel  warning: detailed writes the same lines as normal: no payload goes into a log of this agent\n\
         \x20 24:15  exporters.logging.loglevel  warning: is the old name; taken as verbosity: detailed\n\
         \x20 26:16  exporters.debug.verbosity   warning: detailed writes the same lines as normal: no payload goes into a log of this agent"),
    ("      X-Tenant-Id: \"${env:TENANT}\"",
     "      X-Tenant-Id: 0123\n      A: 12\n      B: true\n      C: 0x10\n      D: 1.50\n      E: \"0123\"\n      F: 1.5",
     "4 warnings\n\
         \x20 26:20  exporters.otlphttp.headers.X-Tenant-Id  warning: an unquoted number or word is sent as it is written; otelcol reads it first and sends another text (83 for 0123, 1 for true); quotes make it clear\n\
         \x20 28:10  exporters.otlphttp.headers.B            warning: an unquoted number or word is sent as it is written; otelcol reads it first and sends another text (83 for 0123, 1 for true); quotes make it clear\n\
         \x20 29:10  exporters.otlphttp.headers.C            warning: an unquoted number or word is sent as it is written; otelcol reads it first and sends another text (83 for 0123, 1 for true); quotes make it clear\n\
         \x20 30:10  exporters.otlphttp.headers.D            warning: an unquoted number or word is sent as it is written; otelcol reads it first and sends another text (83 for 0123, 1 for true); quotes make it clear"),
    ("    logs:\n      level: info",
     "    resource: {a: [1], b: 007}\n    traces: {}",
     "1 problem, 2 warnings\n\
         \x20 52:19  service.telemetry.resource.a  a label is a text\n\
         \x20 52:27  service.telemetry.resource.b  warning: `007` is kept as text; otelcol reads it as an octal number; quotes make it clear\n\
         \x20 53:5   service.telemetry.traces      warning: has no effect: the agent makes no traces of its own"),
    ("        action: upsert",
     "        action: upset",
     "1 problem\n\
         \x20 20:17  processors.attributes.actions[0].action  `upset` is not one of insert, update, upsert, delete, hash, extract, convert; did you mean `upsert`?"),
    ("        action: upsert",
     "",
     "1 problem\n\
         \x20 18:9  processors.attributes.actions[0].action  an action needs one of insert, update, upsert, delete, hash, extract, convert"),
    ("        value: ${env:TENANT}\n        action: upsert",
     "        action: upsert",
     "1 problem\n\
         \x20 18:9  processors.attributes.actions[0]  needs one of value, from_attribute, from_context"),
    ("        value: ${env:TENANT}",
     "        value: ${env:GONE}",
     "1 warning\n\
         \x20 19:16  processors.attributes.actions[0].value  warning: the variable `GONE` is not set; the action is left out"),
    ("        value: ${env:TENANT}",
     "        value: 0123",
     "1 warning\n\
         \x20 19:16  processors.attributes.actions[0].value  warning: `0123` is kept as text; otelcol reads it as an octal number; quotes make it clear"),
    ("        value: ${env:TENANT}",
     "        value: [1, ]\n        from_attribute: other",
     "1 problem\n\
         \x20 18:9  processors.attributes.actions[0]  has more than one of value, from_attribute, from_context; give one"),
    ("      - key: tenant",
     "      - pattern: x",
     "2 problems\n\
         \x20 18:9   processors.attributes.actions[0]          key is missing\n\
         \x20 18:18  processors.attributes.actions[0].pattern  pattern has no use in this action"),
    ("        value: ${env:TENANT}\n        action: upsert",
     "        action: extract\n        pattern: (a)(?P<b>c",
     "1 problem\n\
         \x20 20:18  processors.attributes.actions[0].pattern  `(a)(?P<b>c` is not a pattern: found open group without closing ')'"),
    ("        value: ${env:TENANT}\n        action: upsert",
     "        action: extract\n        pattern: (a)(?P<b>c)",
     "1 problem\n\
         \x20 20:18  processors.attributes.actions[0].pattern  every group needs a name, as in `(?P<name>…)`, and there must be one"),
    ("        value: ${env:TENANT}\n        action: upsert",
     "        action: convert\n        converted_type: number",
     "1 problem\n\
         \x20 20:25  processors.attributes.actions[0].converted_type  `number` is not one of int, double, string"),
    ("      - key: tenant\n        value: ${env:TENANT}\n        action: upsert",
     "      - action: delete",
     "1 problem\n\
         \x20 18:9  processors.attributes.actions[0]  needs key, pattern or both"),
    ("    actions:\n      - key: tenant\n        value: ${env:TENANT}\n        action: upsert",
     "    actions: []\n    include:\n      span_names: [a]",
     "3 problems\n\
         \x20 17:14  processors.attributes.actions             there is no action; give at least one\n\
         \x20 19:7   processors.attributes.include.match_type  is missing; write strict or regexp\n\
         \x20 19:19  processors.attributes.include.span_names  cannot be asked of logs, and the pipeline `logs` does"),
    ("    actions:",
     "    exclude:\n      match_type: regexp\n      services: [\"(\"]\n      log_severity_number: {min: 99}\n    actions:",
     "2 problems\n\
         \x20 19:18  processors.attributes.exclude.services                 `(` is not a pattern: found open group without closing ')'\n\
         \x20 20:34  processors.attributes.exclude.log_severity_number.min  99 is not from 1 to 24"),
    ("    actions:",
     "    include:\n      match_type: strict\n      libraries: []\n    actions:",
     "1 problem\n\
         \x20 18:7  processors.attributes.include  names nothing to match; give one of services, span_names, span_kinds, log_bodies, log_severity_texts, metric_names, libraries, log_severity_number, resources, attributes"),
    ("    actions:",
     "    exclude: {match_type: strict, services: [a]}\n    actions:",
     "1 problem\n\
         \x20 17:45  processors.attributes.exclude.services  cannot be asked of logs, and the pipeline `logs` does"),
    ("    actions:",
     "    exclude: {match_type: strict, metric_names: [a]}\n    actions:",
     "1 problem, 1 warning\n\
         \x20 17:14  processors.attributes.exclude               asks nothing of logs, and the pipeline `logs` needs that\n\
         \x20 17:49  processors.attributes.exclude.metric_names  warning: is not asked of logs (nor in otelcol), and the pipeline `logs` names it"),
    ("    actions:",
     "    exclude: {match_type: strict, libraries: [{name: a}, {name: b}]}\n    actions:",
     "1 warning\n\
         \x20 17:46  processors.attributes.exclude.libraries  warning: matches nothing: a scope must be each of them (as in otelcol)"),
    ("    actions:",
     "    exclude: {match_type: strict, span_kinds: [servant]}\n    actions:",
     "1 problem\n\
         \x20 17:47  processors.attributes.exclude.span_kinds  `servant` is no span kind; there are SPAN_KIND_UNSPECIFIED, SPAN_KIND_INTERNAL, SPAN_KIND_SERVER, SPAN_KIND_CLIENT, SPAN_KIND_PRODUCER, SPAN_KIND_CONSUMER"),
    ("        value: ${env:TENANT}",
     "        value: ${env:TENANT",
     "1 problem\n\
         \x20 19:16  processors.attributes.actions[0].value  `${` is never closed; write `$${` for the characters themselves: `${env:TENANT`"),
    ("        value: ${env:TENANT}",
     "        value: $TENANT-$GONE",
     "3 warnings\n\
         \x20 19:16  processors.attributes.actions[0].value  warning: `$GONE` is the old form of a variable, read as 0.88 does; write `${env:GONE}`, or `$$GONE` for the characters themselves\n\
         \x20 19:16  processors.attributes.actions[0].value  warning: `$TENANT` is the old form of a variable, read as 0.88 does; write `${env:TENANT}`, or `$$TENANT` for the characters themselves\n\
         \x20 19:16  processors.attributes.actions[0].value  warning: the variable `GONE` is not set; the action is left out"),
    ("    endpoint: https://collector:4318",
     "    endpoint: $GONE",
     "1 problem, 1 warning\n\
         \x20 24:15  exporters.otlphttp.endpoint  the variable `GONE` is not set; without it there is no endpoint\n\
         \x20 24:15  exporters.otlphttp.endpoint  warning: `$GONE` is the old form of a variable, read as 0.88 does; write `${env:GONE}`, or `$$GONE` for the characters themselves"),
    ("        value: ${env:TENANT}\n        action: upsert",
     "        pattern: ^(a|b$)|c$$|d$\n        action: delete",
     ""),
    ("        value: ${env:TENANT}",
     "        value: ${vault:x}",
     "1 problem\n\
         \x20 19:16  processors.attributes.actions[0].value  `${vault:…}` is not known; env, file and yaml are: `${vault:x}`"),
    ("        value: ${env:TENANT}",
     "        value: ${file:/gone}",
     "1 problem\n\
         \x20 19:16  processors.attributes.actions[0].value  the file `/gone` cannot be read: entity not found"),
    ("  otlp:\n    protocols",
     "  otlp:\n    endpoint: 0.0.0.0:4317\n    protocols",
     "1 problem\n\
         \x20 3:5  receivers.otlp.endpoint  `endpoint` is not a key here; only protocols is"),
    ("  otlp:\n    protocols",
     "  otlp :\n    protocols: {grpc: }\n  otlp:\n    protocols",
     "1 problem\n\
         \x20 4:3  receivers.otlp  the key `otlp` stands twice, first at 2:3"),
    ("  otlp:\n    protocols",
     "  otlp/:\n    protocols",
     "3 problems\n\
         \x20 2:3    receivers                         there are no receivers; an agent needs at least one\n\
         \x20 2:3    receivers.otlp/                   the id `otlp/` has nothing after the slash; write `type` or `type/name`\n\
         \x20 48:19  service.pipelines.logs.receivers  `otlp` is not defined under receivers"),
    ("extensions: [health_check, file_storage]",
     "extensions: [health_check, file_storage, file_storage/b]",
     "1 problem\n\
         \x20 45:44  service.extensions  `file_storage/b` is not defined under extensions; did you mean `file_storage`?"),
    ("  file_storage:\n    directory: /var/lib/queue\n",
     "  file_storage/b:\n    directory: /var/lib/queue/b\n  file_storage:\n    directory: /var/lib/queue\n",
     ""),
    ("exporters:\n  otlphttp:\n",
     "exporters:\n  logging:\n    loglevel: warn\n    verbosity: basic\n  debug:\n    loglevel: info\n  otlphttp:\n",
     "2 problems\n\
         \x20 24:15  exporters.logging.loglevel  stands beside verbosity; give verbosity alone\n\
         \x20 27:5   exporters.debug.loglevel    `loglevel` is not a key here; verbosity, sampling_initial, sampling_thereafter are"),
    ("        endpoint: 0.0.0.0:4317",
     "        endpoint: 0.0.0.0:4317\n        transport: unix\n        max_recv_msg_size_mib: 4096",
     "2 problems\n\
         \x20 6:20  receivers.otlp.protocols.grpc.transport              `unix` is not one of tcp\n\
         \x20 7:32  receivers.otlp.protocols.grpc.max_recv_msg_size_mib  4096 is not from 0 to 2047"),
    ("    timeout: 30s\n",
     "    timeout: 0s\n    encoding: xml\n    compression_params: {level: 10}\n    proxy_url: proxy:3128\n",
     "3 problems\n\
         \x20 29:15  exporters.otlphttp.encoding                  `xml` is not one of proto, json\n\
         \x20 30:33  exporters.otlphttp.compression_params.level  10 is not one of 1 to 9\n\
         \x20 31:16  exporters.otlphttp.proxy_url                 `proxy:3128` has no scheme; it must begin with http:// or https://; did you mean `http://proxy:3128`?"),
    ("exporters:\n  otlphttp",
     "exporters:\n  otlp:\n    endpoint: c:otlp\n    compression: deflate\n    keepalive: {time: 1s}\n  otlphttp",
     "2 problems, 1 warning\n\
         \x20 24:15  exporters.otlp.endpoint        `c:otlp` has `otlp` where a port should be\n\
         \x20 25:18  exporters.otlp.compression     `deflate` is not one of gzip, zstd, snappy, none\n\
         \x20 26:23  exporters.otlp.keepalive.time  warning: 1s counts as 10s, as in grpc-go"),
    ("exporters:\n  otlphttp",
     "exporters:\n  otlp:\n    endpoint: http://c\n    auth: {authenticator: x}\n    proxy_url: http://p:1\n    tls: {insecure: true}\n    wait_for_ready: true\n  otlphttp",
     "4 warnings\n\
         \x20 24:15  exporters.otlp.endpoint        warning: has no port; 4317 is taken\n\
         \x20 25:11  exporters.otlp.auth            warning: sends credentials without TLS, for everybody on the way to read\n\
         \x20 26:16  exporters.otlp.proxy_url       warning: has no effect: a proxy makes a tunnel for TLS only\n\
         \x20 28:5   exporters.otlp.wait_for_ready  warning: has no effect: an upload waits in the queue until the far end takes it, with and without"),
    ("    logs:\n      receivers",
     "    metrics:\n      exporters: otlphttp, otlphttp\n    logs:\n      receivers",
     "1 problem, 1 warning\n\
         \x20 47:5   service.pipelines.metrics.receivers  a pipeline needs at least one receiver\n\
         \x20 48:18  service.pipelines.metrics.exporters  warning: `otlphttp` stands here twice; it is taken once"),
    ("      - key: tenant\n        value: ${env:TENANT}\n        action: upsert",
     "      - tenant",
     "1 problem\n\
         \x20 18:9  processors.attributes.actions[0]  here is a text; it must be a map, an indented block of keys"),
    ("        value: ${env:TENANT}",
     "        value: {a: , b: [x]}",
     "1 problem\n\
         \x20 19:17  processors.attributes.actions[0].value.a  is empty; give it a value"),
    ("        value: ${env:TENANT}",
     "        from_context: metadata.x-tenant",
     "1 warning\n\
         \x20 18:7  processors.attributes.actions  warning: from_context `metadata.x-tenant` is never there: no receiver of logs has `include_metadata: true`"),
    ("        value: ${env:TENANT}",
     "        from_context: auth.username",
     "1 warning\n\
         \x20 18:7  processors.attributes.actions  warning: from_context `auth.username` is never there: no receiver of logs asks for credentials (auth.authenticator)"),
    ("      storage: file_storage\n\nextensions:\n  health_check:",
     "      storage: file_storage\n    auth:\n      authenticator: bearertokenauth\n\nextensions:\n  bearertokenauth:\n    filename: /run/token\n  health_check:",
     "2 warnings\n\
         \x20 36:22  exporters.otlphttp.auth.authenticator  warning: `bearertokenauth` is not listed in service.extensions; it is started all the same\n\
         \x20 40:15  extensions.bearertokenauth.filename    warning: `/run/token` cannot be read: entity not found; exporters keep their data until there is a token"),
    ("    timeout: 10s",
     "    timeout: 10s\n    \"\\u202etuoemit\": 1",
     "1 problem\n\
         \x20 12:5  processors.batch.\\u{202e}tuoemit  `\\u{202e}tuoemit` is not a key here; metadata_keys, timeout, send_batch_size, send_batch_max_size, send_batch_max_bytes, metadata_cardinality_limit are"),
];

/// One receiver of the pipeline that could tell it is enough; a pipeline of others, or none, is not.
#[test]
fn what_from_context_names_is_looked_for_in_the_receivers_of_its_pipelines() {
    let asking = GOOD.replace("value: ${env:TENANT}", "from_context: x-tenant");
    assert!(report(&asking).0.contains("from_context `x-tenant` is never there"), "{}", report(&asking).0);
    let telling = asking.replace("endpoint: 0.0.0.0:4318", "include_metadata: true");
    assert_eq!(report(&telling).0, "");
    let unused = asking.replace("[memory_limiter, attributes, batch]", "[memory_limiter, batch]");
    assert!(!report(&unused).0.contains("from_context"), "{}", report(&unused).0);
    let elsewhere = telling
        .replace("  otlp:\n", "  otlp/other:\n    protocols:\n      http:\n        endpoint: 0.0.0.0:5318\n  otlp:\n");
    let elsewhere = elsewhere.replace("receivers: [otlp]", "receivers: [otlp/other]");
    assert!(report(&elsewhere).0.contains("from_context `x-tenant` is never there"), "{}", report(&elsewhere).0);
}

#[test]
fn every_problem_is_told_with_its_place_path_and_rule() {
    for (good, bad, expected) in CASES {
        assert_eq!(GOOD.matches(good).count(), 1, "{good:?} stands once in the good file");
        let (report, _) = report(&GOOD.replace(good, bad));
        let told = report.strip_prefix("f.yaml: ").unwrap_or(&report).trim_end();
        assert_eq!(told, *expected, "\n{good:?} → {bad:?}\n");
    }
}

/// Goal: every key of the collectors since 0.88 that people paste (reference §1.8) is accepted or explained by its name.
#[test]
#[rustfmt::skip]
fn newer_keys_are_accepted_or_explained_by_name() {
    let (exporter, queue) = ("    compression: gzip", "      num_consumers: 10");
    let (grpc, http) = ("        endpoint: 0.0.0.0:4317", "        endpoint: 0.0.0.0:4318");
    let (storage, limiter) = ("    directory: /var/lib/queue", "    limit_mib: 256");
    let (action, telemetry) = ("        value: ${env:TENANT}", "    logs:\n      level: info");
    let certificate = "cert_pem: C, key_pem: K, ";
    // (what it stands beside, the key's line, what a value of it is, whether the agent runs with it)
    for (beside, key, value, runs) in [
        (queue, "sizer", "items", true), (queue, "block_on_overflow", "true", true), (queue, "blocking", "true", true),
        (queue, "wait_for_result", "true", true),
        (queue, "batch", "{flush_timeout: 1s, min_size: 1, max_size: 2, sizer: bytes, partition: {metadata_keys: [a]}}", true),
        (exporter, "encoding", "proto", true), (exporter, "encoding", "json", true),
        (exporter, "proxy_url", "http://p:1", true), (exporter, "http2_read_idle_timeout", "1s", true),
        (exporter, "http2_ping_timeout", "1s", true), (exporter, "cookies", "{enabled: true}", true),
        (exporter, "compression_params", "{level: 3}", true), (exporter, "force_attempt_http2", "true", true),
        (exporter, "middlewares", "[{id: x}]", false), (exporter, "profiles_endpoint", "http://h/x", true),
        (exporter, "dialer", "{timeout: 1s}", true), (exporter, "batcher", "{enabled: true}", true),
        (exporter, "tls", "{cipher_suites: [x]}", true), (exporter, "tls", "{include_system_ca_certs_pool: true}", true),
        (exporter, "tls", "{curve_preferences: [X25519]}", true), (exporter, "tls", "{tpm: {enabled: true}}", false),
        (exporter, "tls", "{include_insecure_cipher_suites: true}", true),
        (http, "compression_algorithms", "[gzip]", true), (http, "read_timeout", "1s", true),
        (http, "read_header_timeout", "1s", true), (http, "write_timeout", "1s", true), (http, "idle_timeout", "1s", true),
        (http, "keep_alives_enabled", "true", true), (http, "cors", "{exposed_headers: [a]}", true),
        (http, "middlewares", "[{id: x}]", false), (http, "dialer", "{timeout: 1s}", true),
        (http, "profiles_url_path", "/v1/profiles", true),
        (grpc, "dialer", "{timeout: 1s}", true), (grpc, "middlewares", "[{id: x}]", false),
        (grpc, "tls", "{CERT cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]}", false),
        (grpc, "tls", "{CERT include_system_ca_certs_pool: true}", false),
        (http, "tls", "{CERT include_system_ca_certs_pool: true}", false),
        (storage, "create_directory", "true", true), (storage, "directory_permissions", "\"0700\"", true),
        (storage, "recreate", "true", true), (storage, "max_size", "104857600", true),
        ("      on_start: true", "  cleanup_on_start", "true", true),
        (limiter, "min_gc_interval_when_soft_limited", "10s", true), (limiter, "min_gc_interval_when_hard_limited", "0s", true),
        (limiter, "max_gc_interval_when_soft_limited", "30s", true), (limiter, "max_gc_interval_when_hard_limited", "30s", true),
        (action, "default_value", "x", false), // beside `value`; the attributes processor's own test has it alone
        (telemetry, "resource", "{attributes: [{name: a, value: b}]}", true),
        ("      max_interval: 30s", "  randomization_factor", "0.5", true), ("      max_interval: 30s", "  multiplier", "1.5", true),
    ] {
        assert_eq!(GOOD.matches(beside).count(), 1, "{beside:?} stands once in the good file");
        let indent = beside.len() - beside.trim_start().len();
        let line = format!("{}{}: {}", " ".repeat(indent), key.trim(), value.replace("CERT ", certificate));
        let (told, ran) = report(&GOOD.replace(beside, &format!("{beside}\n{line}")));
        assert_eq!(ran, runs, "{line}\n{told}");
        assert!(!told.contains("is not a key here") && !told.contains("did you mean"), "{line}\n{told}");
        // Whatever is told is told of this key.
        let others = told.lines().skip(1).filter(|told| !told.contains(key.trim()));
        assert_eq!(others.count(), 0, "{line}\n{told}");
    }
    // Components of other sessions of this product may be read or not; no key of theirs is refused as unknown.
    let filelog = "include: [/x], compression: gzip, include_file_owner_name: true, include_file_owner_group_name: true, \
                   include_file_permissions: true, include_file_record_number: true, include_file_record_offset: true, \
                   initial_buffer_size: 16KiB, max_log_size_behavior: split, polls_to_archive: 1, acquire_fs_lock: true, \
                   exclude_older_than: 1h, operators: [{type: container}, {type: json_parser, parse_ints: true}, \
                   {type: json_array_parser}, {type: assign_keys, keys: [a]}, {type: sanitize_utf8}, \
                   {type: regex_replace, regex: a, replace_with: b}]";
    let prometheus = "api_server: {enabled: false}, config: {global: {scrape_on_shutdown: true, initial_scrape_offset: 1s}}";
    for (kind, keys) in [("filelog", filelog), ("prometheus", prometheus)] {
        let (told, _) = report(&GOOD.replace("receivers:\n  otlp:\n", &format!("receivers:\n  {kind}: {{{keys}}}\n  otlp:\n")));
        assert!(!told.contains("is not a key here"), "{told}");
    }
}

/// What 0.88's files name and what carries no data is understood, and starts nothing.
#[test]
fn extensions_that_carry_no_data_are_told_and_not_started() {
    let idle = "extensions:\n  zpages:\n    endpoint: localhost:55679\n  pprof: {endpoint: 'localhost:1777', save_to_file: x}\n  \
                memory_ballast: {size_mib: 64}\n  health_check";
    let text = GOOD.replace("extensions:\n  health_check", idle);
    let text = text.replace("extensions: [health_check,", "extensions: [zpages, pprof, memory_ballast, health_check,");
    let expected = "\
f.yaml: 3 warnings
  38:5   extensions.zpages          warning: nothing is started: the agent has no pages of its own; its metrics and health_check tell how it is
  39:10  extensions.pprof           warning: nothing is started: there is no Go runtime here to profile
  40:19  extensions.memory_ballast  warning: nothing is started: memory is freed at once here; there is no garbage collector
";
    assert_eq!(report(&text), (expected.to_owned(), true));
    let (told, runs) = report(&text.replace("save_to_file: x", "save_to_flie: x"));
    assert!(!runs && told.contains("did you mean `save_to_file`?"), "{told}");
}

/// Goal: neither a report nor `print-config` shows a password or a token, whatever else is wrong with the place it
/// stands in.
#[test]
fn no_secret_is_shown_wherever_it_stands() {
    let endpoint = "    endpoint: https://collector:4318";
    let header = "      X-Tenant-Id: \"${env:TENANT}\"";
    let grpc = "        endpoint: 0.0.0.0:4317";
    for (good, bad) in [
        (endpoint, "    endpoint: http://u:SECRET@h"),
        (endpoint, "    endpoint: http://SECRET@h"),
        (endpoint, "    endpoint: u:SECRET@h:4318"),
        (endpoint, "    endpoint: http:/u:SECRET@h"),
        (endpoint, "    endpoint: http://u:SEC:RET/SECRET@h"),
        (endpoint, "    endpoint: \"http://u:SECRET#x@h\""),
        (endpoint, "    endpoint: http://h/?api_key=SECRET"),
        (endpoint, "    logs_endpoint: http://h/x?api_key=SECRET&t=SECRET"),
        (endpoint, "    logs_endpoint: http://h/x?SECRET"),
        (endpoint, "    logs_endpoint: h/x?api_key=SECRET"),
        (endpoint, "    endpoint: http://u:SECRET@${env:GONE}"),
        (endpoint, "    endpoint: http://u:SECRET@${env:OPEN"),
        (endpoint, "    endpoint: http://h\n    proxy_url: socks5://u:SECRET@p:1"),
        (endpoint, "    endpoint: http://h\n    proxy_url: u:SECRET@p:1"),
        (endpoint, "    endpoint: http://h\n    endpiont: http://u:SECRET@h"),
        (endpoint, "    endpoint: http://h\n    haeders: {A: SECRET, b: [SECRET]}"),
        (endpoint, "    endpoint: http://h\n    basic_auth: {username: u, pw: SECRET}"),
        (endpoint, "    endpoint: http://h\n    middlewares: [{headers: {X: SECRET}}]"),
        (endpoint, "    endpoint: http://h\n    timeout: u:SECRET@h"),
        (header, "      Authorization: \"Bearer SECRET${env:\""),
        (header, "      Authorization: [SECRET]"),
        (header, "      Authorization: Basic abc$dSECRET"),
        (header, "      Authorization: Basic abc$TOPSECRET9"),
        (endpoint, "    endpoint: https://u:pa$SECRET@h"),
        (grpc, "        endpoint: u:SECRET@h:4317"),
        (grpc, "        endpoint: u:SECRET@h"),
        (grpc, "        endpoint: http://u:SECRET@h"),
        (
            "exporters:\n  otlphttp:\n",
            "exporters:\n  otlp:\n    headers: {X-Scope: SECRET}\n    endpoint: http://u:SECRET@h\n  otlphttp:\n",
        ),
        ("exporters:\n  otlphttp:\n", "exporters:\n  zipkin:\n    headers: {X-Scope: SECRET}\n  otlphttp:\n"),
    ] {
        assert_eq!(GOOD.matches(good).count(), 1, "{good:?} stands once in the good file");
        let text = GOOD.replace(good, bad);
        let host = Imagined {
            files: BTreeMap::from([("f.yaml".to_owned(), text.clone())]),
            dirs: vec!["/var/lib/queue".to_owned()],
            ..Imagined::with(&[("TENANT", "0123")])
        };
        let outcome = plan::read(&Locations::of("f.yaml"), &host);
        let (told, printed) = (outcome.report.to_string(), outcome.effective);
        assert!(!told.contains("SECRET") && !told.contains("RET/"), "{bad}\n{told}");
        assert!(!printed.contains("SECRET"), "{bad}\n{printed}");
        assert!(!printed.is_empty(), "{bad}");
    }
    let name = "yaml:exporters::otlphttp::headers::Authorization: Bearer SECRET";
    let outcome = plan::read(&Locations::of(name), &Imagined::with(&[]));
    assert!(outcome.report.to_string().starts_with("yaml:exporters::otlphttp::headers…: "), "{}", outcome.report);
}

/// What is masked inside a URL leaves a URL, so that what is printed can be read.
#[test]
fn a_printed_url_without_its_secrets_is_read_again() {
    let text = GOOD.replace(
        "    endpoint: https://collector:4318",
        "    endpoint: https://u:SECRET@collector:4318\n    logs_endpoint: https://h/x?key=SECRET\n    proxy_url: http://SECRET@p:1",
    );
    let host = Imagined { dirs: vec!["/var/lib/queue".to_owned()], ..Imagined::with(&[("TENANT", "0123")]) };
    let first = plan::read(&Locations::of(&format!("yaml:{text}")), &host);
    assert!(first.config.is_some(), "{}", first.report);
    let again = plan::read(&Locations::of(&format!("yaml:{}", first.effective)), &host);
    assert_eq!(again.report.to_string(), "");
    assert_eq!(again.effective, first.effective);
    let masked = text
        .replace("https://u:SECRET@", "https://REDACTED@")
        .replace("key=SECRET", "key=REDACTED")
        .replace("http://SECRET@", "http://REDACTED@")
        .replace("X-Tenant-Id: \"${env:TENANT}\"", "X-Tenant-Id: \"[REDACTED]\"");
    assert_eq!(again.config, plan::read(&Locations::of(&format!("yaml:{masked}")), &host).config);
}

/// Authenticators that only send let nobody in; a file of theirs that is not there is waited for.
#[test]
fn what_only_sends_is_no_guard() {
    let oauth2 = "oauth2client: {token_url: 'https://t', client_id: i, client_secret_file: /run/secret}";
    let setter = "headers_setter: {headers: [{key: X-Tenant, value: a}]}";
    for (kind, section) in [("oauth2client", oauth2), ("headers_setter", setter)] {
        let defined = GOOD
            .replace("extensions:\n  health", &format!("extensions:\n  {section}\n  health"))
            .replace("[health_check,", &format!("[{kind}, health_check,"));
        let (told, runs) = report(&defined.replace("compression: gzip", &format!("auth: {{authenticator: {kind}}}")));
        let missing = "extensions.oauth2client.client_secret_file  warning: `/run/secret` cannot be read: entity not found; exporters keep their data until there is a token\n";
        assert!(runs && if kind == "oauth2client" { told.contains(missing) } else { told.is_empty() }, "{told}");
        let asks = defined.replace("4318\n\n", &format!("4318\n        auth: {{authenticator: {kind}}}\n\n"));
        let (told, runs) = report(&asks);
        let expected =
            format!("auth.authenticator  `{kind}` is for exporters; a server asks by bearertokenauth or basicauth\n");
        assert!(!runs && told.contains(&expected), "{told}");
    }
}

/// What `opamp` cannot do is told with its path; one of two that start is refused; what it asks by must be able to send.
#[test]
fn opamp_is_told_with_its_paths() {
    let with = |more: &str, started: &str| {
        report(
            &GOOD
                .replace("extensions:\n  health", &format!("extensions:\n{more}\n  health"))
                .replace("[health_check,", &format!("[{started}, health_check,")),
        )
    };
    let server = "http: {endpoint: 'https://c', headers: {X-Key: SECRET}}";
    assert_eq!(with(&format!("  opamp: {{server: {{{server}}}}}"), "opamp"), (String::new(), true));
    let auth = "http: {endpoint: 'https://c', auth: health_check}";
    for (section, started, expected) in [
        ("server: {}", "opamp", "extensions.opamp.server.http.endpoint    there is no server"),
        (auth, "opamp", "extensions.opamp.server.http.auth  `health_check` is no authenticator"),
        (server, "opamp, opamp/b", "extensions.opamp/b  there is one OpAMP server for an agent, and `opamp` names it"),
    ] {
        let section = if section == "server: {}" { section.to_owned() } else { format!("server: {{{section}}}") };
        let (told, runs) = with(&format!("  opamp: {{{section}}}\n  opamp/b: {{{section}}}"), started);
        assert!(!runs && told.contains(expected), "{told}");
    }
    for (server, keeps, expected) in [
        ("http: {endpoint: 'http://opamp.example.com/v1/opamp'}", true, Some("needs a server over https")),
        ("ws: {endpoint: 'ws://opamp.example.com/v1/opamp'}", true, Some("needs a server over https")),
        (
            "http: {endpoint: 'https://c/v1/opamp', tls: {insecure_skip_verify: true}}",
            true,
            Some("needs a server over https with a checked certificate"),
        ),
        ("http: {endpoint: 'http://127.0.0.1/', proxy_url: 'http://p:1'}", true, Some("needs a server over https")),
        ("http: {endpoint: 'https://c/v1/opamp'}", false, Some("needs a file_storage in service.extensions")),
        ("http: {endpoint: 'https://c/v1/opamp'}", true, None),
        ("ws: {endpoint: 'wss://c/v1/opamp'}", true, None),
        ("http: {endpoint: 'http://127.0.0.1:4320/v1/opamp'}", true, None),
    ] {
        let section = format!("  opamp: {{server: {{{server}}}, capabilities: {{accepts_remote_config: true}}}}");
        let text = GOOD.replace("extensions:\n  health", &format!("extensions:\n{section}\n  health"));
        let text = text.replace("[health_check,", "[opamp, health_check,");
        let started = if keeps { "file_storage]" } else { "]" };
        let queue = if keeps { "storage: file_storage" } else { "queue_size: 1000" };
        let text = text.replace("storage: file_storage", queue);
        let (told, runs) = report(&text.replace("file_storage]", started));
        let of_it = told.lines().find(|line| line.contains("extensions.opamp.capabilities.accepts_remote_config"));
        match expected {
            Some(why) => assert!(!runs && of_it.is_some_and(|line| line.contains(why)), "{server}: {told}"),
            None => assert!(runs && of_it.is_none(), "{server}: {told}"),
        }
        assert!(!told.contains("SECRET"), "{told}");
    }
}

/// A `loadbalancing` exporter goes by a key that what is sent to it has; its own queue or that of its protocol is linked.
#[test]
fn a_routing_key_suits_what_is_sent() {
    let with = |section: &str| {
        GOOD.replacen("exporters:\n", &format!("exporters:\n  loadbalancing: {{{section}}}\n"), 1)
            .replace("exporters: [otlphttp]", "exporters: [loadbalancing]")
    };
    let resolver = "resolver: {static: {hostnames: [a, b]}}";
    for key in ["service", "traceID"] {
        assert_eq!(report(&with(&format!("{resolver}, routing_key: {key}"))), (String::new(), true));
    }
    for (section, path, expected) in [
        ("routing_key: metric", "routing_key", "`metric` is no key of logs, and the pipeline `logs` sends here"),
        ("sending_queue: {storage: x}", "sending_queue.storage", "`x` is not defined under extensions"),
        (
            "protocol: {otlp: {sending_queue: {storage: x}}}",
            "protocol.otlp.sending_queue.storage",
            "`x` is not defined under extensions",
        ),
        (
            "protocol: {otlp: {auth: {authenticator: x}}}",
            "protocol.otlp.auth.authenticator",
            "`x` is not defined under extensions",
        ),
    ] {
        let (told, runs) = report(&with(&format!("{resolver}, {section}")));
        assert!(!runs && told.starts_with("f.yaml: 1 problem\n"), "{told}");
        assert!(told.contains(&format!("  exporters.loadbalancing.{path}  {expected}")), "{told}");
    }
}

/// What the product will have and this build has not: defining it is a warning, using it an error that says so.
#[test]
#[rustfmt::skip]
fn components_of_later_builds_are_known_by_name() {
    for (class, kind, fits, misfit) in [
        ("receivers",  "prometheus",     "metrics", "logs"),
        ("receivers",  "filelog",        "logs",    "traces"),
        ("receivers",  "fluent_forward", "logs",    "metrics"),
    ] {
        let one = class.trim_end_matches('s');
        // Whatever stands in it is left alone.
        let defined = GOOD.replacen(&format!("{class}:\n"), &format!("{class}:\n  {kind}: {{config: {{x: [1]}}}}\n"), 1);
        let (told, runs) = report(&defined);
        assert!(runs && told.starts_with("f.yaml: 1 warning\n"), "{told}");
        assert!(told.contains(&format!("{class}.{kind}  warning: the {one} `{kind}` is not available in this build; nothing uses it")), "{told}");

        let used = |signal: &str| {
            let pipeline = format!("    {signal}/x: {{receivers: [{kind}], exporters: [otlphttp]}}\n  telemetry:\n");
            report(&defined.replace("  telemetry:\n", &pipeline))
        };
        let unavailable = format!("the {one} `{kind}` is not available in this build\n");
        let (told, runs) = used(fits);
        assert!(!runs && told.starts_with("f.yaml: 1 problem\n") && told.ends_with(&unavailable), "{told}");
        let (told, _) = used(misfit);
        assert!(told.contains(&unavailable) && told.contains(&format!("`{kind}` does not serve {misfit}\n")), "{told}");
    }
}

/// (piece, its replacement) several times over, and the report.
#[test]
#[rustfmt::skip]
fn what_must_hold_between_components_is_checked() {
    let storage_b = "  file_storage/b:\n    directory: /var/lib/queue/b\n  health_check:";
    for (changes, expected) in [
        (&[("extensions: [health_check, file_storage]", "extensions: [file_storage, file_storage/b]"), ("  health_check:", storage_b)][..],
         "1 problem\n  38:16  extensions.file_storage/b.directory  `/var/lib/queue/b` and the directory of file_storage are one, or one lies in the other; each storage needs its own"),
        (&[("extensions: [health_check, file_storage]", "extensions: [file_storage/b, file_storage]"), ("  health_check:", storage_b)],
         "1 problem, 1 warning\n  38:16  extensions.file_storage/b.directory  warning: `/var/lib/queue/b` is not there; it will be created (0700)\n  \
          42:16  extensions.file_storage.directory    `/var/lib/queue` and the directory of file_storage/b are one, or one lies in the other; each storage needs its own"),
        // Without metrics nobody listens at :8888.
        (&[("0.0.0.0:13133", "127.0.0.1:8888"), ("    logs:\n      level: info", "    metrics:\n      level: none")],
         ""),
        // What does not start is in nobody's way.
        (&[("0.0.0.0:13133", "127.0.0.1:8888"), ("extensions: [health_check, file_storage]", "extensions: [file_storage]")],
         ""),
        // Without a queue nothing is stored.
        (&[("      num_consumers: 10", "      enabled: false"), ("storage: file_storage", "storage: gone")],
         "2 warnings\n  33:16  exporters.otlphttp.sending_queue.enabled  warning: false does not make clients wait for the far end here: they are answered when their data is in memory, and what waits there ends with the process\n  \
          34:16  exporters.otlphttp.sending_queue.storage  warning: has no effect while the queue is not enabled"),
        // Without storage the size of the queue is in bytes.
        (&[("      num_consumers: 10", "      queue_size: 10000"), ("      storage: file_storage\n", "")],
         "1 warning\n  33:19  exporters.otlphttp.sending_queue.queue_size  warning: is not acted on: without storage the queue is bounded in bytes, a quarter of what memory_limiter allows"),
        (&[("  otlp:\n", "  \"otlp \":\n    protocols: {http: }\n  otlp:\n")],
         "1 problem\n  4:3  receivers.otlp  is the same id as one above, but for blanks"),
        (&[("    logs:\n      receivers", "    \" logs\": {receivers: [otlp], exporters: [otlphttp]}\n    logs:\n      receivers")],
         "1 problem\n  48:5  service.pipelines.logs  is the same pipeline as one above, but for blanks"),
        // Ids may be written with blanks in lists, too.
        (&[("receivers: [otlp]", "receivers: \" otlp \"")], ""),
    ] {
        let text = changes.iter().fold(GOOD.to_owned(), |text, (good, bad)| text.replace(good, bad));
        let (report, _) = report(&text);
        assert_eq!(report.strip_prefix("f.yaml: ").unwrap_or(&report).trim_end(), expected, "{changes:?}");
    }
}

/// By whatever name: two storages in one directory would be refused at the start, one of them by the other's lock.
#[test]
#[rustfmt::skip]
fn a_directory_is_told_by_its_real_name_and_must_be_one() {
    let one_or_within = "are one, or one lies in the other; each storage needs its own";
    for (directory, expected) in [
        ("/var/lib/link",            format!("`/var/lib/link` and the directory of file_storage {one_or_within}")),
        ("/var/lib/link/b",          format!("`/var/lib/link/b` and the directory of file_storage {one_or_within}")),
        ("/var/lib/x/../queue",      format!("`/var/lib/x/../queue` and the directory of file_storage {one_or_within}")),
        ("/var/lib/./queue/",        format!("`/var/lib/./queue/` and the directory of file_storage {one_or_within}")),
        ("/var/lib/queue/../other",  "warning: `/var/lib/queue/../other` is not there; it will be created (0700)".to_owned()),
        ("/var/lib/file",            "`/var/lib/file` is there and is no directory".to_owned()),
    ] {
        let text = GOOD.replace("extensions: [health_check, file_storage]", "extensions: [file_storage, file_storage/b]");
        let text = text.replace("  health_check:", &format!("  file_storage/b:\n    directory: {directory}\n  health_check:"));
        let host = Imagined {
            files: BTreeMap::from([("f.yaml".to_owned(), text), ("/var/lib/file".to_owned(), String::new())]),
            dirs: vec!["/var/lib/queue".to_owned()],
            links: BTreeMap::from([("/var/lib/link".to_owned(), "/var/lib/queue".to_owned())]),
            ..Imagined::with(&[("TENANT", "0123")])
        };
        let told = plan::read(&Locations::of("f.yaml"), &host).report.to_string();
        let told: Vec<_> = told.lines().skip(1).collect();
        assert_eq!(told, [format!("  38:16  extensions.file_storage/b.directory  {expected}")]);
    }
}

#[test]
fn a_storage_that_is_used_is_started_though_not_listed() {
    let host = Imagined { dirs: vec!["/var/lib/queue".to_owned()], ..Imagined::with(&[("TENANT", "x")]) };
    let text = GOOD.replace("extensions: [health_check, file_storage]", "extensions: []");
    let config = plan::read(&Locations::of(&format!("yaml:{text}")), &host).config.expect("it is a warning");
    let listed: Vec<_> = config.service.extensions.iter().map(ToString::to_string).collect();
    assert_eq!(listed, ["file_storage"]);
}

/// The same words for the same mistakes in another language, from several sources at once.
#[test]
fn problems_of_several_sources_stand_under_their_names() {
    let host = Imagined {
        files: BTreeMap::from([
            ("f.yaml".to_owned(), GOOD.replace("limit_mib: 256", "limit_mb: 256")),
            ("over.toml".to_owned(), "[processors.batch]\ntimeout = 10\nsend_batch_size = 0x10\n".to_owned()),
        ]),
        dirs: vec!["/var/lib/queue".to_owned()],
        ..Imagined::with(&[("TENANT", "0123")])
    };
    let locations = Locations {
        configs: vec!["f.yaml".to_owned(), "over.toml".to_owned(), "yaml:exporters::otlphttp::timeout: x".to_owned()],
        sets: vec!["service.telemetry.logs.level=laut".to_owned(), "processors.memory_limiter.limit_mib=64".to_owned()],
    };
    let outcome = plan::read(&locations, &host);
    let expected = "\
f.yaml: 1 problem
  15:5  processors.memory_limiter.limit_mb  `limit_mb` is not a key here; did you mean `limit_mib`?
over.toml: 1 problem
  2:11  processors.batch.timeout  `10` has no unit; write for example `10s` (otelcol reads it as nanoseconds)
yaml:exporters::otlphttp::timeout: x: 1 problem
  1:31  exporters.otlphttp.timeout  `x` is not a duration; write numbers with units ns, us, ms, s, m or h, for example `1m30s`
--set service.telemetry.logs.level: 1 problem
  1:30  service.telemetry.logs.level  `laut` is not one of debug, info, warn, error, dpanic, panic, fatal
";
    assert_eq!(outcome.report.to_string(), expected);
}

/// What `files` in this order are told.
fn reports(files: &[(&str, &str)]) -> String {
    let host = Imagined {
        files: files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect(),
        dirs: vec!["/var/lib/queue".to_owned()],
        ..Imagined::with(&[("TENANT", "0123")])
    };
    let configs = files.iter().map(|(name, _)| (*name).to_owned()).collect();
    let outcome = plan::read(&Locations { configs, sets: Vec::new() }, &host);
    assert_eq!(outcome.config.is_some(), outcome.report.errors() == 0);
    outcome.report.to_string()
}

/// Goal: a file that cannot be read hides nothing of the others, and nobody is told to add what may stand in it.
#[test]
fn a_syntax_error_does_not_hide_what_is_wrong_in_other_files() {
    let bad = GOOD
        .replace("limit_mib: 256", "limit_mb: 256")
        .replace("timeout: 10s", "timeout: 10")
        .replace("exporters: [otlphttp]", "exporters: [otlphttp/other]")
        .replace("    endpoint: https://collector:4318\n", "")
        .replace("level: info", "level: ${env:GONE}");
    let expected = "\
broken.yaml: 1 problem
  1:4  -  the quote that opens here is not closed in its lines
f.yaml: 2 problems, 1 warning
  11:14  processors.batch.timeout            `10` has no unit; write for example `10s` (otelcol reads it as nanoseconds)
  15:5   processors.memory_limiter.limit_mb  `limit_mb` is not a key here; did you mean `limit_mib`?
  52:14  service.telemetry.logs.level        warning: the variable `GONE` is not set; the default stays
gone.toml: 1 problem
  1:5  -  not TOML: string values must be quoted, expected literal string
";
    assert_eq!(reports(&[("broken.yaml", "a: 'x\n"), ("f.yaml", &bad), ("gone.toml", "a = b\n")]), expected);
}

/// Goal: who erased it is told with file and line, not who wrote it.
#[test]
fn an_empty_section_in_an_overlay_is_blamed_on_the_overlay() {
    let over = "# mine\nexporters:\nservice:\n  pipelines:\n    logs:\n      processors:\n";
    let expected = "\
f.yaml: 1 problem
  50:19  service.pipelines.logs.exporters  `otlphttp` is not defined under exporters
over.yaml: 1 problem, 2 warnings
  2:1  exporters                          there are no exporters; an agent needs at least one
  2:1  exporters                          warning: nothing stands here, which takes away what stands in f.yaml, 23:3; leave the key out to keep that
  6:7  service.pipelines.logs.processors  warning: nothing stands here, which takes away what stands in f.yaml, 49:19; leave the key out to keep that
";
    assert_eq!(reports(&[("f.yaml", GOOD), ("over.yaml", over)]), expected);
}

#[test]
fn a_toml_file_tells_every_double_key_and_what_else_is_wrong() {
    let toml = "[processors.batch]\ntimeout = '1s'\ntimeout = '2s'\nsend_batch = 1\n\n\
                [exporters.otlphttp]\ntimeout = '1s'\ntimeout = '2s'\n[service.telemetry.logs]\nlevel = 'loud'\n";
    let expected = "\
over.toml: 4 problems
  3:1   processors.batch.timeout      the key `timeout` stands twice
  4:1   processors.batch.send_batch   `send_batch` is not a key here; did you mean `send_batch_size`?
  8:1   exporters.otlphttp.timeout    the key `timeout` stands twice
  10:9  service.telemetry.logs.level  `loud` is not one of debug, info, warn, error, dpanic, panic, fatal
";
    assert_eq!(reports(&[("f.yaml", GOOD), ("over.toml", toml)]), expected);
}

#[test]
fn an_empty_file_is_told_what_it_lacks() {
    let expected = "\
f.yaml: 3 problems
  1:1  exporters          there are no exporters; an agent needs at least one
  1:1  receivers          there are no receivers; an agent needs at least one
  1:1  service.pipelines  there are no pipelines; a service needs at least one
";
    assert_eq!(report("# nothing yet\n").0, expected);
}
