//! Every trouble on the way to the far end, on a real socket, under a whole uplink: what is believed meanwhile, how often it
//! knocks, and that everything arrives once the way is free again.
//!
//! Between the uplink and the far end stands a front that is broken until it is mended. What the far end itself answers stands
//! in `misfortunes.rs`, what the clients alone make of it in `http.rs`, `grpc.rs` and `tls.rs`.

use super::world::{MS, World, config, run};
use crate::base::Clock;
use crate::config::{Pem, Secret, TlsClient};
use crate::otlp::Signal;
use crate::testing::far_end::Script;
use crate::testing::numbered::{Numbered, Source};
use crate::uplink::budget::Meter;
use crate::uplink::client::{ClientError, Recipe};
use crate::uplink::config::{OtlpGrpcConfig, OtlpHttpConfig, Place};
use crate::uplink::link::Trouble;
use crate::uplink::otlp_grpc::OtlpGrpc;
use crate::uplink::otlp_http::{HttpRecipe, OtlpHttp};
use crate::uplink::pack::{Encoding, LEVEL, Packer};
use crate::uplink::transport::{Parcel, Transport};
use crate::uplink::verdict::Verdict;
use crate::uplink::wiring::LaneView;
use futures_util::FutureExt as _;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// How the front is broken.
#[derive(Debug, Clone, Copy)]
enum Broken {
    /// Reads and says nothing.
    Swallows,
    /// Says this, and leaves.
    Says(&'static [u8]),
    /// Says this, then this again and again, with such a pause between.
    Dribbles(&'static [u8], &'static [u8], Duration),
    /// Takes no connection: a SYN is not answered.
    Nowhere,
    /// Shows a certificate whose time is over.
    Expired,
}

/// Stands between the uplink and the far end.
#[derive(Debug, Clone)]
struct Front {
    addr: SocketAddr,
    broken: Arc<AtomicBool>,
    to: Arc<OnceLock<SocketAddr>>,
    /// Connections while it was broken; how many of them are open, and were at most.
    knocks: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Front {
    async fn open(how: Broken) -> Front {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let listener = socket.listen(if matches!(how, Broken::Nowhere) { 1 } else { 64 }).expect("it listens");
        let front = Front {
            addr: listener.local_addr().expect("bound"),
            broken: Arc::new(AtomicBool::new(true)),
            to: Arc::default(),
            knocks: Arc::default(),
            open: Arc::default(),
            most: Arc::default(),
        };
        let mut fillers = Vec::new();
        if matches!(how, Broken::Nowhere) {
            // With a full queue the kernel drops SYNs, as a firewall does.
            while let Ok(Ok(stream)) = timeout(100 * MS, TcpStream::connect(front.addr)).await {
                fillers.push(stream);
            }
        }
        actix_rt::spawn(front.clone().serve(listener, how, fillers));
        front
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    fn leads_to(&self, endpoint: &str) {
        let addr = endpoint.trim_start_matches("http://").parse().expect("an address");
        self.to.set(addr).expect("once");
    }

    fn mend(&self) {
        self.broken.store(false, SeqCst);
    }

    async fn serve(self, listener: TcpListener, how: Broken, fillers: Vec<TcpStream>) {
        while matches!(how, Broken::Nowhere) && self.broken.load(SeqCst) {
            sleep(10 * MS).await;
        }
        drop(fillers);
        let acceptors = matches!(how, Broken::Expired).then(certificates);
        while let Ok((stream, _)) = listener.accept().await {
            let broken = self.broken.load(SeqCst);
            let acceptor = acceptors.as_ref().map(|(bad, good, _)| if broken { bad } else { good }.clone());
            let this = self.clone();
            actix_rt::spawn(async move {
                if broken {
                    this.knocks.fetch_add(1, SeqCst);
                    this.most.fetch_max(this.open.fetch_add(1, SeqCst) + 1, SeqCst);
                }
                this.converse(stream, how, broken, acceptor).await;
                if broken {
                    this.open.fetch_sub(1, SeqCst);
                }
            });
        }
    }

    async fn converse(&self, mut stream: TcpStream, how: Broken, broken: bool, acceptor: Option<TlsAcceptor>) {
        match (how, broken, acceptor) {
            (_, _, Some(acceptor)) => {
                if let Ok(stream) = acceptor.accept(stream).await {
                    self.pass_on(stream).await;
                }
            }
            (_, false, None) => self.pass_on(stream).await,
            (Broken::Says(what), ..) => {
                let _ = stream.read(&mut [0; 16 << 10]).await;
                let _ = stream.write_all(what).await;
            }
            (Broken::Dribbles(first, then, pause), ..) => {
                let _ = stream.read(&mut [0; 16 << 10]).await;
                let _ = stream.write_all(first).await;
                while stream.write_all(then).await.is_ok() {
                    sleep(pause).await;
                }
            }
            (Broken::Swallows | Broken::Nowhere | Broken::Expired, ..) => {
                while stream.read(&mut [0; 16 << 10]).await.is_ok_and(|n| n > 0) {}
            }
        }
    }

    async fn pass_on(&self, mut from: impl AsyncRead + AsyncWrite + Unpin) {
        let to = self.to.get().expect("it leads somewhere");
        if let Ok(mut to) = TcpStream::connect(to).await {
            let _ = copy_bidirectional(&mut from, &mut to).await;
        }
    }
}

/// For `localhost`: one that is over, one that is not, and whom to trust for both.
fn certificates() -> (TlsAcceptor, TlsAcceptor, String) {
    static MADE: OnceLock<[(String, String); 2]> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        [2021, 2100].map(|until| {
            let key = rcgen::KeyPair::generate().expect("a key");
            let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(until, 1, 1);
            (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
        })
    });
    let [bad, good] = made.each_ref().map(|(cert, key)| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let cert = CertificateDer::from_pem_slice(cert.as_bytes()).expect("ours");
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("ours");
        let config = builder.expect("TLS is there").with_no_client_auth().with_single_cert(vec![cert], key);
        TlsAcceptor::from(Arc::new(config.expect("they belong together")))
    });
    (bad, good, made.iter().map(|(cert, _)| cert.as_str()).collect())
}

/// Longer than anything here takes when it goes well; what it costs to meet somebody who says nothing.
const TIMEOUT: Duration = Duration::from_millis(300);

/// Goal: whatever stands in the way, it is known for what it is; one request at a time finds out whether it is still there, with
/// rests between; nothing counts as delivered; and when it is gone everything arrives, once.
#[test]
fn whatever_stands_in_the_way_is_waited_out() {
    use Broken::{Dribbles, Expired, Nowhere, Says, Swallows};
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\n";
    let silent = &[Trouble::NoAnswer][..];
    // Whether the connection or the request is over first is chance: both have the same time.
    let nowhere = &[Trouble::NoAnswer, Trouble::Unreachable][..];
    for (what, how, troubles) in [
        ("a black hole: no SYN is answered", Nowhere, nowhere),
        ("a path that swallows what is sent", Swallows, silent),
        ("a connection that is closed at once", Says(b""), silent),
        ("somebody who does not speak HTTP", Says(b"220 mail.example ESMTP\r\n"), silent),
        ("an answer that ends in its head", Says(b"HTTP/1.1 200 OK\r\nContent-Le"), silent),
        ("slow loris: a head without end", Dribbles(HEAD, b"x-a: b\r\n", Duration::from_millis(20)), silent),
        ("a head of any length", Dribbles(HEAD, &[b'x'; 4_096], Duration::ZERO), silent),
        (
            "informational answers without end",
            Dribbles(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", Duration::from_millis(5)),
            silent,
        ),
        (
            "a captive portal",
            Says(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"),
            &[Trouble::Portal],
        ),
        (
            "a portal by its own status",
            Says(b"HTTP/1.1 511 Network Authentication Required\r\nContent-Length: 0\r\n\r\n"),
            &[Trouble::Portal],
        ),
        ("a certificate whose time is over", Expired, &[Trouble::Unreachable]),
    ] {
        run(async move {
            let front = Front::open(how).await;
            let mut world = World::over(
                Script::new(),
                |_| {},
                |endpoint, clock| {
                    front.leads_to(endpoint);
                    let mut config = OtlpHttpConfig { timeout: Some(TIMEOUT), ..config(&front.endpoint()) };
                    if matches!(how, Expired) {
                        config.endpoint = Some(format!("https://localhost:{}", front.addr.port()));
                        config.tls.common.ca = Some(Pem::Inline(Secret::new(&*certificates().2)));
                    }
                    HttpRecipe::new(&config, 4, clock, None)
                },
            );
            (0..3).for_each(|lane| (0..3).for_each(|_| world.put(lane, 20)));
            world.until(what, |w| w.view.borrow().link.trouble().is_some_and(|t| troubles.contains(&t))).await;
            // What was on its way when it was found out has come back.
            sleep(TIMEOUT + 50 * MS).await;
            let open = front.open.load(SeqCst);
            assert!(open <= 1, "{what}: {open} at a time");
            front.most.store(0, SeqCst);
            let before = front.knocks.load(SeqCst);
            sleep(1_000 * MS).await;
            let (knocks, most) = (front.knocks.load(SeqCst) - before, front.most.load(SeqCst));
            assert!(most <= 1 && knocks <= 1_000 / 80 + 2, "{what}: {knocks} knocks in a second, {most} at a time");
            assert!(knocks > 0 || matches!(how, Nowhere), "{what}: it goes on knocking");
            assert_eq!((world.booked(|b| b.delivered), world.booked(|b| b.waiting)), (0, 180), "{what}");
            assert_eq!(world.booked(|b| b.lost.iter().sum::<u64>() + b.dead_letters), 0, "{what}");
            front.mend();
            world.until_dry().await;
            world.assert_all_delivered();
            assert_eq!(world.far_end.report().duplicated(), 0, "{what}");
        });
    }
}

/// The first two lookups of a name, and all until it is there again, fail.
static NAME_IS_THERE: AtomicBool = AtomicBool::new(false);

fn names(_: Arc<str>, port: u16) -> futures_util::future::BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> {
    let found = match NAME_IS_THERE.load(SeqCst) {
        true => Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]),
        false => {
            Err(std::io::Error::other("failed to lookup address information: Temporary failure in name resolution"))
        }
    };
    std::future::ready(found).boxed()
}

/// gRPC to a name that is looked up as this test wants.
#[derive(Debug, Clone)]
struct Named {
    config: OtlpGrpcConfig,
    clock: Clock,
}

impl Recipe for Named {
    fn tls(&self) -> &TlsClient {
        &self.config.tls
    }

