//! The HTTP client over TLS: whom it trusts, who it says it is, and which HTTP it speaks.

use super::world::{config, run};
use crate::base::Clock;
use crate::config::{Pem, Secret, TlsVersion};
use crate::otlp::Signal;
use crate::testing::far_end::{FarEnd, Script};
use crate::testing::numbered::{Numbered, Source};
use crate::uplink::client::Maker;
use crate::uplink::config::OtlpHttpConfig;
use crate::uplink::link::Trouble;
use crate::uplink::otlp_http::{HttpRecipe, OtlpHttp};
use crate::uplink::pack::{Encoding, LEVEL, Packer};
use crate::uplink::transport::{Parcel, Transport as _};
use crate::uplink::verdict::Verdict;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const CA: &str = include_str!("tls/ca.pem");
const SERVER: &str = include_str!("tls/server.pem");
const SERVER_KEY: &str = include_str!("tls/server.key");
const CLIENT: &str = include_str!("tls/client.pem");
const CLIENT_KEY: &str = include_str!("tls/client.key");

fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("our own file")
}

/// What the front saw of each handshake that came to its end: the name asked for, and the protocol agreed on.
pub(super) type Handshakes = Arc<Mutex<Vec<(Option<String>, Option<Vec<u8>>)>>>;

/// A TLS server in front of a far end; the port it listens at.
pub(super) async fn front(far_end: &FarEnd, clients: bool, alpn: &[&[u8]]) -> (u16, Handshakes) {
    front_of(far_end, clients, SERVER, SERVER_KEY, alpn).await
}

/// With another certificate.
pub(super) async fn front_with(far_end: &FarEnd, cert: &str, key: &str, alpn: &[&[u8]]) -> (u16, Handshakes) {
    front_of(far_end, false, cert, key, alpn).await
}

async fn front_of(far_end: &FarEnd, clients: bool, cert: &str, key: &str, alpn: &[&[u8]]) -> (u16, Handshakes) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3 is there");
    let builder = if clients {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(CA)).expect("our own authority");
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
        builder.with_client_cert_verifier(verifier.expect("it has a root"))
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("our own file");
    let mut server = builder.with_single_cert(vec![certificate(cert)], key).expect("they belong together");
    server.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let (seen, to) = (Handshakes::default(), far_end.addr());
    let told = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, told) = (acceptor.clone(), told.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let connection = stream.get_ref().1;
                let name = connection.server_name().map(str::to_owned);
                let protocol = connection.alpn_protocol().map(<[u8]>::to_vec);
                told.lock().expect("nobody panics in here").push((name, protocol));
                let mut to = TcpStream::connect(to).await.expect("the far end listens");
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut to).await;
            });
        }
    });
    (port, seen)
}

fn trusting(port: u16) -> OtlpHttpConfig {
    let mut config = config(&format!("https://localhost:{port}"));
    config.tls.common.ca = Some(Pem::Inline(Secret::new(CA)));
    config
}

async fn send(config: &OtlpHttpConfig) -> Verdict {
    let raw = Numbered::new(Signal::Logs, Source(1)).request(10).bytes.into();
    let body = Packer::new(Encoding::Gzip, LEVEL).pack(&raw);
    let parcel = Parcel { signal: Signal::Logs, body, upload_id: "x".to_owned(), origin: None };
    OtlpHttp::new(config, 4, Clock::system()).expect("a client").send(parcel).await
}

fn accepted(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Accepted { oddity: None, .. })
}

/// A handshake that fails is no connection, and says why.
fn refused(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Silence { trouble: Trouble::Unreachable, why } if why.contains("certificate"))
}

#[test]
fn only_a_server_of_the_trusted_authority_gets_data() {
    run(async {
        let far_end = FarEnd::start(Script::new()).expect("a port");
        let (port, _) = front(&far_end, false, &[b"http/1.1"]).await;
        assert!(accepted(&send(&trusting(port)).await));

        let system_roots = config(&format!("https://localhost:{port}"));
        let verdict = send(&system_roots).await;
        assert!(refused(&verdict), "{verdict:?}");

        let wrong_name = OtlpHttpConfig { endpoint: Some(format!("https://127.0.0.1:{port}")), ..trusting(port) };
        let verdict = send(&wrong_name).await;
        assert!(refused(&verdict), "{verdict:?}");

        let mut blind = system_roots.clone();
        blind.tls.insecure_skip_verify = true;
        assert!(accepted(&send(&blind).await));

        let mut both = trusting(port);
        both.tls.include_system_ca_certs_pool = true;
        assert!(accepted(&send(&both).await));

        let mut old = trusting(port);
        old.tls.common.max_version = Some(TlsVersion::V12);
        assert!(matches!(send(&old).await, Verdict::Silence { trouble: Trouble::Unreachable, .. }));
        assert_eq!(far_end.seen().len(), 3);
    });
}

