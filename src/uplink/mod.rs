//! What sends.

pub mod assemble;
pub mod link;
pub mod pack;
pub mod retry;
pub mod split;
pub mod verdict;
