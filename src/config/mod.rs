//! From files and variables to checked settings.

mod id;
mod net;
pub mod problems;
mod tls;
pub mod tree;
mod value;
mod yaml;

pub use id::{BadId, Id};
pub use net::{BODY_MAX, Cors, Headers, HttpServer};
pub use tls::{Pem, TlsClient, TlsCommon, TlsServer, TlsVersion};
pub use value::{Any, Listen, Pattern, Secret};
