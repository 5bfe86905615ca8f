//! What each getter makes of what is written.

use super::*;
use crate::config::section::try_out;

const VARS: [(&str, &str); 6] = [("N", "12"), ("LZ", "0123"), ("T", "true"), ("E", ""), ("L", "a,b"), ("M", "{a: 1}")];

/// What a getter makes of `k: <written>`, and whether it had something to tell.
fn got<T>(written: &str, f: impl FnOnce(&Section<'_>) -> T) -> (T, bool) {
    let (value, told) = try_out(&format!("k: {written}"), &VARS, f);
    (value, told.is_empty())
}

#[test]
#[rustfmt::skip]
fn text_is_taken_letter_by_letter() {
    for (written, expected) in [
        ("abc",           "abc"),
        ("12",            "12"),
        ("0123",          "0123"),
        ("1e3",           "1e3"),
        ("true",          "true"),
        ("2024-01-02",    "2024-01-02"),
        ("\"${env:LZ}\"", "0123"),
        ("${env:LZ}",     "0123"),
        ("${env:M}",      "{a: 1}"),
        ("a${env:N}b",    "a12b"),
        ("",              "default"),
        ("~",             "default"),
        ("\"\"",          "default"),
    ] {
        assert_eq!(got(written, |s| s.text("k", "default")), (expected.to_owned(), true), "{written}");
    }
    assert_eq!(got("${env:GONE}", |s| s.text("k", "default")), ("default".to_owned(), false));
    let (text, told) = try_out("k: x${env:GONE}", &[], |s| s.text("k", "default"));
    assert_eq!((text.as_str(), told.as_str()), ("x", "warning: the variable `GONE` is not set; it is read as empty"));
    let (_, told) = try_out("k: ${env:GONE}", &[], |s| s.text("k", "default"));
    assert_eq!(told, "warning: the variable `GONE` is not set; the default stays");
    assert_eq!(got("[a]", |s| s.text("k", "default")), ("default".to_owned(), false));
}

#[test]
#[rustfmt::skip]
fn a_flag_is_true_or_false_as_go_reads_it() {
    for (written, expected) in [
        ("true",       (true, true)),
        ("\"false\"",  (false, true)),
        ("TRUE",       (true, true)),
        ("1",          (true, true)),
        ("f",          (false, true)),
        ("${env:T}",   (true, true)),
        ("",           (true, true)), // the default of this test
        ("yes",        (true, false)),
        ("2",          (true, false)),
    ] {
        assert_eq!(got(written, |s| s.flag("k", true)), expected, "{written}");
    }
}

#[test]
#[rustfmt::skip]
fn a_number_is_whole_and_in_its_range() {
    for (written, expected) in [
        ("512",        (512, true)),
        ("\"512\"",    (512, true)), // weak typing of 0.88
        ("1_000",      (1_000, true)),
        ("0x10",       (16, true)),
        ("1e3",        (1_000, true)),
        ("512.0",      (512, true)),
        ("${env:N}",   (12, true)),
        ("${env:N}0",  (120, true)),
        ("",           (7, true)),
        ("${env:E}",   (7, false)),
        ("${env:LZ}",  (7, false)),
        ("0123",       (7, false)),
        ("1.5",        (7, false)),
        ("-1",         (7, false)),
        ("65536",      (7, false)),
        ("99999999999999999999999999", (7, false)),
        ("abc",        (7, false)),
        ("true",       (7, false)),
        (".nan",       (7, false)),
    ] {
        assert_eq!(got(written, |s| s.number("k", 7_u16, 0..=u16::MAX)), expected, "{written}");
    }
}

#[test]
#[rustfmt::skip]
fn a_decimal_is_a_number_in_its_range() {
    for (written, expected) in [
        ("0.5",    (0.5, true)),
        ("1",      (1.0, true)),
        ("\".5\"", (0.5, true)),
        ("",       (0.25, true)),
        ("1.5",    (0.25, false)),
        (".nan",   (0.25, false)),
        ("x",      (0.25, false)),
    ] {
        assert_eq!(got(written, |s| s.decimal("k", 0.25, 0.0..=1.0)), expected, "{written}");
    }
}

#[test]
#[rustfmt::skip]
fn a_duration_has_a_unit() {
    let s = Duration::from_secs;
    for (written, expected) in [
        ("90s",      (s(90), true)),
        ("1m30s",    (s(90), true)),
        ("0",        (s(0), true)),
        ("\"2s\"",   (s(2), true)),
        ("",         (s(7), true)),
        ("${env:E}", (s(7), false)),
        ("10",       (s(7), false)),
        ("\"\"",     (s(7), false)),
        ("1d",       (s(7), false)),
        ("-1s",      (s(7), false)),
    ] {
        assert_eq!(got(written, |x| x.duration("k", s(7))), expected, "{written}");
    }
    assert_eq!(got("0s", |x| x.duration_or_never("k", Some(s(7)))), (None, true));
    assert_eq!(got("", |x| x.duration_or_never("k", Some(s(7)))), (Some(s(7)), true));
    assert!(!got("0s", |x| x.duration_above_zero("k", s(7))).1);
}

#[test]
#[rustfmt::skip]
fn a_list_may_be_one_text_with_commas() {
    for (written, expected) in [
        ("[a, b]",       (vec!["a", "b"], true)),
        ("a, b",         (vec!["a", "b"], true)), // weak typing of 0.88
        ("a",            (vec!["a"], true)),
        ("${env:L}",     (vec!["a", "b"], true)),
        ("[\"a,b\", 1]", (vec!["a,b", "1"], true)),
        ("[]",           (vec![], true)),
        ("",             (vec!["d"], true)), // nothing keeps the default, `[]` empties it
        ("\"a,, b,\"",   (vec!["a", "b"], true)),
        ("[a, [b]]",     (vec!["a"], false)),
        ("{a: b}",       (vec!["d"], false)),
    ] {
        let (texts, good) = got(written, |s| s.texts("k", &["d"]));
        assert_eq!((texts.iter().map(String::as_str).collect(), good), expected, "{written}");
    }
}

#[test]
#[rustfmt::skip]
fn an_attribute_value_has_the_type_it_is_written_in_and_text_from_a_variable() {
    let text = |t: &str| Any::Text(t.to_owned());
    for (written, expected) in [
        ("abc",           (Some(text("abc")), true)),
        ("\"12\"",        (Some(text("12")), true)),
        ("12",            (Some(Any::Int(12)), true)),
        ("1.5",           (Some(Any::Double(1.5)), true)),
        ("true",          (Some(Any::Bool(true)), true)),
        ("yes",           (Some(text("yes")), true)),
        ("${env:N}",      (Some(text("12")), true)),
        ("${env:LZ}",     (Some(text("0123")), true)),
        ("${env:T}",      (Some(text("true")), true)),
        ("${env:M}",      (Some(text("{a: 1}")), true)),
        ("${yaml:12}",    (Some(Any::Int(12)), true)), // there the type is asked for
        ("${N:-x}0",      (Some(text("120")), true)),
        ("[1, a]",        (Some(Any::List(vec![Any::Int(1), text("a")])), true)),
        ("{a: {b: 1}}",   (Some(Any::Map(vec![("a".into(), Any::Map(vec![("b".into(), Any::Int(1))]))])), true)),
        ("",              (None, true)),
        ("0123",          (Some(text("0123")), false)),
        ("${env:GONE}",   (None, false)),
        ("${env:E}",      (None, false)),
        ("[a, ]",         (Some(Any::List(vec![text("a")])), true)),
        ("[a, ~]",        (None, false)),
        ("[\"${GONE}\"]", (None, false)),
    ] {
        assert_eq!(got(written, |s| s.any_if_given("k", "left out")), expected, "{written}");
    }
}

#[test]
#[rustfmt::skip]
fn a_url_names_scheme_host_and_maybe_port() {
    for (written, good) in [
        ("http://collector:4318",         true),
        ("https://collector",             true),
        ("HTTPS://collector/otlp/",       true),
        ("http://10.0.0.1:4318",          true),
        ("http://[::1]:4318/x",           true),
        ("http://user:pw@collector:4318", true),
        ("collector:4318",                false),
        ("10.0.0.1:4318",                 false),
        ("http://",                       false),
        ("http://:4318",                  false),
        ("http://collector:0",            false),
        ("http://collector:http",         false),
        ("http://coll ector",             false),
        ("grpc://collector",              false),
        ("\"http://a\\nb\"",              false),
    ] {
        assert_eq!(got(written, |s| s.url_if_given("k")).1, good, "{written}");
    }
}

#[test]
fn headers_keep_their_values_to_themselves() {
    let (headers, told) = try_out("k: {A: 0123, B: \"a\\nhunter2\", C: ~, D: '${GONE}'}", &[], |s| s.headers("k"));
    let shown: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.reveal())).collect();
    assert_eq!(shown, [("A", "0123"), ("B", "a\nhunter2"), ("C", ""), ("D", "")]);
    assert!(told.contains("control character") && !told.contains("hunter2"), "{told}");
    assert!(told.contains("the variable `GONE` is not set; it is read as empty"), "{told}");
}
