//! Two network namespaces and a bad link between them: the kernel's (`tc netem` on a pair of veth) where it has one, else ours: two TUN
//! devices and a thread for each direction that loses, delays and slows down the packets it carries. TCP, its timers and its
//! retransmissions are the kernel's in both.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use tfo_otel_agent::base::Dice;
use tfo_otel_agent::testing::FarEnd;
use tfo_otel_agent::testing::far_end::Script;

const EDGE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// Packets a link holds at most: netem's own limit.
const PACKETS_MAX: usize = 1_000;
/// Bytes that wait for a slow line at most: what a modem has.
const BUFFER: f64 = 16_384.0;
const MTU: usize = 1_500;

/// What a link is like, in each direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Weather {
    /// Packets lost, of 100.
    pub(crate) loss: u64,
    /// On the way.
    pub(crate) delay: Duration,
    /// Bits a second; 0: as fast as it goes.
    pub(crate) bits: u64,
    /// Longer packets vanish, and nobody is told.
    pub(crate) swallows_above: usize,
}

impl Weather {
    /// 20 ms, and nothing is lost.
    pub(crate) const FINE: Weather =
        Weather { loss: 0, delay: Duration::from_millis(20), bits: 0, swallows_above: MTU };
    /// Nothing comes through.
    pub(crate) const NONE: Weather = Weather { loss: 100, ..Weather::FINE };
}

/// A link, seen from the edge: the thread that made it is in the edge's namespace.
pub(crate) struct Link {
    kind: Kind,
    /// Packets carried and lost, both ways.
    pub(crate) counts: Arc<Counts>,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) carried: AtomicU64,
    /// Of our link only: bytes of all packets that were carried, their IP heads included.
    pub(crate) bytes: AtomicU64,
    pub(crate) lost: AtomicU64,
}

enum Kind {
    Kernel { far: mpsc::Sender<Job> },
    Ours { weather: Arc<Mutex<Weather>> },
}

type Job = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// Whether this kernel can do it: asked once, of the namespace this process is in.
pub(crate) fn kernel_has_netem() -> bool {
    let works = run(&["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]).is_ok();
    if works {
        let _ = run(&["tc", "qdisc", "del", "dev", "lo", "root"]);
    }
    works
}

/// Makes two namespaces: the calling thread is in the edge's from now on, the far end listens in the other.
pub(crate) fn lay(kernel: bool, seed: u64) -> io::Result<(Link, FarEnd)> {
    if kernel {
        match ours_alone().and_then(|()| veth()).and_then(|laid| laid.0.be(Weather::FINE).map(|()| laid)) {
            Ok(laid) => return Ok(laid),
            Err(error) => println!("the kernel's link cannot be laid, ours is taken: {error}"),
        }
    }
    ours_alone()?;
    tun(seed)
}

/// A new namespace for the thread that calls, with nothing in it but itself.
fn ours_alone() -> io::Result<()> {
    own_namespace()?;
    run(&["ip", "link", "set", "lo", "up"])
}

impl Link {
    pub(crate) fn be(&self, weather: Weather) -> io::Result<()> {
        match &self.kind {
            Kind::Ours { weather: now } => *now.lock().unwrap_or_else(PoisonError::into_inner) = weather,
            Kind::Kernel { far } => {
                qdisc("edge", weather)?;
                let (done, answer) = mpsc::channel();
                let job: Job = Box::new(move || {
                    let told = qdisc("far", weather);
                    done.send(told).map_err(io::Error::other)
                });
                far.send(job).map_err(|_| io::Error::other("the far thread is gone"))?;
                answer.recv().map_err(io::Error::other)??;
            }
        }
        Ok(())
    }
}

/// The thread that calls gets a network namespace of its own, as do the processes it starts.
fn own_namespace() -> io::Result<()> {
    #[allow(deprecated)] // only CLONE_FILES is not sound, which this is not
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).map_err(Into::into)
}

fn run(command: &[&str]) -> io::Result<()> {
    let output = Command::new(command[0]).args(&command[1..]).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("{}: {}", command.join(" "), String::from_utf8_lossy(&output.stderr)))),
    }
}

fn address(device: &str, address: Ipv4Addr) -> io::Result<()> {
    run(&["ip", "addr", "add", &format!("{address}/24"), "dev", device])?;
    run(&["ip", "link", "set", device, "up"])
}

/// Does `jobs` in a namespace of its own; the first one is done when this returns.
fn far_thread<R: Send + 'static>(
    first: impl FnOnce() -> io::Result<R> + Send + 'static,
) -> io::Result<(R, mpsc::Sender<Job>)> {
    let (jobs, todo) = mpsc::channel::<Job>();
    let (done, answer) = mpsc::channel();
    thread::Builder::new().name("far".to_owned()).spawn(move || {
        if done.send(own_namespace().and_then(|()| first())).is_ok() {
            for job in todo {
                if job().is_err() {
                    return;
                }
            }
        }
    })?;
    Ok((answer.recv().map_err(io::Error::other)??, jobs))
}

// --- the kernel's

