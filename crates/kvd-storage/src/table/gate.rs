//! Who may change a replica's tree in the engine, and who keeps it still.
//!
//! Either any number of holds, or one exclusive user. Unlike a read-write lock its guards may be dropped on another
//! thread, and a waiting exclusive user keeps no hold out: scans must not wait for a drain that waits for a checkpoint.
//! Exclusive users can't starve: checkpoints are rare, and a scan holds only after drains have overtaken it.
//!
//! Beside them there may be cuts, which keep out only who wants to be alone.

use parking_lot::{Condvar, Mutex};

#[derive(Debug, Default)]
pub(super) struct Gate {
    users: Mutex<Users>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Users {
    holds: usize,
    cuts: usize,
    exclusive: bool,
}

#[derive(Debug)]
#[must_use]
pub(super) struct Hold<'a>(&'a Gate);

#[derive(Debug)]
#[must_use]
pub(super) struct Cut<'a>(&'a Gate);

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
        self.exclusive_unless(|users| users.holds > 0)
    }

    /// Exclusive of cuts too.
    pub(super) fn alone(&self) -> Exclusive<'_> {
        self.exclusive_unless(|users| users.holds > 0 || users.cuts > 0)
    }

    fn exclusive_unless(&self, is_in_use: impl Fn(&Users) -> bool) -> Exclusive<'_> {
        let mut users = self.users.lock();
        self.changed.wait_while(&mut users, |users| users.exclusive || is_in_use(users));
        users.exclusive = true;
        Exclusive(self)
    }
}

impl<'a> Hold<'a> {
    /// Lets exclusive users in, but for those who want to be alone.
    pub(super) fn into_cut(self) -> Cut<'a> {
        self.0.users.lock().cuts += 1;
        Cut(self.0)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.users.lock().holds -= 1;
        self.0.changed.notify_all();
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        self.0.users.lock().cuts -= 1;
        self.0.changed.notify_all();
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        self.0.users.lock().exclusive = false;
        self.0.changed.notify_all();
    }
}
