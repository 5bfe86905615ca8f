//! Places to listen at, bound before anything else is done: clients queue in the kernel while the spool is opened.

use crate::config::Listen;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::sync::Arc;
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
    bind_beside(what, at, &[])
}

/// [`bind`], although these of ours have the port, at other addresses: `127.0.0.1:4317` beside `0.0.0.0:4317`, which is
/// given up later, so that there is always somebody who listens.
///
/// # Errors
/// As [`bind`].
pub fn bind_beside(what: &str, at: &Listen, ours: &[Arc<TcpListener>]) -> Result<(TcpListener, SocketAddr), NoPort> {
    let no = |source| NoPort { what: what.to_owned(), at: at.to_string(), source };
    let host = if at.host.is_empty() { "::" } else { &at.host };
    let addresses = (host, at.port).to_socket_addrs().map_err(no)?;
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
    // An empty host means every interface: the IPv6 wildcard takes IPv4 too, unless the machine has no IPv6.
    let fallback = at.host.is_empty().then(|| SocketAddr::from(([0, 0, 0, 0], at.port)));
    for address in addresses.chain(fallback) {
        let prepared = listen(address, ours).and_then(|listener| {
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

/// Clients that wait to be accepted; the kernel's own limit is `somaxconn`, 4,096.
const BACKLOG: i32 = 1_024;

fn listen(address: SocketAddr, ours: &[Arc<TcpListener>]) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?; // connections of an earlier life may linger
    if !ours.is_empty() {
        // Linux shares a port among sockets of one user that all ask for it. A second agent does not ask, and hears that
        // the port is taken.
        ours.iter().try_for_each(|socket| sockopt::set_socket_reuseport(socket, true))?;
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
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

    /// Goal: a reload may go from one interface to all and back without a moment in which nobody listens, and a second
    /// agent still hears that the port is taken.
    #[test]
    fn a_port_is_shared_with_our_own_sockets_alone() {
        for (before, after) in [("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0"), ("", "127.0.0.1")] {
            let (ours, address) = bind("test", &Listen::new(before, 0)).expect("a port");
            let (ours, to) = (Arc::new(ours), Listen::new(after, address.port()));
            assert!(bind("test", &to).is_err(), "{before} to {after}: it is taken");
            let (beside, _) = bind_beside("test", &to, std::slice::from_ref(&ours)).expect("it is ours");
            assert!(bind("test", &to).is_err() && bind("test", &Listen::new(before, to.port)).is_err());
            drop(ours);
            assert!(bind("test", &to).is_err(), "the other one is still there");
            drop(beside);
            assert!(bind("test", &to).is_ok());
        }
    }
}
