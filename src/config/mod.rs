//! From files and variables to checked settings.
//!
//! A gateway nobody visits gets its configuration once and keeps it for years. So a configuration is checked whole
//! before anything starts, every problem of it is told in one run with its place, and what the original accepts
//! (otelcol-contrib 0.88) is accepted; what was assumed is told as a warning.
//!
//! ```text
//!  --config a.yaml ─┐ yaml, toml          merge, `::`, --set        expand ${…}
//!  --config b.toml ─┼────────────▶ trees ──────────────────▶ tree ──────────────▶ tree
//!  --set k.k=v ─────┘  values with places                                           │ Section: key by key
//!                                                                                   ▼
//!              Report ◀── Problems (source, line, column, path, message)   the structs beside their components
//! ```
//!
//! What always holds:
//! * No text, however broken, makes reading panic or run long; files, depth, aliases and references have bounds.
//! * A key nobody asked for is told, and every key asked for can be listed ([`Reading::asked`]).
//! * No report and nothing that is printed shows what `mask` takes for a secret.
//! * A source that cannot be read hides nothing of the others; of what may be missing because of it nothing is said.
//! * A value from a variable arrives letter by letter where text is wanted, and is never expanded again.
//! * Reading is a pure function of the texts and a [`Host`]; only [`Machine`] touches the process.
//!
//! | file | holds |
//! |---|---|
//! | `load` | locations, `--set`, merging |
//! | `yaml`, `toml` | text to tree |
//! | `tree` | values with places, and what YAML makes of a text |
//! | `reference`, `expand` | `${…}`: syntax, and what it leads to |
//! | `host` | the machine: variables, files, names |
//! | `problems` | what is wrong, and how it is told |
//! | `mask` | what is a secret, inside a URL or by the name of its key |
//! | `print` | a tree back to text, secrets masked |
//! | `section`, `typed` | one map into one struct: known keys, typed getters |
//! | `id`, `value` | ids of components; attribute values, secrets, patterns, addresses |
//! | `net`, `tls` | blocks that several components share |
//! | `kept` | a small file that is replaced as a whole |
//!
//! The checked whole, `app::plan::Config`, stands in `app`: it names every component, and imports
//! run one way.

mod expand;
mod host;
mod id;
mod kept;
mod load;
mod mask;
mod net;
mod print;
pub mod problems;
mod reference;
mod section;
mod tls;
mod toml;
pub mod tree;
mod typed;
mod value;
mod yaml;

#[cfg(any(test, feature = "testing"))]
pub use host::Imagined;
pub use host::{FILE_MAX, Host, Machine};
pub use id::{BadId, Id};
pub use kept::{replace_file, sealed, unsealed};
pub use load::{Form, Given, Locations, Source, load, load_from, load_given, parse_text};
pub use mask::masked;
pub use net::{BODY_MAX, Cors, Headers, HttpServer, Limits, authenticator};
pub use print::print;
#[cfg(test)]
pub(crate) use section::try_out;
pub use section::{Reading, Section};
pub use tls::{Pem, TlsClient, TlsCommon, TlsServer, TlsVersion};
pub use typed::bad_pattern;
pub use value::{Any, Listen, Pattern, Secret};
