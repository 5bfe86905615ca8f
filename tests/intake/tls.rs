//! TLS and mTLS of both protocols, with authorities made here, and clients that check.

use super::answers::{client_over, logs};
use super::rig::{PATIENCE, PROTOBUF, Rig};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use reqwest::Certificate as Root;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tfo_otel_agent::app::plan::{self, Config};
use tfo_otel_agent::app::reload::Reloaded;
use tfo_otel_agent::config::{Locations, Machine};
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::testing::{Numbered, Source};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tonic::IntoRequest as _;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

/// Who signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("ring makes keys");
        let pem = params.self_signed(&key).expect("whole").pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Certificate and key, as PEM.
    fn sign(&self) -> (String, String) {
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let key = KeyPair::generate().expect("ring makes keys");
        let params = CertificateParams::new(names).expect("names");
        (params.signed_by(&key, &self.issuer).expect("whole").pem(), key.serialize_pem())
    }

    /// Into a server's files.
    fn install(&self, dir: &Path) {
        let (cert, key) = self.sign();
        std::fs::write(dir.join("cert.pem"), cert).expect("written");
        std::fs::write(dir.join("key.pem"), key).expect("written");
    }
}

/// Both protocols with this `tls` beside certificate and key, and these `limits`.
fn config(endpoint: &str, dir: &Path, tls: &str, limits: &str) -> Config {
    let dir = dir.display();
    let tls = format!("tls: {{cert_file: {dir}/cert.pem, key_file: {dir}/key.pem, {tls}}}, limits: {{{limits}}}");
    let yaml = format!(
        "yaml:{{receivers: {{otlp: {{protocols: {{grpc: {{endpoint: '127.0.0.1:0', {tls}}}, \
             http: {{endpoint: '127.0.0.1:0', {tls}}}}}}}}}, \
           exporters: {{otlphttp: {{endpoint: '{endpoint}'}}}}, \
           service: {{telemetry: {{metrics: {{address: '127.0.0.1:0'}}}}, \
             pipelines: {{logs: {{receivers: [otlp], exporters: [otlphttp]}}}}}}}}"
    );
    let outcome = plan::read(&Locations::of(&yaml), &Machine::new(|| None));
    outcome.config.unwrap_or_else(|| panic!("{}", outcome.report))
}

async fn start(authority: &Authority, tls: &str, limits: &str) -> Rig {
    Rig::start(|endpoint, dir| {
        authority.install(dir);
        config(endpoint, dir, tls, limits)
    })
    .await
}

fn browser(roots: &[&Authority], identity: Option<(String, String)>) -> reqwest::Client {
    let roots = roots.iter().map(|a| Root::from_pem(a.pem.as_bytes()).expect("our own"));
    let builder = reqwest::Client::builder().no_proxy().timeout(PATIENCE).tls_certs_only(roots);
    let identity = identity.map(|(cert, key)| reqwest::Identity::from_pem((key + &cert).as_bytes()).expect("our own"));
    identity.into_iter().fold(builder, reqwest::ClientBuilder::identity).build().expect("a client")
}

/// Posts one record; the status, or that there was no connection.
async fn post(rig: &Rig, client: &reqwest::Client, numbered: &mut Numbered) -> Result<u16, reqwest::Error> {
    let url = format!("https://127.0.0.1:{}/v1/logs", rig.agent.addresses["otlp/http"].port());
    let body = numbered.request(1).bytes;
    Ok(client.post(url).header("content-type", PROTOBUF).body(body).send().await?.status().as_u16())
}

async fn channel(rig: &Rig, tls: ClientTlsConfig) -> Result<Channel, tonic::transport::Error> {
    let at = format!("https://127.0.0.1:{}", rig.agent.addresses["otlp/grpc"].port());
    Channel::from_shared(at).expect("an address").tls_config(tls).expect("our own").connect().await
}

fn trusting(authority: &Authority) -> ClientTlsConfig {
    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&authority.pem))
}

