//! Any text as a configuration: it is read without a panic, says something where there is nothing to run, and what is
//! printed of it is the same configuration.
//!
//! Layers begin with a form feed and a letter: `y` a YAML file, `t` a TOML file, `i` YAML on the command line, `s` a
//! `--set`. What stands before the first one is a YAML file, so that every configuration is a seed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;
use tfo_otel_agent::app::plan;
use tfo_otel_agent::config::{Imagined, Locations};

/// What stands in the place of a secret.
const MASK: &str = "[REDACTED]";

fn machine(files: BTreeMap<String, String>) -> Imagined {
    Imagined {
        files,
        dirs: vec!["/var/lib/queue".to_owned()],
        name: Some("gw-7".to_owned()),
        ip: Some("10.1.2.3".to_owned()),
        ..Imagined::with(&[("A", "1"), ("B", "{a: [1, 2]}"), ("C", "$A${A}"), ("EMPTY", "")])
    }
}

fuzz_target!(|text: &str| {
    let (mut files, mut configs, mut sets) = (BTreeMap::new(), Vec::new(), Vec::new());
    for (n, layer) in text.split('\x0c').enumerate() {
        let mut rest = layer.chars();
        let (kind, content) = match (n, rest.next()) {
            (0, _) => ('y', layer),
            (_, Some(kind)) => (kind, rest.as_str()),
            (_, None) => continue,
        };
        match kind {
            'i' => configs.push(format!("yaml:{content}")),
            's' => sets.push(content.to_owned()),
            kind => {
                let name = format!("{n}.{}", if kind == 't' { "toml" } else { "yaml" });
                files.insert(name.clone(), content.to_owned());
                configs.push(name);
            }
        }
    }
    let host = machine(files);
    let outcome = plan::read(&Locations { configs, sets }, &host);
    let report = outcome.report.to_string();
    assert_eq!(outcome.config.is_some(), outcome.report.errors() == 0);
    assert!(!report.contains(|c: char| c.is_control() && c != '\n'), "{report:?}");
    let Some(config) = outcome.config else {
        assert!(!report.is_empty(), "nothing runs and nobody says why");
        return;
    };
    if outcome.effective.contains(MASK) {
        return; // nobody shall be able to read that back
    }
    let again = BTreeMap::from([("again.yaml".to_owned(), outcome.effective.clone())]);
    let again = plan::read(&Locations::of("again.yaml"), &machine(again));
    let after = again.config.unwrap_or_else(|| panic!("{}\n{}", again.report, outcome.effective));
    assert_eq!(after, config, "{}", outcome.effective);
    assert_eq!(again.effective, outcome.effective);
});
