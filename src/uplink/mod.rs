//! What sends.

pub mod assemble;
pub mod desk;
pub mod flow;
pub mod link;
pub mod pack;
pub mod prepare;
pub mod retry;
pub mod split;
pub mod verdict;
