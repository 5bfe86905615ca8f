//! The agent's side.

use super::address;
use super::protocol::{Answer, Done, LINE_MAX, LiveBook, Order, Request, VERSION};
use crate::app::stores::Stores;
use crate::spool::Store as _;
use crate::spool::store::{Mended, Spool, What};
use crate::supervise::contained;
use rustix::process::geteuid;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// How long one may take to say what he wants, and to take a line of the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Orders carried out at once, of all directories: each has a thread.
const PLACES: usize = 4;
/// Progress is told so often.
const TELL: Duration = Duration::from_millis(100);
/// After an accept that failed: out of files, for one.
const PAUSE: Duration = Duration::from_secs(1);

/// Listens for every spool on a disk.
#[derive(Debug)]
pub struct Control {
    listening: BTreeMap<PathBuf, JoinHandle<()>>,
    places: Arc<Semaphore>,
}

impl Default for Control {
    fn default() -> Control {
        Control { listening: BTreeMap::new(), places: Arc::new(Semaphore::new(PLACES)) }
    }
}

impl Control {
    /// Listens for those of `stores` that it does not know yet, on the current runtime, for as long as this value lives. That
    /// one cannot be listened for is no reason not to run.
    pub fn follow(&mut self, stores: &Stores) {
        for stored in &stores.all {
            let Some(directory) = stored.directory.clone().filter(|d| !self.listening.contains_key(d)) else {
                continue;
            };
            match listen(&directory) {
                Ok(listener) => {
                    let task = serve(listener, stored.spool.clone(), self.places.clone());
                    self.listening.insert(directory, actix_rt::spawn(task));
                }
                Err(error) => {
                    let storage = &stored.name;
                    tracing::warn!(storage, %error, "the spool command cannot ask this agent: there is no local socket");
                }
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.listening.values().for_each(JoinHandle::abort);
    }
}

fn listen(directory: &Path) -> io::Result<UnixListener> {
    let listener = StdListener::bind_addr(&address(directory)?)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

async fn serve(listener: UnixListener, spool: Arc<Spool>, places: Arc<Semaphore>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "local socket: nobody can be let in");
                sleep(PAUSE).await;
                continue;
            }
        };
        // Strangers are sent away before they take a place.
        let is_ours = stream.peer_cred().is_ok_and(|who| who.uid() == 0 || who.uid() == geteuid().as_raw());
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        if is_ours {
            let spool = spool.clone();
            actix_rt::spawn(async move {
                let _place = place;
                if let Err(error) = talk(stream, spool).await {
                    tracing::debug!(%error, "local socket");
                }
            });
        }
    }
}

async fn talk(stream: UnixStream, spool: Arc<Spool>) -> io::Result<()> {
    let (from, mut to) = stream.into_split();
    let mut line = String::new();
    timeout(PATIENCE, BufReader::new(from.take(LINE_MAX)).read_line(&mut line)).await??;
    let order = match serde_json::from_str::<Request>(&line) {
        Ok(Request { version: VERSION, order }) => order,
        Ok(request) => {
            let text = format!("this agent speaks version {VERSION} of the local protocol, not {}", request.version);
            return say(&mut to, &Answer::Failed(text)).await;
        }
        Err(error) => return say(&mut to, &Answer::Failed(format!("not an order of this agent: {error}"))).await,
    };
    // The disk blocks, so it has a thread; who hangs up does not stop it halfway.
    let (tell, mut told) = mpsc::unbounded_channel();
    let work = actix_rt::task::spawn_blocking(move || {
        let answer = contained("an order by the local socket", || carry_out(&spool, order, &tell));
        let _ = tell.send(answer.unwrap_or_else(|panic| Answer::Failed(panic.to_string())));
    });
    while let Some(answer) = told.recv().await {
        if say(&mut to, &answer).await.is_err() {
            break;
        }
    }
    work.await.map_err(io::Error::other)
}

async fn say(to: &mut (impl tokio::io::AsyncWrite + Unpin), answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    timeout(PATIENCE, to.write_all(&line)).await?
}

fn carry_out(spool: &Spool, order: Order, tell: &mpsc::UnboundedSender<Answer>) -> Answer {
    let all = |what: Vec<What>, work: &dyn Fn(What) -> Result<Vec<Mended>, String>| {
        let mut done = Vec::new();
        for what in what {
            match work(what) {
                Ok(mended) => done.extend(mended.into_iter().map(|mended| Done { what, mended })),
                Err(error) => return Answer::Failed(error),
            }
        }
        Answer::Done(done)
    };
    match order {
        Order::Books => books(spool),
        Order::Meant { what, which } => all(what, &|what| Ok(spool.meant(what, &which))),
        Order::Drop { what, which } => all(what, &|what| spool.discard(what, &which)),
        Order::Requeue { what, which } => {
            let items = std::cell::Cell::new((0_u64, Instant::now()));
            let progress = |more: u64| {
                let (so_far, last) = items.get();
                let is_time = last.elapsed() >= TELL;
                items.set((so_far + more, if is_time { Instant::now() } else { last }));
                if is_time {
                    let _ = tell.send(Answer::Progress(so_far + more));
                }
            };
            all(what, &|what| spool.requeue(what, &which, &progress))
        }
    }
}

fn books(spool: &Spool) -> Answer {
    let ages: BTreeMap<(String, String), f64> =
        spool.ages().into_iter().map(|a| ((a.lane, a.exporter), a.age.as_secs_f64())).collect();
    let live = |book: crate::spool::Book| {
        let age = ages.get(&(book.lane.clone(), book.exporter.clone())).copied();
        LiveBook::of(book, age)
    };
    Answer::Books { uuid: format!("{:032x}", spool.uuid()), books: spool.books().into_iter().map(live).collect() }
}
