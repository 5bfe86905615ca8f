//! OTLP over gRPC and HTTP.

pub mod config;
