//! The HTTP client: what goes over the wire, and what it makes of what comes back.
