//! How a message travels: over HTTP here, one request for each, whose answer is the server's; over a WebSocket in `socket.rs`.

use super::answer::{Answer, PROTOBUF};
use super::uid::Uid;
use crate::base::Clock;
use crate::registrar::api::MakeClient;
use crate::uplink::otlp_http::OtlpHttp;
use crate::uplink::pack::{Encoding, LEVEL, Packer};
use crate::uplink::verdict::Verdict;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Takes messages to the server and says what it answered. Every call ends.
pub trait Line: Send + Sync + fmt::Debug {
    /// Says one message.
    fn say(&self, uid: Uid, message: Bytes) -> BoxFuture<'static, Answer>;

    /// What the server says next without being asked; never, where it cannot.
    fn pushed(&self) -> BoxFuture<'static, Answer> {
        std::future::pending().boxed()
    }
}

/// Makes a line, anew for each life and thread: connections belong to one.
pub type Lines = Arc<dyn Fn() -> Arc<dyn Line> + Send + Sync>;

/// Messages below this are not worth packing, bytes.
const PACK_MIN: usize = 1_024;
/// Lets a server, or what stands before it, tell agents apart without a look into the body.
pub const INSTANCE: HeaderName = HeaderName::from_static("opamp-instance-uid");

/// Makes clients. After a silence one is made anew: connections of the former may lead nowhere, and the files of its certificates
/// may have changed. While it cannot be made, the former one serves.
pub struct Clients {
    make: MakeClient,
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    client: Option<OtlpHttp>,
    is_stale: bool,
}

impl Clients {
    /// By this.
    #[must_use]
    pub fn new(make: MakeClient) -> Clients {
        Clients { make, made: Mutex::default() }
    }

    /// The one that serves now.
    ///
    /// # Errors
    /// What it means that there is none.
    pub fn client(&self) -> Result<OtlpHttp, Verdict> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = made.client.as_ref().filter(|_| !made.is_stale) {
            return Ok(client.clone());
        }
        match ((self.make)(), &made.client) {
            (Ok(client), _) => {
                *made = Made { client: Some(client.clone()), is_stale: false };
                Ok(client)
            }
            (Err(_), Some(former)) => Ok(former.clone()),
            (Err(error), None) => Err(Verdict::Hold { why: error.to_string() }),
        }
    }

    /// The one that serves was not answered.
    pub fn doubt(&self) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).is_stale = true;
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").finish_non_exhaustive()
    }
}

/// The way over HTTP.
#[derive(Debug)]
pub struct Polling {
    clients: Arc<Clients>,
    clock: Clock,
}

impl Polling {
    /// By these clients, whose endpoint is the server's.
    #[must_use]
    pub fn new(make: MakeClient, clock: Clock) -> Polling {
        Polling { clients: Arc::new(Clients::new(make)), clock }
    }
}

impl Line for Polling {
    fn say(&self, uid: Uid, message: Bytes) -> BoxFuture<'static, Answer> {
        let client = match self.clients.client() {
            Ok(client) => client,
            Err(verdict) => return std::future::ready(Answer::of_verdict(&verdict)).boxed(),
        };
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(PROTOBUF))]);
        if let Ok(uid) = HeaderValue::from_str(&uid.to_string()) {
            headers.insert(INSTANCE, uid);
        }
        // Every server takes gzip (opamp-spec, "Plain HTTP Transport"). Answers are asked for as they are: they are short, and what
        // is packed may become long.
        let body = if message.len() < PACK_MIN {
            message
        } else {
            let packed = Packer::new(Encoding::Gzip, LEVEL).pack(&message);
            if let Some(name) = packed.encoding.name() {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name));
            }
            packed.bytes
        };
        let asked = client.ask("", headers, body);
        let (clients, clock) = (self.clients.clone(), self.clock.clone());
        async move {
            match asked.await {
                Ok(answer) => Answer::of_http(&answer, uid, clock.now().wall_ns),
                Err(verdict) => {
                    if matches!(verdict, Verdict::Silence { .. }) {
                        clients.doubt();
                    }
                    Answer::of_verdict(&verdict)
                }
            }
        }
        .boxed()
    }
}
