//! Data that makes whoever handles it fall, on command: for the tests of promise P8, which is about exactly that.
//!
//! In a release this is nothing at all. With the feature `testing`, bytes that contain the wire's word panic there.

/// Where a wire is stretched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// A receiver works on a request.
    Request,
    /// An uplink makes a block ready.
    Block,
}

impl Wire {
    /// What the bytes must contain.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Wire::Request => "tfo-tripwire-request",
            Wire::Block => "tfo-tripwire-block",
        }
    }
}

/// Nobody shall trip over them any more.
#[cfg(any(test, feature = "testing"))]
static DISARMED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// For the rest of the process no wire is stretched: a fuzzer sees what its bytes are compared with, and finds the words.
#[cfg(any(test, feature = "testing"))]
pub fn disarm_tripwires() {
    DISARMED.store(true, std::sync::atomic::Ordering::Relaxed);
}

/// Panics when the bytes contain the wire's word.
#[cfg(any(test, feature = "testing"))]
pub fn tripwire(wire: Wire, bytes: &[u8]) {
    if DISARMED.load(std::sync::atomic::Ordering::Relaxed) {
        return;
    }
    let word = wire.word().as_bytes();
    assert!(!bytes.windows(word.len()).any(|w| w == word), "sabotage: tripwire in a {wire:?}");
}

/// Nothing.
#[cfg(not(any(test, feature = "testing")))]
#[inline]
pub fn tripwire(_: Wire, _: &[u8]) {}
