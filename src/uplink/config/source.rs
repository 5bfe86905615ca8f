//! `interface` and `local_address` of an exporter, ours: where its connections leave from, on a gateway with several links.

use crate::config::Section;
use std::io;
use std::net::IpAddr;
use tokio::net::TcpSocket;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceConfig {
    /// `interface`: connections leave by this one alone, whatever the routes say. None: by the routes.
    pub interface: Option<String>,
    /// `local_address`: connections come from this address. None: from that of the link they leave by.
    pub local_address: Option<IpAddr>,
}

/// Longest name of an interface: IFNAMSIZ with its end.
const NAME_MAX: usize = 15;

impl SourceConfig {
    /// Reads the two keys.
    pub(super) fn read(s: &Section<'_>) -> SourceConfig {
        let interface = s.text_if_given("interface");
        let is_name =
            |name: &String| name.len() <= NAME_MAX && !name.contains(['/', ':']) && !name.contains(char::is_whitespace);
        s.unless(interface.as_ref().is_none_or(is_name), "interface", || "is not the name of an interface".to_owned());
        let address = s.text_if_given("local_address");
        let local_address = address.as_ref().and_then(|text| text.parse().ok());
        s.unless(address.is_none() || local_address.is_some(), "local_address", || {
            format!("`{}` is not an address", address.unwrap_or_default())
        });
        SourceConfig { interface, local_address }
    }

    /// Whether we may choose the interface. One that is not there may come.
    ///
    /// # Errors
    /// Why we may not.
    pub fn check(&self) -> Result<(), String> {
        let Some(interface) = &self.interface else { return Ok(()) };
        match TcpSocket::new_v4().and_then(|socket| socket.bind_device(Some(interface.as_bytes()))) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(format!(
                "interface: `{interface}` cannot be chosen: {error}; before Linux 5.7 that takes CAP_NET_RAW (systemd: AmbientCapabilities=CAP_NET_RAW); local_address does not"
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::try_out;

    #[test]
    #[rustfmt::skip]
    fn a_source_is_an_interface_or_an_address() {
        for (yaml, told) in [
            ("{}",                                        ""),
            ("{interface: wwan0, local_address: '::1'}",  ""),
            ("{interface: 'a b'}",                        "is not the name of an interface"),
            ("{interface: an-interface-with-a-long-name}", "is not the name of an interface"),
            ("{local_address: '10.0.0.1:80'}",            "`10.0.0.1:80` is not an address"),
        ] {
            assert_eq!(try_out(yaml, &[], SourceConfig::read).1, told, "{yaml}");
        }
    }
}
