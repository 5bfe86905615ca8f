//! What stands beside the pipelines: told how everyone is, and nobody on the data path waits for it.
//!
//! | folder | what |
//! |---|---|
//! | `authenticators/` | who may come in, and as whom an exporter goes out |
//! | `file_storage/` | the settings of a spool |
//! | `headers_setter` | what an exporter sends besides |
//! | `health_check/` | answers whether the agent is available |
//! | `idle` | what 0.88 has and this agent needs not: read, told, not started |

pub mod authenticators;
pub mod file_storage;
pub mod headers_setter;
pub mod health_check;
pub mod idle;
