//! Where a simulation's process gets its randomness and its time from: the seed, whoever asks.
//!
//! # The problem
//! The same seed must give the same run. Our own code draws through seams, but libraries don't: a hash map of the
//! standard library seeds itself from the operating system and is walked in another order with each run, and a connection
//! measures its age by the real clock.
//!
//! # The approach
//! This program defines the two functions of the C library that such draws and readings end in. The linker takes a program's own
//! definition before a library's. Until [`begin`] is called they do what they always do. From then on the numbers come
//! from a counter that is mixed (SplitMix64), and the time is what [`set_time`] said last.
//!
//! # What it deliberately does not do
//! It does not hide that a process can only be one simulation: there is one seed for each. Randomness of address spaces
//! remains; nothing in a simulation may depend on addresses.

#![expect(unsafe_code, reason = "functions that C code calls are unsafe to define; nothing else here is")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kvd_storage::disk::chance::{STEP, mix};

static SIMULATED: AtomicBool = AtomicBool::new(false);
static DRAWS: AtomicU64 = AtomicU64::new(0);
static NOW_NS: AtomicU64 = AtomicU64::new(0);

const NS_PER_S: u64 = 1_000_000_000;

/// From now on everything that this process draws follows from the seed, and its clocks stand still but for [`set_time`].
pub fn begin(seed: u64, now_ns: u64) {
    DRAWS.store(mix(seed), Ordering::SeqCst);
    NOW_NS.store(now_ns, Ordering::SeqCst);
    SIMULATED.store(true, Ordering::SeqCst);
}

/// What all clocks of the process show from now on, in nanoseconds since the Unix epoch.
pub fn set_time(now_ns: u64) {
    NOW_NS.store(now_ns, Ordering::SeqCst);
}

/// Draws a number.
#[must_use]
pub fn draw() -> u64 {
    mix(DRAWS.fetch_add(STEP, Ordering::SeqCst))
}

/// The C library's time, as it lies in memory.
#[repr(C)]
struct TimeSpec {
    seconds: i64,
    nanoseconds: i64,
}

/// See `getrandom(2)`.
///
/// # Safety
/// `buffer` must point to `length` writable bytes, as for the function of that name in the C library.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: the caller's promise, which is the C library's contract.
    let buffer = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    if SIMULATED.load(Ordering::SeqCst) {
        for chunk in buffer.chunks_mut(8) {
            let drawn = draw().to_le_bytes();
            for (to, from) in chunk.iter_mut().zip(drawn) {
                *to = from;
            }
        }
        return isize::try_from(length).unwrap_or(-1);
    }
    match rustix::rand::getrandom(buffer, rustix::rand::GetRandomFlags::empty()) {
        Ok(filled) => isize::try_from(filled).unwrap_or(-1),
        Err(_) => -1,
    }
}

/// See `clock_gettime(2)`.
///
/// # Safety
/// `time` must point to a writable `timespec`, as for the function of that name in the C library.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: i32, time: *mut TimeSpec) -> i32 {
    let told = if SIMULATED.load(Ordering::SeqCst) {
        let now_ns = NOW_NS.load(Ordering::SeqCst);
        TimeSpec {
            seconds: i64::try_from(now_ns / NS_PER_S).unwrap_or(i64::MAX),
            nanoseconds: i64::try_from(now_ns % NS_PER_S).unwrap_or_default(),
        }
    } else {
        // 0 is the time of day; all others that anybody here asks for are some monotonic clock.
        let which =
            if clock == 0 { rustix::time::ClockId::Realtime } else { rustix::time::ClockId::Monotonic };
        let real = rustix::time::clock_gettime(which);
        TimeSpec { seconds: real.tv_sec, nanoseconds: real.tv_nsec }
    };
    // SAFETY: the caller's promise, which is the C library's contract.
    unsafe { time.write(told) };
    0
}

/// A seed by chance, for a process that is no simulation itself.
#[must_use]
pub fn fresh_seed() -> u64 {
    // Short enough to be typed.
    u64::from(rand::random::<u32>())
}
