//! How an upload travels: what the uplink asks of OTLP/HTTP and OTLP/gRPC.

use super::pack::Body;
use super::verdict::Verdict;
use crate::otlp::Signal;
use futures_util::future::BoxFuture;
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
    /// Its name.
    pub upload_id: String,
}

/// Takes uploads to the far end and says what it answered.
pub trait Transport: Send + Sync + fmt::Debug {
    /// Sends one upload. Ends within the operator's `timeout`, the reading of the answer included; dropping the future
    /// gives up the request.
    fn send(&self, parcel: Parcel) -> BoxFuture<'static, Verdict>;
}
