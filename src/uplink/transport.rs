//! How an upload travels: what the uplink asks of OTLP/HTTP and OTLP/gRPC.

use super::assemble::Piece;
use super::pack::{Body, Encoding};
use super::verdict::Verdict;
use crate::otlp::Signal;
use crate::spool::Lane;
use futures_util::future::BoxFuture;
use reqwest::header::HeaderValue;
use std::fmt;

/// The header (or metadata key) that bears an upload's id, the same whenever it is offered again.
pub const UPLOAD_ID: &str = "x-tfo-upload-id";

/// One upload, ready to go.
#[derive(Debug, Clone)]
pub struct Parcel {
    /// What it carries.
    pub signal: Signal,
    /// The request.
    pub body: Body,
    /// Its name; empty for a question.
    pub upload_id: String,
    /// Which items it carries; `None` for what never waited in a lane.
    pub origin: Option<Origin>,
}

/// Items of a lane.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The lane.
    pub lane: Lane,
    /// Its items, in the order of the request.
    pub pieces: Vec<Piece>,
}

impl Parcel {
    /// An empty request: is anybody there who takes this signal?
    #[must_use]
    pub fn question(signal: Signal) -> Parcel {
        let body = Body { encoding: Encoding::Identity, ..Body::default() };
        Parcel { signal, body, upload_id: String::new(), origin: None }
    }

    /// Its name as a header. It is made of a uuid and numbers; should it ever not be one, the upload goes without.
    pub(super) fn id(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.upload_id).ok().filter(|id| !id.is_empty())
    }
}

/// Takes uploads to the far end and says what it answered.
pub trait Transport: Send + Sync + fmt::Debug {
    /// Sends one upload. Ends within the operator's `timeout`, the reading of the answer included; dropping the future
    /// gives up the request.
    fn send(&self, parcel: Parcel) -> BoxFuture<'static, Verdict>;
}
