//! The configurations of `configs/` that keep data, as they are but for addresses, so that they run beside others on one machine.

use crate::agent::Rig;
use clap::ValueEnum;
use std::io;
use std::time::Duration;
use tfo_otel_agent::otlp::Signal;

/// Which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    LowResource,
    EdgeGateway,
    Production,
}

impl Profile {
    pub(crate) const ALL: [Profile; 3] = [Profile::LowResource, Profile::EdgeGateway, Profile::Production];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Profile::LowResource => "low-resource",
            Profile::EdgeGateway => "edge-gateway",
            Profile::Production => "production",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Profile::LowResource => include_str!("../../configs/low-resource.yaml"),
            Profile::EdgeGateway => include_str!("../../configs/edge-gateway.yaml"),
            Profile::Production => include_str!("../../configs/production.yaml"),
        }
    }

    /// What it has a pipeline for.
    pub(crate) fn signals(self) -> Vec<Signal> {
        let has = |signal: &Signal| self.text().contains(&format!("\n    {signal}:\n"));
        Signal::ALL.into_iter().filter(has).collect()
    }

    /// The next start runs with it. `heartbeat`: between two; `offline_after` is fifteen of them, as by default.
    pub(crate) fn configure(self, rig: &Rig, ports: Ports, far_end: &str, heartbeat: Duration) -> io::Result<()> {
        let here = |port: u16| format!("127.0.0.1:{port}");
        let mut text = self.text().to_owned();
        let mut put = |old: &str, new: &str| -> io::Result<()> {
            if !text.contains(old) {
                return Err(io::Error::other(format!("configs/{}.yaml has no {old:?} any more", self.name())));
            }
            text = text.replace(old, new);
            Ok(())
        };
        put("0.0.0.0:4317", &here(ports.grpc))?;
        put("0.0.0.0:4318", &here(rig.http))?;
        put("/var/lib/otel-agent/queue", &rig.spool().display().to_string())?;
        put("${env:TELEMETRYFLOW_ENDPOINT}", far_end)?;
        put("\nservice:\n", &format!("\nservice:\n  telemetry: {{metrics: {{address: '{}'}}}}\n", here(rig.metrics)))?;
        let health = here(ports.health);
        // The edge's leaves its port to the default.
        put("0.0.0.0:13133", &health).or_else(|_| {
            put("\nextensions:\n", &format!("\nextensions:\n  health_check: {{endpoint: '{health}'}}\n"))
        })?;
        for (name, value) in [
            ("TELEMETRYFLOW_WORKSPACE_ID", "550e8400-e29b-41d4-a716-446655440000"),
            ("TELEMETRYFLOW_TENANT_ID", "660e8400-e29b-41d4-a716-446655440001"),
            ("HOSTNAME", "gateway-0173"),
            ("HOST_IP", "10.20.0.1"),
        ] {
            text = text.replace(&format!("${{env:{name}}}"), value);
        }
        let (beat, offline) = (heartbeat.as_millis(), (heartbeat * 15).as_millis());
        text += &format!("\nregistration: {{exporter: otlphttp, interval: {beat}ms, offline_after: {offline}ms}}\n");
        rig.write_config(&text)
    }
}

/// Those that [`Rig`] does not have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) grpc: u16,
    pub(crate) health: u16,
}