#[actix::test]
async fn both_protocols_speak_tls_to_those_who_trust_the_authority_and_plain_text_to_nobody() {
    let (ours, other) = (Authority::new(), Authority::new());
    let rig = start(&ours, "", "").await;
    let mut numbered = Numbered::new(Signal::Logs, Source(1));
    assert_eq!(post(&rig, &browser(&[&ours], None), &mut numbered).await.expect("it connects"), 200);
    let over_tls = channel(&rig, trusting(&ours)).await.expect("it connects");
    client_over(over_tls).export(logs(&numbered.request(1).bytes).into_request()).await.expect("taken");
    assert!(rig.far_end.until(PATIENCE, |c| c.counts().items == 2).await, "{:?}", rig.far_end.report());

    assert!(post(&rig, &browser(&[&other], None), &mut numbered).await.expect_err("unknown").is_connect());
    assert!(channel(&rig, trusting(&other)).await.is_err());
    let plain = rig.http.post(rig.url("/v1/logs")).header("content-type", PROTOBUF).body("").send().await;
    assert!(plain.is_err(), "{plain:?}");
    for listener in ["listener=\"otlp/http\"", "listener=\"otlp/grpc\""] {
        assert!(rig.number("tfo_agent_connections_refused", &[listener, "reason=\"tls\""]).await >= 1.0, "{listener}");
    }
}

#[actix::test]
async fn with_a_client_ca_only_its_clients_are_let_in() {
    let (ours, clients) = (Authority::new(), Authority::new());
    let rig = Rig::start(|endpoint, dir| {
        ours.install(dir);
        std::fs::write(dir.join("clients.pem"), &clients.pem).expect("written");
        config(endpoint, dir, &format!("client_ca_file: {}/clients.pem", dir.display()), "")
    })
    .await;
    let mut numbered = Numbered::new(Signal::Logs, Source(1));
    let known = browser(&[&ours], Some(clients.sign()));
    assert_eq!(post(&rig, &known, &mut numbered).await.expect("it connects"), 200);
    for stranger in [browser(&[&ours], None), browser(&[&ours], Some(ours.sign()))] {
        assert!(post(&rig, &stranger, &mut numbered).await.is_err());
    }
    let identity = |(cert, key): (String, String)| Identity::from_pem(cert, key);
    let known = channel(&rig, trusting(&ours).identity(identity(clients.sign()))).await.expect("it connects");
    client_over(known).export(logs(&numbered.request(1).bytes).into_request()).await.expect("taken");
    for stranger in [trusting(&ours), trusting(&ours).identity(identity(ours.sign()))] {
        // With TLS 1.3 a client hears of it after it thinks to be connected.
        if let Ok(connected) = channel(&rig, stranger).await {
            let refused = client_over(connected).export(logs(&numbered.request(1).bytes).into_request()).await;
            assert!(refused.is_err(), "{refused:?}");
        }
    }
    assert!(rig.far_end.until(PATIENCE, |c| c.counts().items == 2).await, "{:?}", rig.far_end.report());
}

/// Goal: certificates are renewed under a running agent: who is connected stays so, who connects sees the new ones, and
/// a file that was half written changes nothing.
#[actix::test]
async fn certificates_are_read_again_and_no_connection_falls() {
    let (before, after, directory) = (Authority::new(), Authority::new(), tempfile::tempdir().expect("a directory"));
    let dir = directory.path().to_owned();
    before.install(&dir);
    let rig = Rig::start(|endpoint, _| config(endpoint, &dir, "reload_interval: 50ms", "")).await;
    let mut numbered = Numbered::new(Signal::Logs, Source(1));
    let old = browser(&[&before], None);
    let old_grpc = channel(&rig, trusting(&before)).await.expect("it connects");
    assert_eq!(post(&rig, &old, &mut numbered).await.expect("it connects"), 200);

    std::fs::write(dir.join("cert.pem"), "-----BEGIN CERTIFICATE-----\nMIIB").expect("written");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(post(&rig, &browser(&[&before], None), &mut numbered).await.expect("the old one is shown"), 200);
    assert!(channel(&rig, trusting(&before)).await.is_ok());

    after.install(&dir);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(post(&rig, &browser(&[&after], None), &mut numbered).await.expect("the new one is shown"), 200);
    assert!(channel(&rig, trusting(&after)).await.is_ok());
    assert!(post(&rig, &browser(&[&before], None), &mut numbered).await.is_err(), "and no other");
    assert_eq!(post(&rig, &old, &mut numbered).await.expect("it is still connected"), 200);
    client_over(old_grpc).export(logs(&numbered.request(1).bytes).into_request()).await.expect("so is this one");
}

