//! Secrets that stand inside other texts: passwords of URLs, tokens in their queries, and the keys whose values are
//! nobody's business. One place decides, for what is printed and for what is told.

use super::problems::did_you_mean;

/// What stands in the place of a secret: the word otelcol's configopaque prints.
pub(super) const MASK: &str = "[REDACTED]";

/// The same inside a URL, where brackets would be an address: what is masked still reads as a URL.
const HIDDEN: &str = "REDACTED";

/// Keys whose values are masked wherever they stand; in lower case, `-` written as `_`.
const TELLING: [&str; 8] =
    ["password", "passwd", "secret", "token", "authorization", "api_key", "apikey", "private_key"];

/// Pieces of a key that make everything below it suspicious, where no reader says what it is.
const SUSPICIOUS: [&str; 7] = ["header", "auth", "passw", "secret", "token", "credential", "key_pem"];

/// Words somebody may have mistyped.
const MEANT: [&str; 6] = ["headers", "authorization", "password", "secret", "token", "api_key"];

/// Whether the value under this key is a secret by the key's name alone.
pub(super) fn is_telling(key: &str) -> bool {
    let key = plain(key);
    TELLING.iter().any(|word| key == *word || key.ends_with(&format!("_{word}")))
}

/// Whether what stands under a key that nobody reads may be a secret: `haeders`, `basic_auth`, `X-Api-Key`.
pub(super) fn is_suspicious(key: &str) -> bool {
    let key = plain(key);
    is_telling(&key) || SUSPICIOUS.iter().any(|piece| key.contains(piece)) || did_you_mean(&key, MEANT).is_some()
}

/// Whether a value at this path should not be shown in a message.
pub(super) fn is_delicate(path: &str) -> bool {
    path.split('.').any(is_suspicious)
}

/// Whether the value under this key is an address, so that what looks like a password in it is one.
pub(super) fn is_address(key: &str) -> bool {
    let key = plain(key);
    ["endpoint", "url", "uri", "proxy", "address", "dsn"].iter().any(|word| key.contains(word))
}

fn plain(key: &str) -> String {
    key.trim().to_ascii_lowercase().replace('-', "_")
}

/// A text as a report may show it: what could be userinfo or the value of a query is hidden, in doubt too.
#[must_use]
pub fn masked(text: &str) -> String {
    mask(text, true)
}

/// A text as it is printed under a key that is no address: only what is plainly a URL, or a password before a host.
pub(super) fn masked_url(text: &str) -> String {
    if text.contains(of_pattern) {
        return without_userinfo(text);
    }
    // `name:tag/app@digest` is no userinfo; `user:password@host` is.
    let begins_with_userinfo =
        text.find('@').is_some_and(|at| !text[..at].contains(|c: char| c == '/' || c.is_whitespace()));
    mask(text, begins_with_userinfo)
}

/// What patterns are made of, and addresses are not.
fn of_pattern(c: char) -> bool {
    r"()[]{}*+\^|<>".contains(c)
}

/// A pattern, without what plainly is the userinfo of a URL in it.
fn without_userinfo(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let authority = after.split(|c: char| c == '/' || c.is_whitespace()).next().unwrap_or_default();
        let userinfo = authority.rfind('@').filter(|at| !authority[..*at].contains(of_pattern));
        rest = userinfo.map_or(after, |at| {
            out.push_str(HIDDEN);
            &after[at..]
        });
    }
    out + rest
}

