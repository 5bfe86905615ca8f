//! What stands beside the pipelines: told how everyone is, and nobody on the data path waits for it.
//!
//! | folder | what |
//! |---|---|
//! | `health_check/` | answers whether the agent is available |

pub mod health_check;
