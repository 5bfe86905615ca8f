//! Everything that is wrong or was assumed, collected in one run, each with its place.
//!
//! Whoever mends a configuration over a bad link wants all problems at once, not one for each try.

use super::mask::masked;
use std::cell::{Cell, RefCell};
use std::fmt;

/// A place in a source, as an editor shows it: lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct At {
    /// Which of the sources of this run.
    pub source: u32,
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

/// Whether a configuration with this problem may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It runs, and this was assumed.
    Warning,
    /// It does not run.
    Error,
}

/// One thing to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// May it run?
    pub severity: Severity,
    /// Where to look.
    pub at: At,
    /// The key, from the top: `exporters.otlphttp.retry_on_failure.max_interval`; empty before there are keys.
    pub path: String,
    /// The value, the rule and the reason, in one line.
    pub message: String,
    /// What was probably meant: the text between the backquotes of "did you mean".
    pub suggestion: Option<String>,
}

/// The collector. Shared by reference, so that sections inside sections can all write.
#[derive(Debug, Default)]
pub struct Problems {
    sources: RefCell<Vec<String>>,
    found: RefCell<Vec<Problem>>,
    partial: Cell<bool>,
}

/// Most problems of one run: nobody mends more before the next try, and a binary file has millions.
const PROBLEMS_MAX: usize = 1_000;
/// Longest message, characters: enough for a list of every component type.
const MESSAGE_MAX: usize = 500;
/// Longest piece of the operator's own text in a message, characters.
const QUOTE_MAX: usize = 80;
/// Most words a mistyped one is compared with; a component has some 30 keys, a configuration some 20 ids.
const CANDIDATES_MAX: usize = 256;

impl Problems {
    /// Nothing found yet.
    #[must_use]
    pub fn new() -> Problems {
        Problems::default()
    }

    /// Enters a source by the name an operator knows it by; its number goes into every [`At`].
    pub fn source(&self, name: &str) -> u32 {
        let mut sources = self.sources.borrow_mut();
        sources.push(clean(name, MESSAGE_MAX));
        u32::try_from(sources.len() - 1).unwrap_or(u32::MAX)
    }

    /// A source could not be read: of the others only what is wrong by itself is to be told, and nothing that the
    /// missing one may have said.
    pub(super) fn go_on_without_a_source(&self) {
        self.partial.set(true);
    }

    /// Whether a source could not be read. What seems to be missing may stand there.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.partial.get()
    }

    /// What a place is called outside of the report of its own source: `base.yaml, 3:1`.
    pub(super) fn place(&self, at: At) -> String {
        let sources = self.sources.borrow();
        let name = sources.get(at.source as usize).map_or("configuration", String::as_str);
        format!("{name}, {}:{}", at.line, at.column)
    }

    /// The configuration cannot run.
    pub fn error(&self, at: At, path: &str, message: impl AsRef<str>) {
        self.push(Severity::Error, at, path, message.as_ref(), None);
    }

    /// The configuration can run, with this assumed.
    pub fn warn(&self, at: At, path: &str, message: impl AsRef<str>) {
        self.push(Severity::Warning, at, path, message.as_ref(), None);
    }

    /// As [`Problems::error`], with what was probably meant.
    pub fn error_meaning(&self, at: At, path: &str, message: impl AsRef<str>, meant: Option<&str>) {
        self.push(Severity::Error, at, path, message.as_ref(), meant);
    }

    /// Takes over what somebody else found.
    pub(super) fn absorb(&self, other: Problems) {
        for problem in other.found.into_inner() {
            self.push(problem.severity, problem.at, &problem.path, &problem.message, problem.suggestion.as_deref());
        }
    }

    /// Whether anything keeps the configuration from running.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.found.borrow().iter().any(|p| p.severity == Severity::Error)
    }

    /// [`did_you_mean`], unless so much is wrong that nobody reads the answer.
    #[must_use]
    pub fn meant<'c>(&self, word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
        if self.found.borrow().len() < PROBLEMS_MAX { did_you_mean(word, candidates) } else { None }
    }

    /// The id that was probably meant: one spelled alike, else one of the same type.
    #[must_use]
    pub fn meant_id<'c>(&self, id: &str, ids: &'c [String]) -> Option<&'c str> {
        let all = || ids.iter().map(String::as_str);
        let parts = |id: &'c str| id.split_once('/').unwrap_or((id, ""));
        let (kind, name) = id.split_once('/').unwrap_or((id, ""));
        let alike = || all().filter(|other| parts(other).0.trim() == kind.trim());
        let near = did_you_mean(name, alike().map(|other| parts(other).1))
            .and_then(|near| alike().find(|o| parts(o).1 == near));
        self.meant(id, all()).or(near).or_else(|| alike().next())
    }

    /// All of it, in the order of the files.
    #[must_use]
    pub fn into_report(self) -> Report {
        let mut problems = self.found.into_inner();
        // In one place errors go before warnings.
        problems.sort_by(|a, b| (a.at, &a.path, b.severity, &a.message).cmp(&(b.at, &b.path, a.severity, &b.message)));
        problems.dedup();
        Report { sources: self.sources.into_inner(), problems }
    }

    fn push(&self, severity: Severity, at: At, path: &str, message: &str, meant: Option<&str>) {
        let mut found = self.found.borrow_mut();
        // The last place is kept for an error: a thousand warnings must not hide that it cannot run.
        let room = PROBLEMS_MAX - usize::from(severity == Severity::Warning);
        if found.len() < room {
            found.push(Problem {
                severity,
                at,
                path: clean(path, MESSAGE_MAX),
                message: clean(&masked_pieces(message), MESSAGE_MAX),
                suggestion: meant.map(|m| clean(&masked(m), QUOTE_MAX)),
            });
        }
    }
}

