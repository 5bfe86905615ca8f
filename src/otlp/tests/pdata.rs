//! What we accept, the Go collector decodes: asked of the collector's own code, of 2023 and of today.
//!
//! `fuzz/pdata/main.go` says how to build the programs and to run these tests.

#![allow(clippy::print_stderr)] // their report

use super::tree::{Node, fields};
use super::{damage, entropy, signals};
use crate::otlp::wild::Choices;
use crate::otlp::{Signal, from_json, walk};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

struct Collector {
    name: String,
    child: Child,
}

struct Answer {
    items: u32,
    json: Vec<u8>,
}

impl Collector {
    fn all() -> Vec<Collector> {
        let programs = std::env::var("PDATA").expect("PDATA names the programs built from fuzz/pdata");
        programs
            .split(':')
            .map(|program| {
                let child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
                Collector { name: program.to_owned(), child: child.expect("the program starts") }
            })
            .collect()
    }

    fn ask(&mut self, signal: Signal, json: bool, body: &[u8]) -> Option<Answer> {
        let mut question = vec![signal as u8, u8::from(json)];
        question.extend(u32::try_from(body.len()).expect("test bodies are small").to_le_bytes());
        question.extend(body);
        let to = self.child.stdin.as_mut().expect("it is piped");
        to.write_all(&question).expect("the program lives");
        to.flush().expect("the program lives");
        let from = self.child.stdout.as_mut().expect("it is piped");
        let mut head = [0; 5];
        from.read_exact(&mut head).expect("the program answers");
        let mut part = || {
            let mut len = [0; 4];
            from.read_exact(&mut len).expect("the program answers");
            let mut bytes = vec![0; u32::from_le_bytes(len) as usize];
            from.read_exact(&mut bytes).expect("the program answers");
            bytes
        };
        let (_protobuf, json) = (part(), part());
        let items = u32::from_le_bytes(head[1..].try_into().expect("four bytes"));
        (head[0] == 1).then_some(Answer { items, json })
    }
}

/// Go replaces a oneof member that is written twice where protobuf merges, and reads scopes at field 1000 when
/// there are none at field 2: there our counts may differ from its.
fn counted_alike(signal: Signal, request: &[u8]) -> bool {
    let read = |bytes: &[u8]| fields(bytes).expect("it was accepted");
    let children = |nodes: &[Node], number| -> Vec<Vec<u8>> {
        nodes.iter().filter(|node| node.number == number).map(|node| node.value.clone()).collect()
    };
    children(&read(request), 1).iter().all(|resource| {
        let resource = read(resource);
        children(&resource, 1_000).is_empty()
            && children(&resource, 2).iter().all(|scope| {
                signal != Signal::Metrics
                    || children(&read(scope), 2).iter().all(|metric| {
                        let data = read(metric).iter().filter(|node| [5, 7, 9, 10, 11].contains(&node.number)).count();
                        data <= 1
                    })
            })
    })
}

/// Where the two collectors differ: today's reads deprecated scopes (to us they are unknown), and that of 2023
/// forgets a zero threshold.
fn depends_on_the_year(text: &[u8]) -> bool {
    let has = |word: &[u8]| text.windows(word.len()).any(|part| part == word);
    has(b"deprecatedScope") || has(b"zeroThreshold")
}

fn many(ordinary: u32) -> TestRunner {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    TestRunner::new(Config { cases: asked.unwrap_or(ordinary), failure_persistence: None, ..Config::default() })
}

