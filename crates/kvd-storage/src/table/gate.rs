//! Who may change a replica's tree in the engine, and who keeps it still.
//!
//! Either any number of holds, or one exclusive user. Unlike a read-write lock its guards may be dropped on another
//! thread, and a waiting exclusive user keeps no hold out: scans must not wait for a drain that waits for a checkpoint.
//! Exclusive users can't starve: checkpoints are rare, and a scan holds only after drains have overtaken it.

use parking_lot::{Condvar, Mutex};

#[derive(Debug, Default)]
pub(super) struct Gate {
    users: Mutex<Users>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Users {
    holds: usize,
    exclusive: bool,
}

#[derive(Debug)]
#[must_use]
pub(super) struct Hold<'a>(&'a Gate);

#[derive(Debug)]
#[must_use]
pub(super) struct Exclusive<'a>(&'a Gate);

impl Gate {
    pub(super) fn hold(&self) -> Hold<'_> {
        let mut users = self.users.lock();
        self.changed.wait_while(&mut users, |users| users.exclusive);
        users.holds += 1;
        Hold(self)
    }

    pub(super) fn exclusive(&self) -> Exclusive<'_> {
        let mut users = self.users.lock();
        self.changed.wait_while(&mut users, |users| users.exclusive || users.holds > 0);
        users.exclusive = true;
        Exclusive(self)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.users.lock().holds -= 1;
        self.0.changed.notify_all();
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        self.0.users.lock().exclusive = false;
        self.0.changed.notify_all();
    }
}
