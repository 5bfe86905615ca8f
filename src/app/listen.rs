//! Places to listen at, bound before anything else is done: clients queue in the kernel while the spool is opened.

use crate::config::Listen;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};

/// Why a port could not be had.
#[derive(Debug, thiserror::Error)]
#[error("{what} cannot listen at {at}: {source}")]
pub struct NoPort {
    /// Who wanted it.
    pub what: String,
    /// Where.
    pub at: String,
    /// Why not.
    pub source: io::Error,
}

/// Binds and listens; the address is the one that was really taken (port 0 lets the kernel choose).
///
/// # Errors
/// When the name does not resolve or the port is taken.
pub fn bind(what: &str, at: &Listen) -> Result<(TcpListener, SocketAddr), NoPort> {
    let no = |source| NoPort { what: what.to_owned(), at: at.to_string(), source };
    let host = if at.host.is_empty() { "::" } else { &at.host };
    let addresses = (host, at.port).to_socket_addrs().map_err(no)?;
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
    // An empty host means every interface: the IPv6 wildcard takes IPv4 too, unless the machine has no IPv6.
    let fallback = at.host.is_empty().then(|| SocketAddr::from(([0, 0, 0, 0], at.port)));
    for address in addresses.chain(fallback) {
        match TcpListener::bind(address).and_then(|l| l.set_nonblocking(true).and_then(|()| Ok((l.local_addr()?, l)))) {
            Ok((address, listener)) => return Ok((listener, address)),
            Err(e) => last = e,
        }
    }
    Err(no(last))
}