/// What a run of the loader has to say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    sources: Vec<String>,
    problems: Vec<Problem>,
}

impl Report {
    /// Every problem, in the order of the files.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The file (or variable, or `--set`) a place is in.
    #[must_use]
    pub fn source_of(&self, at: At) -> &str {
        self.sources.get(at.source as usize).map_or("configuration", String::as_str)
    }

    /// How many keep the configuration from running.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.problems.iter().filter(|p| p.severity == Severity::Error).count()
    }

    /// How many things were assumed.
    #[must_use]
    pub fn warnings(&self) -> usize {
        self.problems.len() - self.errors()
    }
}

impl fmt::Display for Report {
    /// One block for each source, paths under each other:
    ///
    /// ```text
    /// configs/edge.yaml: 1 problem, 1 warning
    ///   12:16  extensions.file_storage.directory  `data` is relative; a service has no place of its own
    ///   31:3   processors.memory_limiter          warning: check_interval is not given; 1s is assumed
    /// ```
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for of_one in self.problems.chunk_by(|a, b| a.at.source == b.at.source) {
            let errors = of_one.iter().filter(|p| p.severity == Severity::Error).count();
            let counts = [count(errors, "problem"), count(of_one.len() - errors, "warning")];
            let counts: Vec<_> = counts.into_iter().flatten().collect();
            writeln!(f, "{}: {}", self.source_of(of_one[0].at), counts.join(", "))?;
            let place = |p: &Problem| format!("{}:{}", p.at.line, p.at.column);
            let places = of_one.iter().map(|p| place(p).len()).max().unwrap_or(0);
            let paths = of_one.iter().map(|p| p.path.chars().count()).max().unwrap_or(0).max(1);
            for problem in of_one {
                let path = if problem.path.is_empty() { "-" } else { &problem.path };
                writeln!(f, "  {:places$}  {path:paths$}  {}", place(problem), problem.told())?;
            }
        }
        Ok(())
    }
}

impl Problem {
    /// The message with its mark and its suggestion, in one line.
    #[must_use]
    pub fn told(&self) -> String {
        let mark = if self.severity == Severity::Warning { "warning: " } else { "" };
        match &self.suggestion {
            Some(meant) => format!("{mark}{}; did you mean `{meant}`?", self.message),
            None => format!("{mark}{}", self.message),
        }
    }
}

fn count(n: usize, what: &str) -> Option<String> {
    (n > 0).then(|| format!("{n} {what}{}", if n == 1 { "" } else { "s" }))
}

/// An operator's text in backquotes: cut to a readable length, without control characters, passwords and tokens.
#[must_use]
pub fn quote(text: &str) -> String {
    format!("`{}`", clean(&masked(text), QUOTE_MAX))
}

/// A message whose quoted pieces hold no password, whoever put them there.
fn masked_pieces(message: &str) -> String {
    let pieces = message.split('`').enumerate();
    let pieces: Vec<_> = pieces.map(|(n, piece)| if n % 2 == 1 { masked(piece) } else { piece.to_owned() }).collect();
    pieces.join("`")
}

