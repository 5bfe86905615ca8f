//! The wire path against prost and against itself.

mod examples;
