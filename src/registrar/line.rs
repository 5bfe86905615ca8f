//! How a letter travels: what the registrar asks of the two ways there are.

use super::answer::Answer;
use super::export;
use super::letter::Letter;
use crate::otlp::Signal;
use crate::uplink::pack::{Encoding, Packer};
use crate::uplink::transport::{Parcel, Transport};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::fmt;
use std::sync::Arc;

/// Takes letters to the platform and says what it answered. Every call ends, as an upload does.
pub trait Line: Send + Sync + fmt::Debug {
    /// Says one letter.
    fn say(&self, letter: &Letter) -> BoxFuture<'static, Answer>;
}

/// Makes a line, anew for each life and thread: connections belong to one.
pub type Lines = Arc<dyn Fn() -> Arc<dyn Line> + Send + Sync>;

/// The way through the collector: an upload like any other, of the exporter's own kind.
#[derive(Debug)]
pub struct Through {
    transport: Arc<dyn Transport>,
    encoding: Encoding,
    level: i32,
}

impl Through {
    /// By this transport, packed like this.
    #[must_use]
    pub fn new(transport: Arc<dyn Transport>, encoding: Encoding, level: i32) -> Through {
        Through { transport, encoding, level }
    }
}

impl Line for Through {
    fn say(&self, letter: &Letter) -> BoxFuture<'static, Answer> {
        let body = Packer::new(self.encoding, self.level).pack(&export::request(letter).into());
        let sent = self.transport.send(Parcel { signal: Signal::Metrics, body, upload_id: letter.upload_id() });
        async move { Answer::of_export(&sent.await) }.boxed()
    }
}
