//! A token that a server gives (OAuth 2.0, client credentials; RFC 6749 §4.4): asked for when the first upload needs it, kept
//! until shortly before its end, and asked for anew when the far end refuses it.
//!
//! What always holds:
//! * Without a token nothing is sent and nothing is lost: while the server of tokens is away the link is down, and where it
//!   refuses us the data waits for a person.
//! * A token that is still good is used as long as no better one is to be had.
//! * One request for a token is out at a time, of however many uploads; one that failed is not repeated for a moment.
//! * No secret appears in an error or a log line.

use super::client::{CONNECT_MAX, ClientError, Credentials, install_provider, setting, silence, user_agent, with_tls};
use super::config::{Credential, OAuth2Config};
use super::link::Trouble;
use super::verdict::{BODY_MAX, HttpAnswer, Verdict, printable, retry_after};
use crate::base::Clock;
use crate::config::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::{BoxFuture, FutureExt as _};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Url, redirect};
use serde_json::Value;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Rest after a request for a token that failed: all uploads that waited for it hear of this one.
const REST: Duration = Duration::from_secs(1);
/// Longest name or secret in a file.
const CREDENTIAL_MAX: u64 = 64 << 10;
/// A token that names no end is used until it is refused, or for so long.
const ENDLESS: Duration = Duration::from_secs(365 * 86_400);

/// See the module.
pub struct Grant {
    config: OAuth2Config,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    /// Where the server wants the client's name and secret; `None`: not known yet.
    manner: Option<Manner>,
    /// What the last request came to, until then.
    failed: Option<(Instant, Verdict)>,
}

struct Token {
    /// As it stands in the header.
    value: Secret,
    renew_at: Instant,
    ends_at: Instant,
}

/// Where the client's name and secret stand: RFC 6749 §2.3.1 knows both, and servers often only one.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Header,
    Body,
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").field("token_url", &self.config.token_url).finish_non_exhaustive()
    }
}

impl Credentials for Grant {
    fn value(&self) -> BoxFuture<'_, Result<Secret, Verdict>> {
        self.token().boxed()
    }

    fn refused(&self, value: &Secret) -> bool {
        // Where it is locked, somebody asks for a new one.
        if let Ok(mut state) = self.state.try_lock()
            && state.token.as_ref().is_some_and(|token| token.value == *value)
        {
            state.token = None;
        }
        true
    }
}

impl Grant {
    /// Nothing is asked for yet.
    ///
    /// # Errors
    /// When a certificate cannot be read, or a setting cannot be meant.
    pub fn new(config: &OAuth2Config, clock: Clock) -> Result<Grant, ClientError> {
        client(config)?;
        Ok(Grant { config: config.clone(), clock, state: Mutex::default() })
    }

    async fn token(&self) -> Result<Secret, Verdict> {
        let mut state = self.state.lock().await;
        let now = Instant::now();
        let good = |token: &Token, until: Instant| (now < until).then(|| token.value.clone());
        if let Some(fresh) = state.token.as_ref().and_then(|token| good(token, token.renew_at)) {
            return Ok(fresh);
        }
        let verdict = match state.failed.take().filter(|(until, _)| now < *until) {
            Some(failed) => failed,
            None => match self.ask(&mut state).await {
                Ok(token) => {
                    let value = token.value.clone();
                    state.token = Some(token);
                    return Ok(value);
                }
                Err(verdict) => (Instant::now() + REST, verdict),
            },
        };
        let still_good = state.token.as_ref().and_then(|token| good(token, token.ends_at));
        state.failed = Some(verdict.clone());
        still_good.ok_or(verdict.1)
    }

    /// In the manner that is known, else in both.
    async fn ask(&self, state: &mut State) -> Result<Token, Verdict> {
        let manners = match state.manner {
            Some(manner) => vec![manner],
            None => vec![Manner::Header, Manner::Body],
        };
        let mut refused = None;
        for manner in manners {
            match self.ask_in(manner).await {
                Ok(token) => {
                    state.manner = Some(manner);
                    return Ok(token);
                }
                // It may want to be told in the other manner.
                Err(verdict @ Verdict::Hold { .. }) => refused = refused.or(Some(verdict)),
                Err(verdict) => return Err(verdict),
            }
        }
        state.manner = None;
        Err(refused.unwrap_or_else(|| Verdict::Hold { why: "no token was asked for".to_owned() }))
    }

    async fn ask_in(&self, manner: Manner) -> Result<Token, Verdict> {
        let hold = |why: String| Verdict::Hold { why: format!("there is no token: {why}") };
        let config = &self.config;
        let id = read("client_id_file", &config.client_id).map_err(hold)?;
        let secret = read("client_secret_file", &config.client_secret).map_err(hold)?;
        // Made anew each time, once in the life of a token: its certificates may have changed.
        let client = client(config).map_err(|error| hold(error.to_string()))?;
        let scope = config.scopes.join(" ");
        let mut form = vec![("grant_type", "client_credentials")];
        form.extend((!scope.is_empty()).then_some(("scope", &*scope)));
        form.extend(config.endpoint_params.iter().map(|(name, value)| (&**name, value.reveal())));
        let mut request = client.post(&config.token_url).header(ACCEPT, "application/json");
        request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        match manner {
            Manner::Header => request = request.header(AUTHORIZATION, basic(&id, &secret).map_err(hold)?),
            Manner::Body => form.extend([("client_id", id.reveal()), ("client_secret", secret.reveal())]),
        }
        let asked_at = Instant::now();
        match request.body(encoded(&form)).send().await {
            Ok(response) => self.understand(&read_answer(response).await, asked_at),
            Err(error) => Err(match silence(&error) {
                Verdict::Silence { why, .. } => {
                    Verdict::Silence { trouble: Trouble::Unreachable, why: format!("there is no token: {why}") }
                }
                held => held,
            }),
        }
    }

