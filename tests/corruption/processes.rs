//! The real binary on damaged directories.
