//! The order of the house, as a test: imports run one way, some things stand in one place only, every module says why
//! it exists (architecture §7).

use std::fs;
use std::path::{Path, PathBuf};

/// Who may import whom: a module may use those to the right of it in its row, and nothing else.
///
/// `testing` and `cli` may use everybody; `app` knows everybody but `cli`.
const MAY_USE: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("config", &["base"]),
    ("otlp", &["base"]),
    ("telemetry", &["config", "otlp", "base"]),
    ("supervise", &["telemetry", "otlp", "config", "base"]),
    ("extensions", &["supervise", "telemetry", "otlp", "config", "base"]),
    ("spool", &["supervise", "telemetry", "otlp", "config", "base"]),
    ("batcher", &["spool", "supervise", "telemetry", "otlp", "config", "base"]),
    ("processors", &["batcher", "spool", "supervise", "telemetry", "otlp", "config", "base"]),
    ("receivers", &["processors", "batcher", "spool", "supervise", "telemetry", "otlp", "config", "base"]),
    ("uplink", &["spool", "supervise", "telemetry", "otlp", "config", "base", "processors"]),
    ("registrar", &["uplink", "spool", "supervise", "telemetry", "otlp", "config", "base"]),
    ("opamp", &["registrar", "uplink", "supervise", "telemetry", "otlp", "config", "base"]),
];

struct Source {
    path: PathBuf,
    /// Without test modules: what stands in a `#[cfg(test)]` part is no part of the house.
    code: String,
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut left = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).expect("src is readable") {
            let path = entry.expect("src is readable").path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("sources are UTF-8");
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
                found.push(Source { path, code });
            }
        }
    }
    found
}

fn module_of(source: &Source) -> String {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let inside = source.path.strip_prefix(src).expect("listed below src");
    inside.components().next().expect("a file").as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

fn is_test_only(source: &Source) -> bool {
    let path = source.path.to_string_lossy();
    path.ends_with("/tests.rs")
        || path.contains("/tests/")
        || path.contains("/testing/")
        || path.ends_with("wild.rs")
        || path.ends_with("fake.rs")
}

#[test]
fn imports_run_one_way() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| !is_test_only(s)) {
        let module = module_of(source);
        let Some((_, allowed)) = MAY_USE.iter().find(|(m, _)| *m == module) else { continue };
        for (line, text) in source.code.lines().enumerate() {
            let text = text.trim_start();
            if text.starts_with("//") {
                continue;
            }
            for (at, _) in text.match_indices("crate::") {
                let target: String =
                    text[at + 7..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                let known =
                    MAY_USE.iter().any(|(m, _)| *m == target) || ["app", "cli", "testing"].contains(&target.as_str());
                if known && target != module && !allowed.contains(&target.as_str()) {
                    wrong.push(format!("{}:{}: {module} uses {target}", source.path.display(), line + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports against the order of the house:\n{}", wrong.join("\n"));
}

/// Files whose code (not comments) names one of `words`.
fn naming(words: &[&str]) -> Vec<String> {
    let names = |line: &str| {
        let line = line.trim_start();
        !line.starts_with("//") && words.iter().any(|w| line.contains(w))
    };
    let mut files: Vec<String> = sources()
        .iter()
        .filter(|s| !is_test_only(s) && s.code.lines().any(names))
        .map(|s| {
            s.path.strip_prefix(env!("CARGO_MANIFEST_DIR")).expect("below the root").to_string_lossy().into_owned()
        })
        .collect();
    files.sort();
    files
}

#[test]
fn one_file_names_fjall() {
    assert_eq!(naming(&["fjall::", "use fjall", "lsm_tree::"]), ["src/spool/segment.rs"]);
}

#[test]
fn one_file_asks_the_wall_clock() {
    assert_eq!(naming(&["SystemTime"]), ["src/base/clock.rs"]);
}

#[test]
fn one_file_names_the_backoff_crate() {
    assert_eq!(naming(&["use backoff", "backoff::Exp"]), ["src/base/backoff.rs"]);
}

#[test]
fn every_module_says_why_it_exists() {
    let silent: Vec<_> = sources().into_iter().filter(|s| !s.code.starts_with("//!")).map(|s| s.path).collect();
    assert!(silent.is_empty(), "no module comment: {silent:?}");
}

#[test]
fn nothing_waits_to_be_done() {
    // Put together here, so that this file does not name them itself.
    let marks: Vec<String> = ["TO", "FIX"].iter().zip(["DO", "ME"]).map(|(a, b)| format!("{a}{b}")).collect();
    let marked: Vec<_> =
        sources().into_iter().filter(|s| marks.iter().any(|m| s.code.contains(m.as_str()))).map(|s| s.path).collect();
    assert!(marked.is_empty(), "{marked:?}");
}