#[test]
fn a_server_that_asks_who_we_are_is_told() {
    run(async {
        let far_end = FarEnd::start(Script::new()).expect("a port");
        let (port, _) = front(&far_end, true, &[b"http/1.1"]).await;
        let verdict = send(&trusting(port)).await;
        assert!(matches!(verdict, Verdict::Silence { .. }), "{verdict:?}");
        let mut known = trusting(port);
        known.tls.common.cert = Some(Pem::Inline(Secret::new(CLIENT)));
        known.tls.common.key = Some(Pem::Inline(Secret::new(CLIENT_KEY)));
        assert!(accepted(&send(&known).await));
        assert_eq!(far_end.seen().len(), 1);
    });
}

/// Goal: `server_name_override` is the name asked for and checked; the Host header and the address stay.
#[test]
fn the_server_may_go_by_another_name() {
    run(async {
        let far_end = FarEnd::start(Script::new()).expect("a port");
        let (port, seen) = front(&far_end, false, &[b"http/1.1"]).await;
        for host in ["localhost", "127.0.0.1"] {
            let mut config = OtlpHttpConfig { endpoint: Some(format!("https://{host}:{port}/base")), ..trusting(port) };
            config.tls.server_name_override = Some("collector.example".to_owned());
            send(&config).await;
            let request = far_end.seen().pop().expect("it came through");
            assert_eq!(request.header("host"), Some(&format!("{host}:{port}")[..]));
            assert_eq!(request.path, "/base/v1/logs");
        }
        let names: Vec<_> = seen.lock().expect("free").iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(names, vec![Some("collector.example".to_owned()); 2]);
        let mut stranger = trusting(port);
        stranger.tls.server_name_override = Some("stranger.example".to_owned());
        let verdict = send(&stranger).await;
        assert!(refused(&verdict), "{verdict:?}");
    });
}

#[test]
fn http_2_is_spoken_where_the_server_offers_it() {
    run(async {
        let far_end = FarEnd::start(Script::new()).expect("a port");
        for (offered, agreed) in [(&[&b"h2"[..], b"http/1.1"][..], &b"h2"[..]), (&[b"http/1.1"], b"http/1.1")] {
            let (port, seen) = front(&far_end, false, offered).await;
            send(&trusting(port)).await; // our far end speaks HTTP/1.1 only; the handshake is what is looked at
            let protocols: Vec<_> = seen.lock().expect("free").iter().map(|(_, protocol)| protocol.clone()).collect();
            assert_eq!(protocols, [Some(agreed.to_vec())]);
        }
    });
}

#[test]
fn what_cannot_be_read_is_named_at_the_start() {
    let build = |change: &dyn Fn(&mut OtlpHttpConfig)| {
        let mut config = config("https://localhost:1");
        change(&mut config);
        OtlpHttp::new(&config, 1, Clock::system()).expect_err("it cannot be built").to_string()
    };
    let file = build(&|config| config.tls.common.ca = Some(Pem::File("/no/such/ca.pem".into())));
    assert!(file.starts_with("cannot read ca_file `/no/such/ca.pem`: No such file"), "{file}");
    let empty = build(&|config| config.tls.common.ca = Some(Pem::Inline(Secret::new("nothing"))));
    assert_eq!(empty, "ca_file holds no certificate");
    let pair = build(&|config| {
        config.tls.common.cert = Some(Pem::Inline(Secret::new("nothing")));
        config.tls.common.key = Some(Pem::Inline(Secret::new(CLIENT_KEY)));
    });
    assert!(pair.starts_with("cert_file: "), "{pair}");
    assert!(!pair.contains("PRIVATE"), "{pair}");
}

/// Goal: an uplink that falls while its certificates are gone, or half written, goes on with those it had; new ones are
/// taken when they are good.
#[test]
fn certificates_that_are_gone_at_a_fall_cost_nothing() {
    run(async {
        let far_end = FarEnd::start(Script::new()).expect("a port");
        let (port, _) = front(&far_end, false, &[]).await;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, CA).expect("space");
        let mut config = config(&format!("https://localhost:{port}"));
        config.tls.common.ca = Some(Pem::File(path.clone()));
        let recipe = || HttpRecipe::new(&config, 4, Clock::system(), None);
        let maker = Arc::new(Maker::new(recipe()).expect("it is there"));
        let sends = async || {
            let raw = Numbered::new(Signal::Logs, Source(1)).request(1).bytes.into();
            let body = Packer::new(Encoding::Gzip, LEVEL).pack(&raw);
            let verdict =
                maker.make().send(Parcel { signal: Signal::Logs, body, upload_id: "1".to_owned(), origin: None }).await;
            matches!(verdict, Verdict::Accepted { .. })
        };
        assert!(sends().await);
        std::fs::remove_file(&path).expect("it is ours");
        assert!(sends().await, "gone");
        std::fs::write(&path, &CA[..CA.len() / 2]).expect("space");
        assert!(sends().await, "half written");
        std::fs::write(&path, CLIENT).expect("space");
        assert!(!sends().await, "another authority is believed when it can be read");
        std::fs::write(&path, CA).expect("space");
        assert!(sends().await);
        std::fs::remove_file(&path).expect("it is ours");
        assert!(Maker::new(recipe()).is_err(), "a start without it fails");
    });
}
