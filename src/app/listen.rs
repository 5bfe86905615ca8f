//! Places to listen at, bound before anything else is done: clients queue in the kernel while the spool is opened.

use crate::config::Listen;
use rustix::net::sockopt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::time::Duration;

/// A client that says nothing for so long is asked by its kernel whether it is still there.
const QUIET: Duration = Duration::from_secs(60);
/// It is asked so often more, this far apart, and then given up.
const ASKED: u32 = 3;
const ASK_EVERY: Duration = Duration::from_secs(10);
/// What we sent and nobody acknowledged for so long ends the connection, ms.
const UNACKNOWLEDGED_MS: u32 = 60_000;

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
        let prepared = TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            outlive_no_client(&listener)?;
            Ok((listener.local_addr()?, listener))
        });
        match prepared {
            Ok((address, listener)) => return Ok((listener, address)),
            Err(e) => last = e,
        }
    }
    Err(no(last))
}

/// A device that lost its power says no farewell; its connection would be held for ever. Linux gives these settings of a
/// listener to every connection it accepts (`sk_clone_lock`), so one place serves all servers.
fn outlive_no_client(listener: &TcpListener) -> io::Result<()> {
    sockopt::set_socket_keepalive(listener, true)?;
    sockopt::set_tcp_keepidle(listener, QUIET)?;
    sockopt::set_tcp_keepintvl(listener, ASK_EVERY)?;
    sockopt::set_tcp_keepcnt(listener, ASKED)?;
    sockopt::set_tcp_user_timeout(listener, UNACKNOWLEDGED_MS)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_connections_have_the_settings_of_their_listener() {
        let (listener, address) = bind("test", &Listen::new("127.0.0.1", 0)).expect("a port");
        let _client = std::net::TcpStream::connect(address).expect("it listens");
        listener.set_nonblocking(false).expect("a socket");
        let (accepted, _) = listener.accept().expect("somebody came");
        assert_eq!(sockopt::socket_keepalive(&accepted), Ok(true));
        assert_eq!(sockopt::tcp_keepidle(&accepted), Ok(QUIET));
        assert_eq!(sockopt::tcp_user_timeout(&accepted), Ok(UNACKNOWLEDGED_MS));
    }
}
