//! Stopping a node so that nobody notices more than they must.

use super::{Duration, Error, Group, Node, NodeDisk, Result};

/// How long one successor may take to take over.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(1);

impl Node {
    /// Hands every group that this node leads to a replica that has caught up.
    pub(super) async fn step_back(&self) {
        let Ok(replicas) = self.replicas() else { return };
        let led: Vec<Group> = replicas.all().into_iter().filter(|group| group.leadership().is_self).collect();
        let handed_over = futures::future::join_all(led.iter().map(|group| self.find_successor(group))).await;
        let done = handed_over.iter().filter(|done| **done).count();
        tracing::info!(leaders = led.len(), handed_over = done, "stepping back");
    }

    /// Closes the replicas and the disk, and notes that nothing was lost.
    pub(super) async fn close(&self) -> Result<()> {
        if let Ok(replicas) = self.replicas() {
            replicas.close_all().await;
        }
        if self.fault.lock().is_some() {
            return Ok(());
        }
        let disk = self.disk()?;
        let closed = self.platform.blocking().run(move || Ok(NodeDisk::close(&disk)));
        closed.await.map_err(|error| Error::internal(error.to_string()))??;
        tracing::info!("stopped; nothing was lost");
        Ok(())
    }

    /// Hands a group over to the first that takes it: one may have stopped a moment ago, which is not known yet.
    async fn find_successor(&self, group: &Group) -> bool {
        let members = group.members();
        let successors =
            members.voters.keys().filter(|&&id| id != group.replica() && members.is_caught_up(id));
        for &successor in successors {
            match self.hand_over(group, successor, HAND_OVER_PATIENCE).await {
                Ok(()) => return true,
                Err(error) => tracing::info!(group = %group.id(), %error, "leadership was not handed over"),
            }
            if !group.leadership().is_self {
                // Somebody leads, if not the one that was asked.
                return true;
            }
        }
        false
    }
}
