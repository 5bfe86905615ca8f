//! OTLP over gRPC and HTTP.

pub mod conduct;
pub mod config;
pub mod door;
pub mod grpc;
pub mod http;
#[cfg(test)]
mod tests;
mod watched;