/// Goal: an authority that is taken away lets nobody in any more, also not those who were here before.
#[actix::test]
async fn the_authority_of_clients_is_read_again_too() {
    let (ours, first, second) = (Authority::new(), Authority::new(), Authority::new());
    let directory = tempfile::tempdir().expect("a directory");
    let dir = directory.path().to_owned();
    ours.install(&dir);
    std::fs::write(dir.join("clients.pem"), &first.pem).expect("written");
    let tls = format!("client_ca_file: {}/clients.pem, client_ca_file_reload: true", dir.display());
    let rig = Rig::start(|endpoint, _| config(endpoint, &dir, &tls, "")).await;
    let mut numbered = Numbered::new(Signal::Logs, Source(1));
    // No connection is kept, so that each request is a handshake; the session of the one before may be resumed.
    let roots = [Root::from_pem(ours.pem.as_bytes()).expect("our own")];
    let (cert, key) = first.sign();
    let identity = reqwest::Identity::from_pem((key + &cert).as_bytes()).expect("our own");
    let builder = reqwest::Client::builder().no_proxy().timeout(PATIENCE).pool_max_idle_per_host(0);
    let member = builder.tls_certs_only(roots).identity(identity).build().expect("a client");
    assert_eq!(post(&rig, &member, &mut numbered).await.expect("it connects"), 200);
    assert_eq!(post(&rig, &member, &mut numbered).await.expect("it connects again"), 200);
    std::fs::write(dir.join("clients.pem"), &second.pem).expect("written");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert!(post(&rig, &member, &mut numbered).await.is_err());
    assert_eq!(post(&rig, &browser(&[&ours], Some(second.sign())), &mut numbered).await.expect("it connects"), 200);
}

/// A client of rustls that offers these versions and protocols: what was agreed on.
async fn shake(
    rig: &Rig,
    who: &str,
    authority: &Authority,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Result<(Option<Vec<u8>>, String), std::io::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("our own")).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("known");
    let mut client = builder.with_root_certificates(roots).with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = TcpStream::connect(rig.agent.addresses[who]).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = TlsConnector::from(Arc::new(client)).connect(name, stream).await?;
    let connection = stream.get_ref().1;
    let suite = format!("{:?}", connection.negotiated_cipher_suite().expect("agreed").suite());
    Ok((connection.alpn_protocol().map(<[u8]>::to_vec), suite))
}

#[actix::test]
async fn versions_suites_and_protocols_are_what_the_file_says() {
    const V12: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];
    const V13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
    let ours = Authority::new();
    let suite = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305";
    let rig = start(&ours, &format!("cipher_suites: [{suite}]"), "").await;
    for (who, protocol) in [("otlp/grpc", &b"h2"[..]), ("otlp/http", b"http/1.1")] {
        let (alpn, agreed) = shake(&rig, who, &ours, V12).await.expect("1.2 is taken");
        assert_eq!((alpn.as_deref(), agreed), (Some(protocol), format!("{suite}_SHA256")));
        assert!(shake(&rig, who, &ours, V13).await.expect("1.3 is taken").1.starts_with("TLS13_"));
    }
    let rig = start(&ours, "min_version: '1.3'", "").await;
    assert!(shake(&rig, "otlp/grpc", &ours, V12).await.is_err() && shake(&rig, "otlp/grpc", &ours, V13).await.is_ok());
    let rig = start(&ours, "max_version: '1.2'", "").await;
    assert!(shake(&rig, "otlp/http", &ours, V13).await.is_err() && shake(&rig, "otlp/http", &ours, V12).await.is_ok());
}

