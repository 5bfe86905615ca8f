//! Nouns and tools that know nothing above them.
//!
//! ```text
//! clock ─ the only file that asks what time it is      dice ─ the only source of chance
//! backoff ─ how long to rest                           units ─ bytes and durations as people write them
//! swap ─ a value that is replaced while others use it  civil ─ days and dates
//! ```
//!
//! No input or output happens here but the clock.

pub mod backoff;
pub mod civil;
pub mod clock;
pub mod dice;
pub mod swap;
pub mod units;

pub use civil::Date;
pub use clock::{BootId, Clock, Reading, Stamp};
pub use dice::Dice;
pub use swap::Swap;
pub use units::Bytes;
