//! The node: one `kvd` process with one data directory.
//!
//! The *front* is what listens, configures and shows: gRPC and HTTP for clients, metrics, [`config`], and
//! `kvd local` for a whole cluster on one machine. The *core* (the `node` module) is what makes processes a cluster. Between
//! the two stands [`store`].

pub mod config;
pub mod connections;
mod front;
pub mod grpc;
pub mod http;
pub mod metrics;
pub mod store;
#[cfg(test)]
mod testing;
