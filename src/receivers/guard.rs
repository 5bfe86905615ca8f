//! Who asks clients for their credentials: an authenticator, as a server sees it.

use futures_util::future::BoxFuture;
use std::fmt;
use std::sync::Arc;

/// What an authenticator tells of a client it knows, by name: `username`.
pub type Told = Vec<(&'static str, String)>;

/// What a client hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// Come in.
    In(Told),
    /// The credentials are missing or not right.
    Out,
    /// They could not be checked now: come back.
    Busy,
}

/// Given the value of the header.
type Ask = dyn Fn(&[u8]) -> BoxFuture<'static, Admission> + Send + Sync;

/// An authenticator; `app` makes it of an extension.
#[derive(Clone)]
pub struct Guard {
    /// Where the credentials stand, in lower case.
    pub header: Arc<str>,
    /// As `WWW-Authenticate` names what is wanted: `Bearer`, `Basic`.
    pub scheme: &'static str,
    ask: Arc<Ask>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("header", &self.header).finish_non_exhaustive()
    }
}

impl Guard {
    /// Asks for what stands in `header`.
    pub fn new(
        header: &str,
        scheme: &'static str,
        ask: impl Fn(&[u8]) -> BoxFuture<'static, Admission> + Send + Sync + 'static,
    ) -> Guard {
        Guard { header: header.to_ascii_lowercase().into(), scheme, ask: Arc::new(ask) }
    }

    /// Whether this client may come in. Without the header it may not.
    pub async fn admits(&self, value: Option<&[u8]>) -> Admission {
        match value {
            Some(value) => (self.ask)(value).await,
            None => Admission::Out,
        }
    }
}
