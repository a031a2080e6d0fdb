//! Opening an engine whose files may be damaged.
//!
//! Damage can make an open panic, and what the panic unwinds may then wait for ever for a thread that was never started.
//! So opening has a thread of its own, which is left behind when it panics; whoever waits for it is told of the panic by
//! the panic hook, the only code that runs before the unwinding. It becomes an error, so that the state can be rebuilt.

use std::{
    cell::Cell,
    io, panic,
    sync::{Arc, mpsc},
    thread,
};

use parking_lot::Mutex;

/// Does something of an engine's on a thread of its own. If it panics that is an error like any other, told by whoever
/// gets it and by nobody else; the thread may be left behind, with all it holds.
pub(super) fn survive_panics<T: Send + 'static>(
    engine: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    thread_local! {
        /// Whether this is the thread whose panic is waited for.
        static IS_WATCHED: Cell<bool> = const { Cell::new(false) };
    }
    /// The hook is the whole process's: two of these at once would not put it back as it was.
    static HOOK: Mutex<()> = Mutex::new(());
    let _only = HOOK.lock();
    let (done, ended) = mpsc::sync_channel(1);
    let panicked = done.clone();
    let hook = Arc::new(panic::take_hook());
    let original = Arc::clone(&hook);
    panic::set_hook(Box::new(move |panic| {
        if !IS_WATCHED.get() {
            return hook(panic);
        }
        let why = panic.payload_as_str().unwrap_or("it does not say why");
        drop(panicked.try_send(Err(io::Error::other(format!("{engine} panicked: {why}")))));
    }));
    let spawned = thread::Builder::new().name("engine-open".to_owned()).spawn(move || {
        IS_WATCHED.set(true);
        drop(done.send(work()));
    });
    let outcome = match spawned {
        Ok(_) => ended
            .recv()
            .unwrap_or_else(|_gone| Err(io::Error::other(format!("{engine} ended without a word")))),
        Err(error) => Err(error),
    };
    panic::set_hook(Box::new(move |panic| original(panic)));
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_while_opening_is_an_error_that_says_why() {
        let error = survive_panics("sled", || -> io::Result<()> { panic!("a leaf is missing") }).unwrap_err();
        assert_eq!(error.to_string(), "sled panicked: a leaf is missing");
        let number: u32 = survive_panics("sled", || "x".parse().or(Ok(7))).unwrap();
        assert_eq!(number, 7);
        survive_panics("sled", || Err::<(), _>(io::Error::other("no"))).unwrap_err();
    }
}
