//! From files and variables to checked settings.

mod expand;
mod host;
mod id;
mod load;
mod net;
pub mod problems;
mod reference;
mod section;
mod tls;
mod toml;
pub mod tree;
mod typed;
mod value;
mod yaml;

#[cfg(any(test, feature = "testing"))]
pub use host::Imagined;
pub use host::{FILE_MAX, Host, Machine};
pub use id::{BadId, Id};
pub use load::{Locations, load};
pub use net::{BODY_MAX, Cors, Headers, HttpServer, authenticator};
pub use section::{Reading, Section};
pub use tls::{Pem, TlsClient, TlsCommon, TlsServer, TlsVersion};
pub use typed::bad_pattern;
pub use value::{Any, Listen, Pattern, Secret};