/// Masks each URL of a text, and what stands before the first one if `all`.
fn mask(text: &str, all: bool) -> String {
    if !text.contains(['@', '?', '#']) {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut rest = text;
    let mut scheme = 0; // how much of `rest` is the scheme of the URL it begins with
    loop {
        let next = rest[scheme..].match_indices(":/").map(|(at, _)| at + scheme).find_map(|at| scheme_before(rest, at));
        let (piece, after) = rest.split_at(next.map_or(rest.len(), |(start, _)| start));
        out.push_str(&piece[..scheme.min(piece.len())]);
        let body = &piece[scheme.min(piece.len())..];
        if all || scheme > 0 {
            without_secrets(body, scheme > 0, &mut out)
        } else {
            out.push_str(body)
        }
        match next {
            Some((start, end)) => (rest, scheme) = (after, end - start),
            None => return out,
        }
    }
}

/// Where the scheme begins that ends before `colon`, and where the slashes behind it end.
fn scheme_before(text: &str, colon: usize) -> Option<(usize, usize)> {
    let letters = |c: char| c.is_ascii_alphanumeric() || "+.-".contains(c);
    let start = text[..colon].trim_end_matches(letters).len();
    let start = start + text[start..colon].find(|c: char| c.is_ascii_alphabetic())?;
    let slashes = text[colon + 1..].bytes().take_while(|b| *b == b'/').count();
    // One letter is a drive of Windows.
    (colon - start > 1).then_some((start, colon + 1 + slashes))
}

/// What follows a scheme, without userinfo and without the values of its query.
fn without_secrets(body: &str, is_url: bool, out: &mut String) {
    let query = body.find(['?', '#']).unwrap_or(body.len());
    let authority = body.split(['/', '?', '#']).next().unwrap_or_default();
    // A password with `?` in it makes a host of what stands before that, and mostly one with a strange port.
    let strange = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_err());
    let end = body[..query].rfind('@').or_else(|| body.rfind('@').filter(|_| strange));
    let end = end.filter(|at| is_url || body[..*at].contains(':'));
    let rest = match end {
        Some(at) if at > 0 => {
            out.push_str(HIDDEN);
            &body[at..]
        }
        _ => body,
    };
    let Some(query) = rest.find(['?', '#']) else { return out.push_str(rest) };
    out.push_str(&rest[..query]);
    for piece in rest[query..].split_inclusive(['?', '#', '&', ';']) {
        let (value, end) = match piece.char_indices().last() {
            Some((at, '?' | '#' | '&' | ';')) => piece.split_at(at),
            _ => (piece, ""),
        };
        let named =
            |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-%".contains(c));
        match value.split_once('=') {
            Some((name, value)) if is_url || named(name) => {
                out.push_str(name);
                out.push('=');
                out.push_str(if value.is_empty() { "" } else { HIDDEN });
            }
            // A token may stand there without a name.
            None if is_url && !value.is_empty() => out.push_str(HIDDEN),
            _ => out.push_str(value),
        }
        out.push_str(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn what_a_url_holds_for_nobody_is_masked() {
        for (text, expected) in [
            ("http://collector:4318/v1/logs",       "http://collector:4318/v1/logs"),
            ("https://u:SECRET@h:4318/p",           "https://REDACTED@h:4318/p"),
            ("https://SECRET@h",                    "https://REDACTED@h"),
            ("https://u:SEC/RET@h:1",               "https://REDACTED@h:1"),
            ("https://u:SEC?RET@h:1",               "https://REDACTED@h:1"),
            ("https://u:SEC@RET@h:1",               "https://REDACTED@h:1"),
            ("https://u:SEC RET@h:1",               "https://REDACTED@h:1"),
            ("https://u:SEC#RET@[::1]:1",           "https://REDACTED@[::1]:1"),
            ("http:/u:SECRET@h",                    "http:/REDACTED@h"),
            ("u:SECRET@h:4318",                     "REDACTED@h:4318"),
            ("http://h/p?api_key=SECRET&b=SECRET",  "http://h/p?api_key=REDACTED&b=REDACTED"),
            ("http://h?SECRET",                     "http://h?REDACTED"),
            ("http://h?a=x@SECRET&c=",              "http://h?a=REDACTED&c="),
            ("h:4318/p?api_key=SECRET",             "h:4318/p?api_key=REDACTED"),
            ("http://u:SECRET@a, http://v:SECRET@b", "http://REDACTED@a, http://REDACTED@b"),
            ("see http://u:SECRET@h",               "see http://REDACTED@h"),
            ("somebody@example.com",                "somebody@example.com"),
            ("(?P<scheme>[a-z]+)://",               "(?P<scheme>[a-z]+)://"),
            (r"C:\dir?x",                           r"C:\dir?x"),
            ("a ? b = c",                           "a ? b = c"),
            ("ä@ö:/@",                              "REDACTED@"),
        ] {
            assert_eq!(masked(text), expected, "{text}");
            assert_eq!(masked(expected), expected, "masked again");
        }
    }

    #[test]
    fn a_pattern_is_printed_as_it_is() {
        for text in [
            r"^https?://(?P<user>[^:]+):(.*)@h$",
            "^a:[bc]@d",
            "(?i)a=b",
            "x?y=z",
            "^http://(?P<host>[^/]+)/",
            r"^GET http://x/\?id=[0-9]+",
            "registry:5000/app@sha256:abc",
        ] {
            assert_eq!(masked_url(text), text);
        }
        assert_eq!(masked_url("^http://u:SECRET@h/(a|b)"), "^http://REDACTED@h/(a|b)");
        assert_eq!(masked_url("u:SECRET@h:1"), "REDACTED@h:1");
    }

    #[test]
    fn keys_tell_of_secrets_in_any_spelling() {
        for key in ["password", "X-Api-Key", "client_secret", "Authorization"] {
            assert!(is_telling(key), "{key}");
        }
        for key in ["haeders", "header", "auht_token", "basic_auth", "passwort", "Authorisation", "HEADERS"] {
            assert!(is_suspicious(key), "{key}");
        }
        for key in ["endpoint", "timeout", "path", "key", "hash", "tenant"] {
            assert!(!is_suspicious(key), "{key}");
        }
    }

    proptest::proptest! {
        /// Goal: no text makes masking fail, and what it leaves is stable.
        #[test]
        fn masking_never_fails_and_is_done_once(text in "[a-z:/@?#&;= ä]{0,24}") {
            let once = masked(&text);
            proptest::prop_assert_eq!(masked(&once), once.clone());
            let _ = masked_url(&text);
        }
    }
}