    fn understand(&self, answer: &HttpAnswer, asked_at: Instant) -> Result<Token, Verdict> {
        let said = serde_json::from_slice::<Value>(&answer.body).unwrap_or_default();
        let text = |key: &str| said.get(key).and_then(Value::as_str).unwrap_or_default();
        let why = |what: &str| {
            let words = [text("error"), text("error_description")].join(" ");
            printable(&format!("there is no token: {what} {} {words}", answer.status))
        };
        match answer.status {
            200..=299 if said.is_object() => {}
            200..=299 => {
                // A page in its place: a captive portal.
                let why = why("the server of tokens answered with something else");
                return Err(Verdict::Silence { trouble: Trouble::Portal, why });
            }
            408 | 429 | 500..=599 => {
                let after = retry_after(answer, self.clock.now().wall_ns);
                return Err(Verdict::Later { after, why: why("the server of tokens has none now:") });
            }
            _ => return Err(Verdict::Hold { why: why("the server of tokens refuses us:") }),
        }
        let token = text("access_token");
        if token.is_empty() || HeaderValue::from_str(token).is_err() {
            return Err(Verdict::Hold { why: why("the answer has no access_token:") });
        }
        let kind = match text("token_type") {
            "" => "Bearer",
            kind if kind.eq_ignore_ascii_case("bearer") => "Bearer",
            kind if kind.eq_ignore_ascii_case("basic") => "Basic",
            kind => kind,
        };
        let value = format!("{kind} {token}");
        if HeaderValue::from_str(&value).is_err() {
            return Err(Verdict::Hold { why: why("the answer's token_type cannot stand in a header:") });
        }
        let life = said.get("expires_in").and_then(seconds).map_or(ENDLESS, Duration::from_secs).min(ENDLESS);
        // A token that lives for a minute is not asked for anew at every upload.
        let margin = self.config.expiry_buffer.min(life / 2);
        Ok(Token { value: Secret::new(value), renew_at: asked_at + (life - margin), ends_at: asked_at + life })
    }
}

fn client(config: &OAuth2Config) -> Result<Client, ClientError> {
    install_provider();
    let url = Url::parse(&config.token_url)
        .map_err(|e| ClientError::Setting(format!("token_url `{}` is not a URL: {e}", config.token_url)))?;
    let builder = Client::builder()
        .user_agent(user_agent())
        .redirect(redirect::Policy::none())
        .timeout(config.timeout)
        .connect_timeout(config.timeout.min(CONNECT_MAX));
    with_tls(builder, &config.tls, url.scheme() == "https")?.build().map_err(|e| setting("client", e))
}

fn read(what: &str, credential: &Credential) -> Result<Secret, String> {
    let path = match credential {
        Credential::Given(given) => return Ok(given.clone()),
        Credential::File(path) => path,
    };
    let at = |why: String| format!("{what} `{}`: {why}", path.display());
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(CREDENTIAL_MAX).read_to_string(&mut text));
    read.map_err(|e| at(e.to_string()))?;
    match text.trim() {
        "" => Err(at("it is empty".to_owned())),
        text => Ok(Secret::new(text)),
    }
}

/// RFC 6749 §2.3.1: both are encoded as in a form before they are joined.
fn basic(id: &Secret, secret: &Secret) -> Result<HeaderValue, String> {
    let part = |secret: &Secret| encoded(&[(secret.reveal(), "")]).trim_end_matches('=').to_owned();
    let both = STANDARD.encode(format!("{}:{}", part(id), part(secret)));
    let mut value = HeaderValue::from_str(&format!("Basic {both}")).map_err(|e| e.to_string())?;
    value.set_sensitive(true);
    Ok(value)
}

/// `application/x-www-form-urlencoded`.
fn encoded(form: &[(&str, &str)]) -> String {
    let mut url = Url::parse("http://form/").expect("it is one");
    url.query_pairs_mut().extend_pairs(form);
    url.query().unwrap_or_default().to_owned()
}

/// A number, or a text with one, as some servers write it.
fn seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str().and_then(|text| text.trim().parse().ok()))
}

async fn read_answer(mut response: reqwest::Response) -> HttpAnswer {
    let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let mut answer = HttpAnswer {
        status: response.status().as_u16(),
        retry_after: header("retry-after"),
        date: header("date"),
        ..HttpAnswer::default()
    };
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk[..chunk.len().min(BODY_MAX - body.len())]);
        if body.len() == BODY_MAX {
            break;
        }
    }
    answer.body = body.into();
    answer
}
