//! `bearertokenauth` and `basicauth`: who may come in, and as whom an exporter goes out.
//!
//! ```text
//! Authorization: Bearer <token>            ─▶ Bearer ─▶ digest equal to one of ours?             ─▶ let in, or 401
//! Authorization: Basic <user:password>     ─▶ Basic  ─▶ known from before, or right by htpasswd? ─▶ let in, or 401
//! ```
//!
//! What always holds:
//! * No secret is in a log, an error or a `Debug`.
//! * Comparisons take the same time whatever they find, and a name nobody has costs what a wrong password of the slow
//!   kind costs. (In a file of both kinds a name with a fast hash can be told from one that nobody has.)
//! * bcrypt, which is slow on purpose, runs on a thread of its own, one at a time, and once for each right password. Who
//!   guesses waits in a queue with an end, and keeps nobody out who has another name.
//! * A file is read again when it changes; what cannot be used is told, and what was good stays.
//!
//! (`oauth2client`, whose token a server gives to the uplink, is `uplink::oauth2`.)
//!
//! | file | holds |
//! |---|---|
//! | `config` | the two sections |
//! | `bearer` | tokens, and the file they are read from |
//! | `basic` | names and passwords |
//! | `htpasswd` | what a line of such a file says |
//! | `watched` | a file that may change |

pub mod basic;
pub mod bearer;
pub mod config;
pub mod htpasswd;
mod watched;

use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq as _;

/// What is compared in the place of a secret: of one length, so that nothing is told by it.
#[derive(Clone, Copy)]
struct Mark([u8; 32]);

impl Mark {
    fn of(secret: &[u8]) -> Mark {
        Mark(digest(&SHA256, secret).as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    fn is(&self, other: &Mark) -> subtle::Choice {
        self.0.ct_eq(&other.0)
    }
}