/// A terminal obeys control characters; a report must not be able to give it orders.
fn clean(text: &str, max: usize) -> String {
    let mut out = String::new();
    for (n, c) in text.chars().enumerate() {
        match c {
            _ if n == max => {
                out.push('…');
                break;
            }
            c if c.is_control() || is_reordering(c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// Characters that turn the direction of text around: they can make a key look like another.
fn is_reordering(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Which of `candidates` a mistyped word was probably meant to be.
///
/// Case, `_` and `-` do not count (`checkInterval`), a swap of neighbours counts once, and a word may differ in a
/// third of its letters at most.
#[must_use]
pub fn did_you_mean<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let plain =
        |s: &str| -> Vec<char> { s.chars().filter(|c| !"_- ".contains(*c)).flat_map(char::to_lowercase).collect() };
    let word = plain(word);
    // Numbers have no neighbours in spelling: 1.4 is not meant to be 1.0.
    if word.len() > QUOTE_MAX || !word.iter().any(|c| c.is_alphabetic()) {
        return None;
    }
    let near = candidates.into_iter().take(CANDIDATES_MAX).filter(|c| c.len() <= QUOTE_MAX).filter_map(|c| {
        let candidate = plain(c);
        let allowed = (word.len().max(candidate.len()) / 3).max(1);
        let far = distance(&word, &candidate);
        (far <= allowed && far < word.len()).then_some((far, c))
    });
    near.min_by_key(|(far, _)| *far).map(|(_, c)| c)
}

/// Insertions, deletions, replacements and swaps of neighbours between two words.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut least = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(source: u32, line: u32, column: u32) -> At {
        At { source, line, column }
    }

    #[test]
    fn a_report_shows_each_source_with_its_problems_in_order() {
        let problems = Problems::new();
        let (edge, set) = (problems.source("configs/edge.yaml"), problems.source("--set a.b"));
        problems.error(at(set, 1, 5), "a.b", "`x` is not a whole number");
        problems.warn(at(edge, 131, 3), "processors.memory_limiter", "check_interval is not given; 1s is assumed");
        problems.error_meaning(at(edge, 12, 16), "extensions", "`dir` is not a key here", Some("directory"));
        problems.error(at(edge, 2, 1), "", "a tab indents this line");
        assert!(problems.has_errors());
        let expected = "\
configs/edge.yaml: 2 problems, 1 warning
  2:1    -                          a tab indents this line
  12:16  extensions                 `dir` is not a key here; did you mean `directory`?
  131:3  processors.memory_limiter  warning: check_interval is not given; 1s is assumed
--set a.b: 1 problem
  1:5  a.b  `x` is not a whole number
";
        assert_eq!(problems.into_report().to_string(), expected);
    }

    #[test]
    fn what_is_said_twice_is_told_once_and_warnings_alone_are_no_errors() {
        let problems = Problems::new();
        problems.source("a");
        problems.warn(at(0, 1, 1), "a", "same");
        problems.warn(at(0, 1, 1), "a", "same");
        assert!(!problems.has_errors());
        let report = problems.into_report();
        assert_eq!((report.errors(), report.warnings()), (0, 1));
    }

    #[test]
    fn a_report_is_bounded_and_an_error_among_a_thousand_warnings_is_kept() {
        let problems = Problems::new();
        for line in 0..5_000 {
            problems.warn(at(0, line, 1), "a", "b".repeat(10_000));
        }
        problems.error(at(0, 6_000, 1), "a", "the one");
        let report = problems.into_report();
        assert_eq!((report.errors(), report.warnings()), (1, 999));
        assert!(report.to_string().len() < 1_000_000);
    }

    #[test]
    fn a_report_gives_no_orders_to_the_terminal() {
        let problems = Problems::new();
        problems.source("\u{1b}[2J");
        problems.error(at(0, 1, 1), "a\u{202e}b", format!("{} \u{7}", quote("x\ny")));
        assert_eq!(problems.into_report().to_string(), "\\u{1b}[2J: 1 problem\n  1:1  a\\u{202e}b  `x\\ny` \\u{7}\n");
    }

    #[test]
    #[rustfmt::skip]
    fn a_mistyped_id_finds_one_of_its_type() {
        let ids = ["otlphttp", "otlphttp/primary", "otlphttp/backup", "debug"].map(str::to_owned);
        for (id, expected) in [
            ("otlphttp/typo",   Some("otlphttp")),
            ("otlphttp/bakcup", Some("otlphttp/backup")),
            ("otlphtp",         Some("otlphttp")),
            ("debug/7",         Some("debug")),
            ("zipkin",          None),
        ] {
            assert_eq!(Problems::new().meant_id(id, &ids), expected, "{id}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn a_mistyped_word_finds_the_one_it_was_meant_to_be() {
        let keys = ["1.0", "check_interval", "limit_mib", "spike_limit_mib", "timeout"];
        for (word, expected) in [
            ("chek_interval",  Some("check_interval")),
            ("checkInterval",  Some("check_interval")),
            ("check-interval", Some("check_interval")),
            ("timeuot",        Some("timeout")), // one swap
            ("limit_mb",       Some("limit_mib")),
            ("spike_limit",    Some("spike_limit_mib")),
            ("endpoint",       None),
            ("t",              None),
            ("1.4",            None),
            ("",               None),
        ] {
            assert_eq!(did_you_mean(word, keys), expected, "{word:?}");
        }
    }
}