#[actix::test]
async fn who_does_not_shake_hands_in_time_is_let_go() {
    let rig = start(&Authority::new(), "", "handshake_timeout: 300ms").await;
    for who in ["otlp/http", "otlp/grpc"] {
        let began = Instant::now();
        let mut stream = TcpStream::connect(rig.agent.addresses[who]).await.expect("it listens");
        stream.write_all(&[22, 3, 1, 2]).await.expect("sent"); // the first bytes of a ClientHello
        let mut said = Vec::new();
        let end = timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("it ends");
        assert!(end.is_err() || said.is_empty(), "{said:?}");
        assert!(began.elapsed() >= Duration::from_millis(300), "{who}");
        let labels = [&*format!("listener=\"{who}\""), "reason=\"slow\""];
        assert_eq!(rig.number("tfo_agent_connections_refused", &labels).await, 1.0, "{who}");
    }
}

/// What is wrong with a certificate is a problem of the configuration, at its key.
#[test]
fn a_certificate_that_cannot_be_used_is_told_with_the_path_of_its_key() {
    let (ours, directory) = (Authority::new(), tempfile::tempdir().expect("a directory"));
    let dir = directory.path();
    ours.install(dir);
    let (_, stranger) = ours.sign();
    std::fs::write(dir.join("stranger.pem"), stranger).expect("written");
    std::fs::write(dir.join("empty.pem"), "").expect("written");
    let told = |tls: &str| {
        let yaml = format!(
            "yaml:{{receivers: {{otlp: {{protocols: {{grpc: {{endpoint: '127.0.0.1:0', tls: {{{}}}}}}}}}}}, \
               exporters: {{otlphttp: {{endpoint: 'http://x'}}}}, \
               service: {{pipelines: {{logs: {{receivers: [otlp], exporters: [otlphttp]}}}}}}}}",
            tls.replace('@', &dir.display().to_string())
        );
        plan::read(&Locations::of(&yaml), &Machine::new(|| None)).report.to_string()
    };
    assert_eq!(told("cert_file: @/cert.pem, key_file: @/key.pem"), "");
    #[rustfmt::skip]
    let cases = [
        ("cert_file: @/none.pem, key_file: @/key.pem",       "cert_file", "none.pem` cannot be read: "),
        ("cert_file: @/key.pem, key_file: @/key.pem",        "cert_file", "holds no certificate in PEM form"),
        ("cert_file: @/cert.pem, key_file: @/none.pem",      "key_file",  "none.pem` cannot be read: "),
        ("cert_file: @/cert.pem, key_file: @/cert.pem",      "key_file",  "holds no private key in PEM form"),
        ("cert_file: @/cert.pem, key_file: @/stranger.pem",  "key_file",  "does not go with the certificate: "),
        ("cert_file: @/cert.pem, key_file: @/key.pem, client_ca_file: @/empty.pem", "client_ca_file", "holds no certificate in PEM form"),
        ("cert_pem: nothing, key_file: @/key.pem",           "cert_pem",  "holds no certificate in PEM form"),
        ("cert_file: @/cert.pem, key_file: @/key.pem, cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]", "cipher_suites", "warning: `TLS_RSA_WITH_RC4_128_SHA` are not offered here"),
    ];
    for (tls, key, why) in cases {
        let told = told(tls);
        let path = format!("receivers.otlp.protocols.grpc.tls.{key} ");
        assert!(told.contains(&path) && told.contains(why), "{tls}: {told}");
        assert_eq!(told.lines().count(), 2, "{tls}: {told}");
    }
}

