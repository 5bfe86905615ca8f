//! How a message travels: over HTTP, one request for each, whose answer is the server's.

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
}

/// Makes a line, anew for each life and thread: connections belong to one.
pub type Lines = Arc<dyn Fn() -> Arc<dyn Line> + Send + Sync>;

/// Messages below this are not worth packing, bytes.
const PACK_MIN: usize = 1_024;
/// Lets a server, or what stands before it, tell agents apart without a look into the body.
const INSTANCE: HeaderName = HeaderName::from_static("opamp-instance-uid");

/// The way over HTTP. After a silence a client is made anew: connections of the former may lead nowhere, and the files of its
/// certificates may have changed. While it cannot be made, the former one serves.
pub struct Polling {
    make: MakeClient,
    client: Arc<Mutex<Made>>,
    clock: Clock,
}

#[derive(Default)]
struct Made {
    client: Option<OtlpHttp>,
    is_stale: bool,
}

impl Polling {
    /// By these clients, whose endpoint is the server's.
    #[must_use]
    pub fn new(make: MakeClient, clock: Clock) -> Polling {
        Polling { make, client: Arc::default(), clock }
    }

    fn client(&self) -> Result<OtlpHttp, Verdict> {
        let mut made = self.client.lock().unwrap_or_else(PoisonError::into_inner);
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
}

impl Line for Polling {
    fn say(&self, uid: Uid, message: Bytes) -> BoxFuture<'static, Answer> {
        let client = match self.client() {
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
        let (kept, clock) = (self.client.clone(), self.clock.clone());
        async move {
            match asked.await {
                Ok(answer) => Answer::of_http(&answer, uid, clock.now().wall_ns),
                Err(verdict) => {
                    if matches!(verdict, Verdict::Silence { .. }) {
                        kept.lock().unwrap_or_else(PoisonError::into_inner).is_stale = true;
                    }
                    Answer::of_verdict(&verdict)
                }
            }
        }
        .boxed()
    }
}

impl fmt::Debug for Polling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Polling").finish_non_exhaustive()
    }
}