fn veth() -> io::Result<(Link, FarEnd)> {
    let (tid, far) = far_thread(|| {
        run(&["ip", "link", "set", "lo", "up"])?;
        Ok(rustix::thread::gettid().as_raw_nonzero().get().to_string())
    })?;
    run(&["ip", "link", "add", "name", "edge", "mtu", "1500", "type", "veth", "peer", "name", "far", "mtu", "1500"])?;
    run(&["ip", "link", "set", "far", "netns", &tid])?;
    address("edge", EDGE)?;
    let (done, answer) = mpsc::channel();
    let job: Job = Box::new(move || {
        let far_end = address("far", FAR).and_then(|()| FarEnd::on_own_thread_at(FAR, Script::new()));
        done.send(far_end).map_err(|_| io::Error::other("nobody waits"))
    });
    far.send(job).map_err(|_| io::Error::other("the far thread is gone"))?;
    let far_end = answer.recv().map_err(io::Error::other)??;
    Ok((Link { kind: Kind::Kernel { far }, counts: Arc::default() }, far_end))
}

fn qdisc(device: &str, weather: Weather) -> io::Result<()> {
    let Weather { loss, delay, bits, swallows_above } = weather;
    let (loss, delay) = (format!("{loss}%"), format!("{}ms", delay.as_millis()));
    let mut command = vec!["tc", "qdisc", "replace", "dev", device, "root", "netem", "limit", "1000"];
    command.extend(["delay", &delay, "loss", &loss]);
    let rate = format!("{bits}bit");
    if bits > 0 {
        command.extend(["rate", &rate]);
    }
    run(&command)?;
    // A veth whose peer has a smaller MTU drops what is longer without a word. (TCP is told of none of it: `advmss`.)
    let mtu = if device == "far" { swallows_above.to_string() } else { MTU.to_string() };
    run(&["ip", "link", "set", device, "mtu", &mtu])?;
    let net = "10.99.0.0/24";
    run(&["ip", "route", "replace", net, "dev", device, "advmss", "1460"])
}

// --- ours

fn tun(seed: u64) -> io::Result<(Link, FarEnd)> {
    let edge = device("edge")?;
    address("edge", EDGE)?;
    let ((far, far_end), _) = far_thread(|| {
        let far = device("far")?;
        address("far", FAR)?;
        Ok((far, FarEnd::on_own_thread_at(FAR, Script::new())?))
    })?;
    let (weather, counts) = (Arc::new(Mutex::new(Weather::FINE)), Arc::<Counts>::default());
    let ways = [(edge.try_clone()?, far.try_clone()?), (far, edge)];
    for (n, (from, to)) in ways.into_iter().enumerate() {
        carry(from, to, weather.clone(), counts.clone(), Dice::seeded(seed + n as u64))?;
    }
    Ok((Link { kind: Kind::Ours { weather }, counts }, far_end))
}

/// A TUN device of this name in the namespace of the calling thread: reading it gives what the kernel sends there.
#[allow(unsafe_code)] // nobody wraps TUNSETIFF
fn device(name: &str) -> io::Result<File> {
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all zeroes is an `ifreq`; the kernel reads its name and flags and writes the name.
    let made = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request)
    };
    if made == 0 { Ok(file) } else { Err(io::Error::last_os_error()) }
}

/// One direction: a thread that takes packets in and says when they arrive, and one that has them arrive.
fn carry(
    mut from: File,
    mut to: File,
    weather: Arc<Mutex<Weather>>,
    counts: Arc<Counts>,
    mut dice: Dice,
) -> io::Result<()> {
    let (put, take) = mpsc::channel::<(Instant, Vec<u8>)>();
    let held = Arc::new(AtomicUsize::new(0));
    let holds = held.clone();
    thread::Builder::new().name("link out".to_owned()).spawn(move || {
        for (due, packet) in take {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            holds.fetch_sub(1, Relaxed);
            // A device that is down takes nothing, which is what a link does then.
            let _ = to.write(&packet);
        }
    })?;
    thread::Builder::new().name("link in".to_owned()).spawn(move || {
        let (mut packet, mut free) = (vec![0; 65_536], Instant::now());
        while let Ok(len) = from.read(&mut packet) {
            let now = Instant::now();
            let Weather { loss, delay, bits, swallows_above } = *weather.lock().unwrap_or_else(PoisonError::into_inner);
            free = free.max(now);
            let waits = (free - now).as_secs_f64() * bits as f64 / 8.0;
            let full = held.load(Relaxed) >= PACKETS_MAX || waits > BUFFER;
            if full || len > swallows_above || dice.chance(loss, 100) {
                counts.lost.fetch_add(1, Relaxed);
                continue;
            }
            if bits > 0 {
                free += Duration::from_secs_f64(len as f64 * 8.0 / bits as f64);
            }
            held.fetch_add(1, Relaxed);
            counts.carried.fetch_add(1, Relaxed);
            counts.bytes.fetch_add(len as u64, Relaxed);
            if put.send((free + delay, packet[..len].to_vec())).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}
