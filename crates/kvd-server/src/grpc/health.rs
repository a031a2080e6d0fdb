//! The standard health service, following the store's.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use super::SERVICES;
use crate::store::Store;

/// How long a change may go unseen.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Reports the store's health, for the server as a whole and for each service, until told to stop; then all of it as
/// not serving.
pub(super) async fn follow(reporter: HealthReporter, store: Arc<dyn Store>, shutdown: CancellationToken) {
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    let mut reported = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = look.tick() => {}
        }
        let ready = store.health().is_ready();
        if reported != Some(ready) {
            report(&reporter, ready).await;
            reported = Some(ready);
        }
    }
    report(&reporter, false).await;
}

async fn report(reporter: &HealthReporter, ready: bool) {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in SERVICES.into_iter().chain([""]) {
        reporter.set_service_status(service, status).await;
    }
}
