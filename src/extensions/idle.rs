//! Extensions of 0.88 that show the collector's own insides and carry no data: `zpages`, `pprof`, `memory_ballast`.
//!
//! They stand in many files that are copied from the original's examples. A file that names one must run, so they are
//! read, and told that nothing starts.

use crate::config::Section;

/// A section that is understood and starts nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleConfig {
    kind: &'static str,
}

impl IdleConfig {
    /// Reads `extensions.zpages`, pages about the original's spans.
    #[must_use]
    pub fn zpages(s: &Section<'_>) -> IdleConfig {
        s.accept(&[
            "endpoint",
            "expvar",
            "transport",
            "dialer",
            "tls",
            "cors",
            "auth",
            "middlewares",
            "include_metadata",
        ]);
        s.accept(&["max_request_body_size", "response_headers", "compression_algorithms", "keep_alives_enabled"]);
        s.accept(&["read_timeout", "read_header_timeout", "write_timeout", "idle_timeout"]);
        IdleConfig::told(s, "zpages", "the agent has no pages of its own; its metrics and health_check tell how it is")
    }

    /// Reads `extensions.pprof`, profiles of the Go runtime.
    #[must_use]
    pub fn pprof(s: &Section<'_>) -> IdleConfig {
        s.accept(&["endpoint", "block_profile_fraction", "mutex_profile_fraction", "save_to_file", "dialer"]);
        IdleConfig::told(s, "pprof", "there is no Go runtime here to profile")
    }

    /// Reads `extensions.memory_ballast`, memory that calms Go's garbage collector.
    #[must_use]
    pub fn memory_ballast(s: &Section<'_>) -> IdleConfig {
        s.accept(&["size_mib", "size_in_percentage"]);
        IdleConfig::told(s, "memory_ballast", "memory is freed at once here; there is no garbage collector")
    }

    fn told(s: &Section<'_>, kind: &'static str, why: &str) -> IdleConfig {
        s.warn_here(format!("nothing is started: {why}"));
        IdleConfig { kind }
    }
}
