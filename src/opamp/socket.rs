//! How a message travels over a WebSocket: one connection, on which either side may speak.
//!
//! ```text
//! say ── order ──▶ attendant ──▶ 0 · AgentToServer, and a ping        ──▶ server
//!     ◀─ answer ──     │     ◀── 0 · ServerToAgent; a pong and no word ◀──
//!                      └─ pushed ──▶ what is said without being asked, and that the connection is gone
//! ```
//!
//! The connection is made by the client of HTTP, so that proxies, TLS, headers and credentials are those of every other request; what
//! follows the handshake (RFC 6455) is tungstenite's.
//!
//! What always holds:
//! * Every call ends: a server that takes nothing, or says nothing, has [`PATIENCE`]. One that answers pings and has no word for a message has
//!   taken it, as the protocol lets it.
//! * A message that was not taken ends the connection; the next one is said over a new one, when `talk` says so.
//! * A server is read at most twenty times a second, and 64 KiB at a time: the rest waits in its own buffers.

use super::answer::{Answer, Heard};
use super::line::{Clients, INSTANCE, Line};
use super::uid::Uid;
use crate::base::{Clock, Dice};
use crate::registrar::api::MakeClient;
use crate::uplink::link::Trouble;
use crate::uplink::otlp_http::Switched;
use crate::uplink::verdict::{BODY_MAX, HttpAnswer};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use http::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderMap, HeaderName};
use reqwest::Upgraded;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex as Turn, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

/// How long a message may be under way, and its answer after it.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// After a pong: a server that has a word for the message says it by then.
const WORD: Duration = Duration::from_secs(2);
/// Between two frames that are read.
const BREATH: Duration = Duration::from_millis(50);
/// Words of a server that wait to be taken in.
const PUSHED_MAX: usize = 4;
/// How long the other side may take to close.
const CLOSING: Duration = Duration::from_secs(1);

/// See the module.
pub struct Socket {
    clients: Arc<Clients>,
    clock: Clock,
    patience: Duration,
    /// To the attendant of the connection there is.
    orders: Arc<Mutex<Option<mpsc::Sender<Order>>>>,
    push: mpsc::Sender<Answer>,
    pushed: Arc<Turn<mpsc::Receiver<Answer>>>,
}

/// A message to be said.
struct Order {
    uid: Uid,
    message: Bytes,
    answer: oneshot::Sender<Answer>,
}

impl Socket {
    /// By these clients, which speak HTTP/1.1 and whose endpoint is the server's.
    #[must_use]
    pub fn new(make: MakeClient, clock: Clock, patience: Duration) -> Socket {
        let (push, pushed) = mpsc::channel(PUSHED_MAX);
        Socket {
            clients: Arc::new(Clients::new(make)),
            clock,
            patience,
            orders: Arc::default(),
            push,
            pushed: Arc::new(Turn::new(pushed)),
        }
    }
}

impl Line for Socket {
    fn say(&self, uid: Uid, message: Bytes) -> BoxFuture<'static, Answer> {
        let (clients, clock, patience) = (self.clients.clone(), self.clock.clone(), self.patience);
        let (orders, push) = (self.orders.clone(), self.push.clone());
        async move {
            let there = orders.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let connection = match there.filter(|connection| !connection.is_closed()) {
                Some(connection) => connection,
                None => match connect(&clients, uid, clock.now().wall_ns).await {
                    Ok(stream) => {
                        let (connection, ordered) = mpsc::channel(1);
                        let attendant = Attendant { stream, uid, patience, asked: None, push };
                        tokio::spawn(attendant.attend(ordered));
                        *orders.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.clone());
                        connection
                    }
                    Err(answer) => {
                        if matches!(answer.heard, Heard::Silent(_)) {
                            clients.doubt();
                        }
                        return answer;
                    }
                },
            };
            let (answer, heard) = oneshot::channel();
            let order = Order { uid, message, answer };
            let said = async {
                connection.send(order).await.ok()?;
                heard.await.ok()
            };
            // Twice: to send it, and to hear of it; the attendant itself gives up before.
            let answer = timeout(patience * 3, said).await.ok().flatten();
            let answer = answer.unwrap_or_else(|| silent("connection was lost"));
            if answer.heard != Heard::Taken {
                // Without orders the attendant closes.
                orders.lock().unwrap_or_else(PoisonError::into_inner).take();
            }
            answer
        }
        .boxed()
    }

    fn pushed(&self) -> BoxFuture<'static, Answer> {
        let pushed = self.pushed.clone();
        async move {
            match pushed.lock().await.recv().await {
                Some(answer) => answer,
                // We hold a sender ourselves, so there is no end.
                None => std::future::pending().await,
            }
        }
        .boxed()
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").finish_non_exhaustive()
    }
}

