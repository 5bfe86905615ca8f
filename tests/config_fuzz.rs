//! Whatever a file holds, reading it ends soon, never panics, and says something where there is nothing to run.

use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tfo_otel_agent::app::plan;
use tfo_otel_agent::config::{Imagined, Locations};

/// Longest a reading may take. In a debug build the shipped files need 1 to 3 ms and the worst one about a second;
/// the rest is for a loaded machine.
const SOON: Duration = Duration::from_secs(10);

/// Reads a text as the file of this name and checks what must hold of any outcome.
fn survives(name: &str, text: &str) -> Result<(), TestCaseError> {
    let host = Imagined {
        files: BTreeMap::from([(name.to_owned(), text.to_owned()), ("self".to_owned(), text.to_owned())]),
        ..Imagined::with(&[("A", "1"), ("B", "{a: [1, 2]}"), ("C", "$A${A}"), ("EMPTY", "")])
    };
    let begun = Instant::now();
    let outcome = plan::read(&Locations::of(name), &host);
    let report = outcome.report.to_string();
    prop_assert!(begun.elapsed() < SOON, "{:?} for {} bytes", begun.elapsed(), text.len());
    prop_assert_eq!(outcome.config.is_some(), outcome.report.errors() == 0);
    prop_assert!(outcome.config.is_some() || !report.is_empty(), "nothing runs and nobody says why");
    prop_assert!(!report.contains(|c: char| c.is_control() && c != '\n'), "{report:?}");
    // A carriage return alone ends a line of YAML, too.
    let lines = text.replace("\r\n", "\n").split(['\n', '\r']).count() + 1;
    for problem in outcome.report.problems().iter().filter(|p| outcome.report.source_of(p.at) == name) {
        prop_assert!(problem.at.line >= 1 && problem.at.column >= 1, "{report}");
        prop_assert!(problem.at.line as usize <= lines, "line {} of {lines}: {report}", problem.at.line);
    }
    Ok(())
}

/// Pieces of YAML and of our configurations, so that chance gets past the first character.
fn piece() -> impl Strategy<Value = String> {
    let words = [
        "receivers",
        "processors",
        "exporters",
        "extensions",
        "service",
        "pipelines",
        "telemetry",
        "otlp",
        "otlphttp",
        "batch",
        "attributes",
        "actions",
        "include",
        "memory_limiter",
        "file_storage",
        "health_check",
        "protocols",
        "grpc",
        "http",
        "endpoint",
        "tls",
        "headers",
        "logs",
        "key",
        "value",
        "action",
        "upsert",
        "timeout",
        "10s",
        "0.0.0.0:4317",
        "http://c:1",
        "limit_mib",
        "512",
        "0123",
        "true",
        "~",
        "null",
        ".nan",
        "9e999",
        "-1",
        "a::b",
        "${env:A}",
        "${B}",
        "${C:-${A}}",
        "${file:self}",
        "${yaml:[1]}",
        "${",
        "$$",
        "$A",
        "}",
        "${EMPTY}",
        "${GONE}",
        "&a ",
        "*a",
        "<<: ",
        "!!str ",
        "!x ",
        "? ",
        ": ",
        ":",
        "- ",
        "-",
        "|\n",
        ">-\n",
        "'",
        "\"",
        "\\",
        "#",
        "%",
        "@",
        "`",
        "{",
        "[",
        "]",
        ",",
        "---\n",
        "...\n",
        "\t",
        "\r\n",
        "\n",
        "\n",
        "\n  ",
        "\n    ",
        "\n      ",
        "\u{feff}",
        "\u{202e}",
        "ä",
        "\u{0}",
        "\u{7f}",
        "=",
        "[[a]]\n",
        "[a.b]\n",
        "\"\"\"",
        "'''",
        "1979-05-27",
    ];
    prop_oneof![8 => proptest::sample::select(words.to_vec()).prop_map(str::to_owned), 1 => any::<char>().prop_map(String::from)]
}