    fn tls_mut(&mut self) -> &mut TlsClient {
        &mut self.config.tls
    }

    fn client(&self) -> Result<Arc<dyn Transport>, ClientError> {
        Ok(Arc::new(OtlpGrpc::asking(&self.config, self.clock.clone(), None, names, Meter::default())?))
    }
}

/// Goal: a name that is gone is a far end that is away, and is looked up anew at each knock, so that it is found at its return.
#[test]
fn a_name_that_is_gone_is_looked_up_again() {
    run(async {
        let mut world = World::over(
            Script::new(),
            |_| {},
            |endpoint, clock| {
                let port = endpoint.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
                let config = OtlpGrpcConfig {
                    endpoint: Some(Place::Net { host: "collector.example".to_owned(), port }),
                    tls: TlsClient { insecure: true, ..TlsClient::default() },
                    ..OtlpGrpcConfig::default()
                };
                Named { config, clock }
            },
        );
        (0..3).for_each(|lane| world.put(lane, 20));
        world.until("it is known", |w| w.view.borrow().link.trouble() == Some(Trouble::Unreachable)).await;
        let why = world.view.borrow().last_failure.clone();
        assert!(why.contains("name resolution"), "{why}");
        sleep(300 * MS).await;
        assert_eq!((world.booked(|b| b.delivered), world.booked(|b| b.waiting)), (0, 60));
        NAME_IS_THERE.store(true, SeqCst);
        world.until_dry().await;
        world.assert_all_delivered();
    });
}

/// Goal: a proxy that asks who we are is not the far end's word on the data, and no silence: it holds, says so, and mending it is
/// enough; for requests it passes on as for tunnels it makes.
#[test]
fn a_proxy_that_wants_credentials_holds_the_data() {
    const ASKS: &[u8] =
        b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n";
    run(async {
        let front = Front::open(Broken::Says(ASKS)).await;
        let mut world = World::over(
            Script::new(),
            |_| {},
            |endpoint, clock| {
                front.leads_to(endpoint);
                let config = OtlpHttpConfig { proxy_url: Some(front.endpoint()), ..config(endpoint) };
                HttpRecipe::new(&config, 4, clock, None)
            },
        );
        (0..3).for_each(|lane| (0..2).for_each(|_| world.put(lane, 20)));
        let held = |w: &mut World| {
            let view = w.view.borrow();
            let held = |lane: &&LaneView| !lane.parked && lane.link.trouble() == Some(Trouble::Held);
            view.lanes.iter().filter(held).count() == 3
        };
        world.until("all lanes are held", held).await;
        assert!(world.view.borrow().last_failure.starts_with("407"), "{:?}", world.view.borrow());
        assert_eq!(world.booked(|b| b.waiting), 120);
        front.mend();
        world.until_dry().await;
        world.assert_all_delivered();

        // A tunnel is asked for before the far end hears anything.
        let front = Front::open(Broken::Says(ASKS)).await;
        let config = OtlpHttpConfig { proxy_url: Some(front.endpoint()), ..config("https://collector.example:4318") };
        let raw = Numbered::new(Signal::Logs, Source(1)).request(10).bytes.into();
        let body = Packer::new(Encoding::Gzip, LEVEL).pack(&raw);
        let parcel = Parcel { signal: Signal::Logs, body, upload_id: "3f2a/1/0.0-1.0".to_owned(), origin: None };
        let verdict = OtlpHttp::new(&config, 4, Clock::system()).expect("a client").send(parcel).await;
        assert!(matches!(&verdict, Verdict::Hold { why } if why.starts_with("407")), "{verdict:?}");
    });
}