#[test]
#[ignore = "needs the Go programs of fuzz/pdata"]
fn what_the_walk_accepts_the_collector_decodes_with_as_many_items() {
    let collectors = RefCell::new(Collector::all());
    let seen = RefCell::new([0_u32; 3]);
    let strategy = (signals(), entropy(), prop::option::of(damage()), any::<bool>());
    many(20_000)
        .run(&strategy, |(signal, choices, hits, lawful)| {
            let mut choices = if lawful { Choices::lawful(&choices) } else { Choices::defective(&choices) };
            let mut request = choices.request(signal);
            if let Some(hits) = hits {
                hits.strike(&mut request);
            }
            let Ok(walked) = walk(signal, &request) else {
                seen.borrow_mut()[0] += 1;
                return Ok(());
            };
            for collector in collectors.borrow_mut().iter_mut() {
                let Some(answer) = collector.ask(signal, false, &request) else {
                    return Err(TestCaseError::fail(format!("{} refuses {request:02x?}", collector.name)));
                };
                seen.borrow_mut()[1] += 1;
                if counted_alike(signal, &request) {
                    seen.borrow_mut()[2] += u32::from(walked.items > 0);
                    prop_assert_eq!(answer.items, walked.items, "{}", collector.name);
                }
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    eprintln!("refused by us, decoded by them, with items: {:?}", seen.borrow());
}

/// Goal: JSON that the collector wrote means the same to us as to it.
#[test]
#[ignore = "needs the Go programs of fuzz/pdata"]
fn json_of_the_collector_is_read_as_the_collector_reads_it() {
    let collectors = RefCell::new(Collector::all());
    let seen = RefCell::new(0_u32);
    many(10_000)
        .run(&(signals(), entropy()), |(signal, choices)| {
            let request = Choices::lawful(&choices).request(signal);
            if walk(signal, &request).is_err() {
                return Ok(());
            }
            for collector in collectors.borrow_mut().iter_mut() {
                let Some(written) = collector.ask(signal, false, &request) else { continue };
                if depends_on_the_year(&written.json) {
                    continue;
                }
                let Some(reread) = collector.ask(signal, true, &written.json) else { continue };
                let ours = from_json(signal, &written.json)
                    .map_err(|why| TestCaseError::fail(format!("{why}: {}", String::from_utf8_lossy(&written.json))))?;
                let items = walk(signal, &ours).map(|walked| walked.items);
                prop_assert_eq!(items, Ok(reread.items), "{}", String::from_utf8_lossy(&written.json));
                let ours = collector.ask(signal, false, &ours).expect("we accepted it");
                prop_assert!(
                    ours.json == reread.json, // not as protobuf: Go's NaN has other bits than Rust's
                    "{}: {}",
                    collector.name,
                    String::from_utf8_lossy(&written.json)
                );
                *seen.borrow_mut() += u32::from(reread.items > 0);
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    eprintln!("with items: {:?}", seen.borrow());
}

/// Goal: on JSON that is a little wrong we agree with the collector, but for the differences that are listed.
/// Method: texts of the collector with characters exchanged; the verdicts are counted by what we said.
#[test]
#[ignore = "needs the Go programs of fuzz/pdata"]
fn json_that_is_a_little_wrong_is_judged_as_the_collector_judges_it() {
    let collectors = RefCell::new(Collector::all());
    let verdicts = RefCell::new(BTreeMap::<String, (u32, String)>::new());
    let exchange =
        (any::<prop::sample::Index>(), prop::sample::select(&b"\"\\,:{}[]0123456789-.eEnulltruefalseA_ \x01\xff"[..]));
    let strategy = (signals(), entropy(), prop::collection::vec(exchange, 1..3));
    many(20_000)
        .run(&strategy, |(signal, choices, exchanges)| {
            let request = Choices::lawful(&choices).request(signal);
            if walk(signal, &request).is_err() {
                return Ok(());
            }
            for collector in collectors.borrow_mut().iter_mut() {
                let Some(written) = collector.ask(signal, false, &request) else { continue };
                if depends_on_the_year(&written.json) {
                    continue;
                }
                let mut text = written.json;
                for (at, byte) in &exchanges {
                    if !text.is_empty() {
                        let at = at.index(text.len());
                        text[at] = *byte;
                    }
                }
                let ours = from_json(signal, &text);
                let theirs = collector.ask(signal, true, &text);
                let verdict = match (&ours, &theirs) {
                    (Ok(ours), Some(theirs)) => {
                        prop_assert!(walk(signal, ours).is_ok());
                        let again = collector.ask(signal, false, ours).expect("we accepted it");
                        if again.json == theirs.json { "both, alike".to_owned() } else { "both, DIFFERENT".to_owned() }
                    }
                    (Ok(_), None) => "only we accept".to_owned(),
                    (Err(why), Some(_)) => format!("only they accept: {}", why.what),
                    (Err(_), None) => "neither".to_owned(),
                };
                let example = format!(
                    "{} {}",
                    ours.err().map_or_else(String::new, |why| why.to_string()),
                    String::from_utf8_lossy(&text)
                );
                let mut verdicts = verdicts.borrow_mut();
                let entry = verdicts.entry(verdict).or_insert((0, example.clone()));
                entry.0 += 1;
                if example.len() < entry.1.len() {
                    entry.1 = example;
                }
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    for (verdict, (times, example)) in verdicts.borrow().iter() {
        eprintln!("{times:6} {verdict}\n         {}", &example.chars().take(600).collect::<String>());
    }
    assert!(!verdicts.borrow().contains_key("both, DIFFERENT"));
}