/// A shipped file with some of its pieces taken out, doubled, swapped or replaced.
fn mutated() -> impl Strategy<Value = String> {
    let files = ["minimal", "production", "edge-gateway", "low-resource", "reference"].map(|name| {
        let path = format!("{}/configs/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).expect("it is shipped")
    });
    let change = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..5_u8, piece());
    (proptest::sample::select(files.to_vec()), proptest::collection::vec(change, 1..6)).prop_map(|(text, changes)| {
        let mut chars: Vec<char> = text.chars().collect();
        for (from, to, kind, piece) in changes {
            let (a, b) = (from.index(chars.len() + 1), to.index(chars.len() + 1));
            let (a, b) = (a.min(b), a.max(b).min(a.min(b) + 40));
            match kind {
                0 => drop(chars.drain(a..b)),
                1 => drop(chars.splice(b..b, chars[a..b].to_vec())),
                2 => chars[a..b].reverse(),
                3 => drop(chars.splice(a..b, piece.chars())),
                _ => drop(chars.splice(a..a, piece.chars())),
            }
        }
        chars.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_survived(text in any::<String>()) {
        survives("f.yaml", &text)?;
        survives("f.toml", &text)?;
    }

    #[test]
    fn pieces_of_yaml_in_any_order_are_survived(pieces in proptest::collection::vec(piece(), 0..120)) {
        survives("f.yaml", &pieces.concat())?;
        survives("f.toml", &pieces.concat())?;
    }

    #[test]
    fn shipped_files_with_accidents_are_survived(text in mutated()) {
        survives("f.yaml", &text)?;
    }
}

/// What grows fastest: each of these would take long if any step were worse than about linear.
#[test]
fn large_and_nasty_files_are_read_soon() {
    let n = 20_000;
    let aliases: String = (1..200).map(|k| format!("a{k}: &a{k} [*a{}, *a{}]\n", k - 1, k - 1)).collect();
    for (what, text) in [
        ("many keys", (0..n).map(|k| format!("k{k}: 1\n")).collect::<String>()),
        ("many unknown receivers", format!("receivers:\n{}", (0..n).map(|k| format!("  k{k}:\n")).collect::<String>())),
        ("many references to nothing", format!("service:\n  extensions: [{}]\n", "health_chek, ".repeat(n))),
        ("one key many times", "k: 1\n".repeat(n)),
        ("long lines", format!("k: {}\n", "x".repeat(900_000))),
        ("long keys", format!("{}: 1\n", "x".repeat(900))),
        ("deep flow", "[".repeat(900_000)),
        ("deep blocks", "- ".repeat(400_000)),
        ("deep maps", (0..1_000).map(|k| format!("{}k:\n", " ".repeat(k))).collect()),
        ("open quotes", "\"".repeat(900_001)),
        ("many anchors", format!("a0: &a0 [x]\n{aliases}")),
        (
            "merges of merges",
            format!(
                "a: &a {{{}}}\nb:\n{}",
                (0..2_000).map(|k| format!("k{k}: 1, ")).collect::<String>(),
                "  <<: [*a, *a]\n".repeat(50)
            ),
        ),
        ("many references", format!("receivers: \"{}\"\n", "${A}".repeat(200_000))),
        ("nested references", format!("receivers: \"{}\"\n", "${".repeat(400_000))),
        (
            "a file in itself",
            format!("receivers: {{{}}}\n", (0..500).map(|k| format!("k{k}: '${{file:self}}', ")).collect::<String>()),
        ),
        ("joined keys", format!("{}: 1\n", vec!["a"; 400].join("::"))),
        ("many joined keys", (0..n).map(|k| format!("a::b{k}: 1\n")).collect()),
        ("colons", "a: ".repeat(300_000)),
        ("question marks", "? ".repeat(400_000)),
        ("comments", "#\n".repeat(400_000)),
        ("tabs", "\t".repeat(900_000)),
    ] {
        survives("f.yaml", &text).unwrap_or_else(|e| panic!("{what}: {e}"));
        survives("f.toml", &text).unwrap_or_else(|e| panic!("{what} as TOML: {e}"));
    }
}