fn silent(why: &str) -> Answer {
    Answer::of(Heard::Silent(Trouble::NoAnswer), why)
}

/// What a server must answer to this key: RFC 6455, 4.2.2.
#[must_use]
pub fn accept_of(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

async fn connect(clients: &Clients, uid: Uid, wall_ns: u64) -> Result<WebSocketStream<Upgraded>, Answer> {
    let client = clients.client().map_err(|verdict| Answer::of_verdict(&verdict))?;
    let key = STANDARD.encode(Dice::shaken().id128().to_be_bytes());
    let text = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
    let headers: [(HeaderName, HeaderValue); 5] = [
        (CONNECTION, HeaderValue::from_static("Upgrade")),
        (UPGRADE, HeaderValue::from_static("websocket")),
        (SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")),
        (SEC_WEBSOCKET_KEY, text(&key)),
        (INSTANCE, text(&uid.to_string())),
    ];
    match client.switch(headers.into_iter().collect()).await {
        Err(verdict) => Err(Answer::of_verdict(&verdict)),
        Ok(Switched::No(answer)) => Err(refused(&answer, uid, wall_ns)),
        Ok(Switched::Yes(head, _)) if !agrees(&head, &key) => {
            Err(Answer::of(Heard::Refused, "the answer to the handshake is not that of a WebSocket"))
        }
        Ok(Switched::Yes(_, stream)) => {
            let config = WebSocketConfig::default()
                .read_buffer_size(4 << 10)
                .write_buffer_size(0)
                .max_message_size(Some(BODY_MAX))
                .max_frame_size(Some(BODY_MAX));
            Ok(WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await)
        }
    }
}

/// An answer to the handshake that is none.
fn refused(answer: &HttpAnswer, uid: Uid, wall_ns: u64) -> Answer {
    let told = Answer::of_http(answer, uid, wall_ns);
    match told.heard {
        Heard::Taken => Answer::of(Heard::Refused, "200: the server does not speak WebSocket at this address"),
        _ => told,
    }
}

/// Nothing that we did not ask for, and the proof that the key was read.
fn agrees(head: &HeaderMap, key: &str) -> bool {
    let is = |name: HeaderName, wanted: &str| {
        head.get(name).and_then(|value| value.to_str().ok()).is_some_and(|value| value.eq_ignore_ascii_case(wanted))
    };
    let proof = head.get(SEC_WEBSOCKET_ACCEPT).is_some_and(|value| value.as_bytes() == accept_of(key).as_bytes());
    proof && is(UPGRADE, "websocket") && !head.contains_key(SEC_WEBSOCKET_EXTENSIONS)
}

/// Whoever has a connection.
struct Attendant {
    stream: WebSocketStream<Upgraded>,
    /// By which the agent spoke last.
    uid: Uid,
    patience: Duration,
    asked: Option<Asked>,
    push: mpsc::Sender<Answer>,
}

/// A message that was said.
struct Asked {
    answer: oneshot::Sender<Answer>,
    /// Without an answer it is silence then; or taken, if the ping that came after it was answered.
    until: Instant,
    is_read: bool,
}

impl Attendant {
    async fn attend(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            // A minute, when nothing is waited for: then it comes round in vain.
            let until =
                self.asked.as_ref().map_or_else(|| Instant::now() + Duration::from_secs(60), |asked| asked.until);
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => {
                        if let Err(why) = self.say(order).await {
                            return self.lost(&why).await;
                        }
                    }
                    None => {
                        drop(timeout(CLOSING, self.stream.close(None)).await);
                        return;
                    }
                },
                frame = self.stream.next() => {
                    match self.read(frame).await {
                        Ok(()) => sleep(BREATH).await,
                        Err(why) => return self.lost(&why).await,
                    }
                }
                () = sleep_until(until), if self.asked.is_some() => {
                    let Some(asked) = self.asked.take() else { continue };
                    let answer = if asked.is_read { Answer::of(Heard::Taken, "") } else { silent("timed out") };
                    let is_over = answer.heard != Heard::Taken;
                    // Whoever asked has gone, if this fails.
                    let _ = asked.answer.send(answer);
                    if is_over {
                        return;
                    }
                }
            }
        }
    }

    async fn say(&mut self, order: Order) -> Result<(), String> {
        self.uid = order.uid;
        let mut framed = BytesMut::with_capacity(order.message.len() + 1);
        framed.extend_from_slice(&[0]);
        framed.extend_from_slice(&order.message);
        let until = Instant::now() + self.patience;
        self.asked = Some(Asked { answer: order.answer, until, is_read: false });
        let sent = async {
            self.stream.feed(Message::Binary(framed.freeze())).await?;
            self.stream.feed(Message::Ping(Bytes::new())).await?;
            self.stream.flush().await
        };
        match timeout(self.patience, sent).await {
            Ok(sent) => sent.map_err(|error| in_words(&error)),
            Err(_) => Err("server does not read".to_owned()),
        }
    }

    async fn read(&mut self, frame: Option<Result<Message, Error>>) -> Result<(), String> {
        match frame {
            Some(Ok(Message::Binary(bytes))) => {
                let answer = Answer::of_message(unframed(&bytes), self.uid);
                self.give(answer).await
            }
            Some(Ok(Message::Text(_))) => {
                self.give(Answer::of(Heard::Refused, "a text, where messages of OpAMP are binary")).await
            }
            Some(Ok(Message::Pong(_))) => {
                if let Some(asked) = self.asked.as_mut().filter(|asked| !asked.is_read) {
                    (asked.is_read, asked.until) = (true, Instant::now() + WORD.min(self.patience));
                }
                Ok(())
            }
            // Its pong is written by the next thing that is done.
            Some(Ok(Message::Ping(_))) => match timeout(self.patience, self.stream.flush()).await {
                Ok(flushed) => flushed.map_err(|error| in_words(&error)),
                Err(_) => Err("server does not read".to_owned()),
            },
            Some(Ok(Message::Close(frame))) => {
                let words = frame.map(|frame| format!(": {} {}", u16::from(frame.code), frame.reason));
                Err(format!("server closed the connection{}", words.unwrap_or_default()))
            }
            Some(Ok(Message::Frame(_))) => Ok(()),
            Some(Err(error)) => Err(in_words(&error)),
            None => Err("server closed the connection".to_owned()),
        }
    }

    /// To whoever asked, or as news.
    async fn give(&mut self, answer: Answer) -> Result<(), String> {
        match self.asked.take() {
            Some(asked) => {
                let _ = asked.answer.send(answer);
                Ok(())
            }
            None => match timeout(self.patience, self.push.send(answer)).await {
                Ok(Ok(())) => Ok(()),
                _ => Err("nobody takes in what the server says".to_owned()),
            },
        }
    }

    async fn lost(&mut self, why: &str) {
        // Nobody is there to be told, if this fails.
        let _ = self.give(silent(why)).await;
        // Who closed is answered; where nothing is left to be closed this ends at once.
        drop(timeout(CLOSING, self.stream.close(None)).await);
    }
}

/// A message without the header before it, a zero; early servers send none, and no message begins with a zero.
fn unframed(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(&[0]).unwrap_or(bytes)
}

fn in_words(error: &Error) -> String {
    match error {
        Error::Capacity(_) => format!("a message of more than {BODY_MAX} bytes"),
        error => error.to_string(),
    }
}
