//! Between those who log and the disk: a bounded buffer and the one thread that may wait for an outlet.
//!
//! A write to a log file on a stalled SD card takes a minute, one to a pipe whose reader hangs takes forever. The data
//! path pays a lock and a copy instead; what the buffer has no room for is counted and later said.

use super::outlet::{Lines, Outlet};
use crate::base::{Clock, Stamp};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Most that waits for the writer, bytes: 256 KiB, some 1,500 lines. As much again may be in the writer's hands.
pub(super) const WAITING_MAX: usize = 256 << 10;

/// What became of lines, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Handed to the writer.
    pub accepted: u64,
    /// Found no room.
    pub overflowed: u64,
    /// Did not get into an outlet; a line missing in two outlets counts twice.
    pub failed: u64,
}

/// The buffer; shared by the layer, the handle and the writer.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// The writer waits here for something to do.
    work: Condvar,
    /// [`Queue::flush`] waits here for the writer to have nothing to do.
    idle: Condvar,
}

/// Where lines go, and how the writer speaks there.
pub(super) struct Outputs {
    pub(super) paths: Vec<String>,
    /// For troubles.
    pub(super) error_paths: Vec<String>,
    pub(super) voice: Box<dyn Voice>,
}

impl std::fmt::Debug for Outputs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outputs").field("paths", &self.paths).field("error_paths", &self.error_paths).finish()
    }
}

#[derive(Debug, Default)]
struct State {
    waiting: Lines,
    busy: bool,
    reopen: bool,
    /// From behind so many of the waiting lines on these count.
    change: Option<(usize, Outputs)>,
    closing: bool,
    counts: Counts,
    overflow_unsaid: u64,
}

/// The lines the writer itself says.
pub(super) trait Voice: Send {
    /// A whole line: `outlet` missed so many lines.
    fn missed(&self, outlet: &str, lines: u64) -> String;
    /// A line for the error outputs.
    fn trouble(&self, what: &str) -> String;
}

impl Queue {
    /// A buffer whose writer thread serves these outputs.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(outputs: Outputs, clock: Clock) -> io::Result<Arc<Queue>> {
        /// Enough for formatting a line and opening a file; the default of 2 MiB counts as data of the process.
        const STACK: usize = 128 << 10;
        let queue = Arc::new(Queue::default());
        let Outputs { paths, error_paths, voice } = outputs;
        let (outlets, error_outlets) = (opened(paths, Vec::new()), opened(error_paths, Vec::new()));
        let writer = Writer { queue: Arc::clone(&queue), outlets, error_outlets, voice, clock };
        std::thread::Builder::new().name("log-writer".into()).stack_size(STACK).spawn(|| writer.run())?;
        Ok(queue)
    }

    /// Lines that are said from now on go there.
    pub(super) fn change(&self, outputs: Outputs) {
        let mut state = self.lock();
        let before = state.waiting.ends.len();
        // One that was not carried out yet never counted for a line that waits behind it: those are moved, at worst.
        state.change = Some((state.change.take().map_or(before, |(before, _)| before), outputs));
        drop(state);
        self.work.notify_one();
    }

    /// Takes a line, or counts it.
    pub(super) fn push(&self, line: &str) {
        let mut state = self.lock();
        if state.waiting.bytes.len() + line.len() > WAITING_MAX {
            state.counts.overflowed += 1;
            state.overflow_unsaid += 1;
            return;
        }
        state.counts.accepted += 1;
        state.waiting.push(line);
        drop(state);
        self.work.notify_one();
    }

    /// Files are opened anew before anything else is written.
    pub(super) fn reopen(&self) {
        self.lock().reopen = true;
        self.work.notify_one();
    }

    /// Waits until everything said so far is written, but no longer than `most`; true if it is.
    pub(super) fn flush(&self, most: Duration) -> bool {
        let waits = |state: &mut State| state.is_behind();
        let (state, _) = self.idle.wait_timeout_while(self.lock(), most, waits).unwrap_or_else(PoisonError::into_inner);
        !state.is_behind()
    }

    /// Lets the writer end when everything is written.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.work.notify_one();
    }

    /// What became of lines.
    pub(super) fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// A log line must not panic because an earlier one did.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether the writer has something to do.
    fn is_behind(&self) -> bool {
        self.busy || self.has_work()
    }

    fn has_work(&self) -> bool {
        self.reopen || self.change.is_some() || !self.waiting.ends.is_empty()
    }
}

struct Writer {
    queue: Arc<Queue>,
    outlets: Vec<Outlet>,
    error_outlets: Vec<Outlet>,
    voice: Box<dyn Voice>,
    clock: Clock,
}

/// What the writer is to do, beside the lines.
struct Work {
    reopen: bool,
    change: Option<(usize, Outputs)>,
    overflowed: u64,
}

/// Outlets of these paths; those that are there go on.
fn opened(paths: Vec<String>, mut there: Vec<Outlet>) -> Vec<Outlet> {
    let one = |path: String| {
        let known = there.iter().position(|outlet| outlet.name() == path);
        known.map_or_else(|| Outlet::new(&path), |at| there.swap_remove(at))
    };
    paths.into_iter().map(one).collect()
}

impl Writer {
    fn run(mut self) {
        let mut lines = Lines::default();
        while let Some(Work { reopen, change, overflowed }) = self.wait_for_work(&mut lines) {
            if reopen {
                self.outlets.iter_mut().chain(&mut self.error_outlets).for_each(Outlet::reopen);
            }
            let mut failed = 0;
            if let Some((before, outputs)) = change {
                failed += self.write(&lines.take_first(before), self.clock.now());
                self.outlets = opened(outputs.paths, std::mem::take(&mut self.outlets));
                self.error_outlets = opened(outputs.error_paths, std::mem::take(&mut self.error_outlets));
                self.voice = outputs.voice;
            }
            if overflowed > 0 {
                lines.push(&self.voice.missed("queue", overflowed));
            }
            failed += self.write(&lines, self.clock.now());
            lines.clear();
            let mut state = self.queue.lock();
            state.busy = false;
            state.counts.failed += failed;
            drop(state);
            self.queue.idle.notify_all();
        }
    }

    /// Swaps `lines`, which is empty, for what waits; `None` at the end.
    fn wait_for_work(&self, lines: &mut Lines) -> Option<Work> {
        let nothing = |state: &mut State| !state.has_work() && !state.closing;
        let mut state = self.queue.work.wait_while(self.queue.lock(), nothing).unwrap_or_else(PoisonError::into_inner);
        if !state.has_work() {
            return None;
        }
        std::mem::swap(&mut state.waiting, lines);
        state.busy = true;
        let (reopen, change) = (std::mem::take(&mut state.reopen), state.change.take());
        Some(Work { reopen, change, overflowed: std::mem::take(&mut state.overflow_unsaid) })
    }

    fn write(&mut self, lines: &Lines, now: Stamp) -> u64 {
        let mut failed = 0;
        for outlet in &mut self.outlets {
            let (lost, trouble) = outlet.write(lines, now, |name, missed| self.voice.missed(name, missed));
            failed += lost;
            if let Some(trouble) = trouble {
                let mut told = Lines::default();
                told.push(&self.voice.trouble(&trouble));
                // Whether an error output takes it is nothing anybody could be told of.
                self.error_outlets.iter_mut().for_each(|e| drop(e.write(&told, now, |_, _| String::new())));
            }
        }
        failed
    }
}
