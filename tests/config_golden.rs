//! The shipped configurations load, and say exactly what they say.

use std::collections::BTreeMap;
use tfo_otel_agent::app::plan::{self, Outcome};
use tfo_otel_agent::config::{Imagined, Locations};

fn shipped(name: &str, vars: &[(&str, &str)], dirs: &[&str]) -> Outcome {
    let path = format!("configs/{name}.yaml");
    let text = std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).expect("it is shipped");
    let host = Imagined {
        files: BTreeMap::from([(path.clone(), text)]),
        dirs: dirs.iter().map(|d| (*d).to_owned()).collect(),
        name: Some("gw-7".to_owned()),
        ip: Some("10.1.2.3".to_owned()),
        ..Imagined::with(vars)
    };
    plan::read(&Locations::of(&path), &host)
}

#[test]
fn show() {
    for name in ["minimal", "production", "edge-gateway", "reference"] {
        let o = shipped(name, &[], &[]);
        eprintln!("{}\n{:?}", o.report, o.config.is_some());
    }
}
