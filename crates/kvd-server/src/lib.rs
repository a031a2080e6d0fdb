//! The node: one `kvd` process with one data directory.
//!
//! The *front* is what listens, configures and shows: [`grpc`] and [`mod@http`] for clients, [`metrics`], [`config`],
//! and [`local`] for a whole cluster on one machine. The *core* (the `node` module) is what makes processes a cluster. Between
//! the two stands [`store`]; under both, the machine, or a simulation of one, is behind [`platform`].

pub mod config;
pub mod connections;
pub mod failpoints;
mod front;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod grpc;
pub mod http;
pub mod local;
pub mod metrics;
pub mod node;
pub mod platform;
pub mod store;
pub mod telemetry;
#[cfg(test)]
mod testing;