/// Goal: a reload switches TLS on and off and reads renewed files, and closes neither the port nor a connection: who is
/// connected goes on as he began.
#[actix::test]
async fn a_reload_switches_tls_and_renews_what_is_shown() {
    let (ours, renewed) = (Authority::new(), Authority::new());
    let (mut secure, mut files) = (Config::default(), std::path::PathBuf::new());
    let mut rig = Rig::start(|endpoint, dir| {
        ours.install(dir);
        files = dir.to_owned();
        secure = config(endpoint, dir, "", "");
        without_tls(&secure)
    })
    .await;
    let plain = without_tls(&secure);
    let mut numbered = Numbered::new(Signal::Logs, Source(1));
    let addresses = rig.agent.addresses.clone();
    let post_plain = async |rig: &Rig, client: &reqwest::Client, body: Vec<u8>| {
        let sent = client.post(rig.url("/v1/logs")).header("content-type", PROTOBUF).body(body).send().await;
        sent.map(|answer| answer.status().as_u16()).ok()
    };
    let grpc = Channel::from_shared(rig.at("otlp/grpc")).expect("an address").connect().await.expect("it connects");
    let mut kept_grpc = client_over(grpc);
    let kept = rig.http.clone();
    assert_eq!(post_plain(&rig, &kept, numbered.request(1).bytes).await, Some(200));
    kept_grpc.export(logs(&numbered.request(1).bytes).into_request()).await.expect("taken");

    let applied = Reloaded::Applied { exporters: Default::default() };
    assert_eq!(rig.agent.reload(secure.clone()).await.expect("it can"), applied);
    assert_eq!(rig.agent.addresses, addresses);
    assert_eq!(post_plain(&rig, &kept, numbered.request(1).bytes).await, Some(200), "connected before");
    kept_grpc.export(logs(&numbered.request(1).bytes).into_request()).await.expect("connected before");
    let stranger = reqwest::Client::builder().no_proxy().build().expect("a client");
    assert_eq!(post_plain(&rig, &stranger, numbered.request(1).bytes).await, None, "who comes now must speak TLS");
    let known = browser(&[&ours], None);
    assert_eq!(post(&rig, &known, &mut numbered).await.expect("it connects"), 200);
    channel(&rig, trusting(&ours)).await.expect("it connects");

    renewed.install(&files);
    assert_eq!(rig.agent.reload(secure.clone()).await.expect("it can"), Reloaded::Unchanged);
    assert_eq!(post(&rig, &browser(&[&renewed], None), &mut numbered).await.expect("it connects"), 200);
    assert!(post(&rig, &browser(&[&ours], None), &mut numbered).await.is_err(), "the old one is shown to nobody new");
    assert_eq!(post(&rig, &known, &mut numbered).await.expect("connected before"), 200);
    channel(&rig, trusting(&renewed)).await.expect("it connects");

    // What cannot be used changes nothing.
    std::fs::write(files.join("cert.pem"), "nothing").expect("written");
    let told = rig.agent.reload(secure.clone()).await.expect_err("it holds no certificate").to_string();
    assert!(told.contains("tls.cert_file: holds no certificate") && told.contains("nothing was changed"), "{told}");
    assert_eq!(post(&rig, &browser(&[&renewed], None), &mut numbered).await.expect("it connects"), 200);

    assert_eq!(rig.agent.reload(plain).await.expect("it can"), applied);
    assert_eq!(post_plain(&rig, &stranger, numbered.request(1).bytes).await, Some(200));
}

fn without_tls(config: &Config) -> Config {
    let mut config = config.clone();
    for receiver in config.receivers.values_mut() {
        if let plan::ReceiverConfig::Otlp(otlp) = receiver {
            otlp.grpc.iter_mut().for_each(|grpc| grpc.tls = None);
            otlp.http.iter_mut().for_each(|http| http.server.tls = None);
        }
    }
    config
}
