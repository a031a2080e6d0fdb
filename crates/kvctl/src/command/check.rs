//! `check perf`: whether a cluster is as fast as one may expect, by a short load of puts and then of gets.
//!
//! The same number of clients is always at work, each of which begins its next request when the last one is answered. The keys
//! have a prefix that nobody else has, and are deleted at the end, on Ctrl-C too: nothing is begun any more then, and what is
//! under way is waited for, so that no late write leaves a key behind.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use hdrhistogram::Histogram;
use kvd_client::{Client, Error};
use rustix::process::Signal;
use tokio::{task::JoinSet, time::interval};

use super::{
    Stdout,
    interrupt::{Interrupts, code_of},
    progress::Progress,
    read::get_at_level,
};
use crate::{
    cli::{CheckPerf, Global, Load},
    failure::{Failure, Result},
    output::{PerfReport, Phase},
};

/// Clients that make requests at the same time.
const CLIENTS: u64 = 64;
/// Keys that are written and read.
const KEYS: u64 = 10_000;
/// What all keys begin with, whoever checks.
const PREFIX: &str = "kvctl-check-perf/";
/// The longest time that is told apart, in microseconds: that of the longest timeout.
const TIME_MICROS_MAX: u64 = 60_000_000;
/// How often progress is shown.
const SHOWN: Duration = Duration::from_millis(200);

impl Load {
    /// Bytes of a value.
    const fn value_bytes(self) -> usize {
        match self {
            Self::S => 128,
            Self::M => 1 << 10,
            Self::L => 16 << 10,
        }
    }

    /// How long puts take, and how long gets.
    const fn time(self) -> Duration {
        Duration::from_secs(match self {
            Self::S => 2,
            Self::M => 5,
            Self::L => 15,
        })
    }
}

/// What all clients share.
struct Shared {
    client: Client,
    global: Global,
    prefix: String,
    value: Vec<u8>,
    stop: AtomicBool,
    /// Requests that were answered, for people.
    answered: AtomicU64,
}

/// What is asked for.
#[derive(Clone, Copy)]
enum Request {
    Put,
    Get,
}

/// The times of what was answered, in microseconds, and how much failed, by why.
struct Counted {
    times: Histogram<u64>,
    errors: BTreeMap<String, u64>,
}

pub(super) async fn perf(
    client: &Client,
    global: &Global,
    arguments: &CheckPerf,
    output: &mut Stdout,
) -> Result<()> {
    let load = arguments.load;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let prefix = format!("{PREFIX}{}-{}/", std::process::id(), since_epoch.as_micros());
    let shared = Arc::new(Shared {
        client: client.clone(),
        global: global.clone(),
        prefix,
        // One letter does: what is put goes to the log as it is.
        value: vec![b'x'; load.value_bytes()],
        stop: AtomicBool::new(false),
        answered: AtomicU64::new(0),
    });
    let mut report = PerfReport::new(load, CLIENTS, load.value_bytes());
    let measured = measure(&shared, load.time(), &mut report).await;
    if let Err(error) = client.delete_prefix(&shared.prefix).await {
        return Err(Failure::Stopped {
            message: format!(
                "the keys of the check are left; kvctl del --prefix {PREFIX} deletes them: {error}"
            ),
            cause: Box::new(error.error.into()),
        });
    }
    measured?;
    output.perf(&report)?;
    // What failed stands in the report.
    if report.passed() { Ok(()) } else { Err(Failure::Exit(1)) }
}

async fn measure(shared: &Arc<Shared>, time: Duration, report: &mut PerfReport) -> Result<()> {
    let mut interrupts = Interrupts::new()?;
    let mut errors = BTreeMap::new();
    report.puts = run(shared, Request::Put, time, &mut interrupts, &mut errors).await?;
    report.gets = run(shared, Request::Get, time, &mut interrupts, &mut errors).await?;
    report.errors = errors;
    Ok(())
}

/// Has all clients make requests for a while; or until a signal comes, which is the failure.
async fn run(
    shared: &Arc<Shared>,
    request: Request,
    time: Duration,
    interrupts: &mut Interrupts,
    errors: &mut BTreeMap<String, u64>,
) -> Result<Phase> {
    let what = match request {
        Request::Put => "writes",
        Request::Get => "reads",
    };
    let (mut progress, mut shown) = (Progress::begin(what, None), interval(SHOWN));
    let began = Instant::now();
    let end = began + time;
    shared.answered.store(0, Ordering::Relaxed);
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(make_requests(Arc::clone(shared), request, number, end));
    }
    let mut counted = Counted::new()?;
    let mut signal: Option<Signal> = None;
    loop {
        tokio::select! {
            joined = clients.join_next() => match joined {
                Some(joined) => counted.add(joined.map_err(std::io::Error::other)??)?,
                None => break,
            },
            _ = shown.tick() => progress.reached(shared.answered.load(Ordering::Relaxed)),
            came = interrupts.next() => {
                signal = Some(came);
                shared.stop.store(true, Ordering::Relaxed);
            }
        }
    }
    progress.reached(shared.answered.load(Ordering::Relaxed));
    progress.end();
    if let Some(signal) = signal {
        return Err(Failure::Exit(code_of(signal.as_raw())));
    }
    let phase = phase(&counted.times, began.elapsed());
    for (error, count) in counted.errors {
        *errors.entry(error).or_default() += count;
    }
    Ok(phase)
}

/// One client. It has every so many-th key for itself, over and over.
async fn make_requests(shared: Arc<Shared>, request: Request, number: u64, end: Instant) -> Result<Counted> {
    let mut counted = Counted::new()?;
    let keys = (number..KEYS).step_by(usize::try_from(CLIENTS).unwrap_or(usize::MAX)).cycle();
    for key in keys {
        let began = Instant::now();
        if began >= end || shared.stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("{}{key:06}", shared.prefix);
        let done = match request {
            Request::Put => shared.client.put(key, shared.value.as_slice()).await.map(drop),
            Request::Get => get_at_level(shared.client.get(key), &shared.global).await.map(drop),
        };
        counted.note(began.elapsed(), done);
        shared.answered.fetch_add(1, Ordering::Relaxed);
    }
    Ok(counted)
}

impl Counted {
    fn new() -> Result<Self> {
        const DIGITS: u8 = 2;
        let times = Histogram::new_with_max(TIME_MICROS_MAX, DIGITS).map_err(std::io::Error::other)?;
        Ok(Self { times, errors: BTreeMap::new() })
    }

    fn note(&mut self, time: Duration, done: Result<(), Error>) {
        match done {
            Ok(()) => {
                self.times.saturating_record(u64::try_from(time.as_micros()).unwrap_or(TIME_MICROS_MAX));
            }
            Err(error) => {
                // The kind alone: messages have times and keys in them, and would each count alone.
                let kind = format!("{:?}", error.kind);
                let kind = kind.split(['(', ' ']).next().unwrap_or_default().to_owned();
                *self.errors.entry(kind).or_default() += 1;
            }
        }
    }

    fn add(&mut self, other: Self) -> Result<()> {
        self.times.add(other.times).map_err(std::io::Error::other)?;
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people: 53 bits are enough")]
fn phase(times: &Histogram<u64>, time: Duration) -> Phase {
    let ms = |micros: u64| micros as f64 / 1000.0;
    Phase {
        per_second: times.len() as f64 / time.as_secs_f64(),
        p50_ms: ms(times.value_at_quantile(0.5)),
        p99_ms: ms(times.value_at_quantile(0.99)),
        slowest_ms: ms(times.max()),
    }
}
