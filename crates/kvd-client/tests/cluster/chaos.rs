//! Random faults: whatever happens, no write happens twice, and what was acknowledged happened.

use std::time::Duration;

use futures::future::join_all;
use kvd_client::{Client, Config, Error};
use proptest::prelude::*;

use crate::fake::{Fake, Fault};

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        12 => Just(Fault::Nothing),
        2 => Just(Fault::BreakAfter),
        2 => Just(Fault::BreakBefore),
        1 => Just(Fault::HangAfter),
        1 => Just(Fault::HangBefore),
        1 => Just(Fault::ExpireSessions),
        2 => Just(Fault::Refuse(Error::unavailable("an election"))),
        1 => Just(Fault::Refuse(Error::overloaded(Duration::from_millis(5), "full"))),
        1 => Just(Fault::Refuse(Error::unknown("the leader is gone"))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn no_write_happens_twice(faults in proptest::collection::vec(fault(), 1..300)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let fake = Fake::new(3, 2);
            let config = Config::from(fake.endpoints())
                .deadline(Duration::from_secs(2))
                .try_timeout(Duration::from_millis(60));
            let client = Client::connect(config).await.unwrap();
            fake.inject(faults);
            let writers = (0..8).map(|writer| {
                let client = client.clone();
                async move {
                    let (mut done, mut unknown) = (0, 0);
                    for _ in 0..10 {
                        match client.put(format!("writer-{writer}"), "v").await {
                            Ok(_) => done += 1,
                            Err(error) if error.outcome_unknown() => unknown += 1,
                            Err(_) => {}
                        }
                    }
                    (writer, done, unknown)
                }
            });
            let counts = join_all(writers).await;
            fake.applied_once();
            fake.world.lock().faults.clear();
            for (writer, done, unknown) in counts {
                let version = client.get(format!("writer-{writer}")).await.unwrap().map_or(0, |it| it.version);
                prop_assert!(
                    (done..=done + unknown).contains(&version),
                    "{done} acknowledged, {unknown} unknown, {version} happened"
                );
            }
            Ok(())
        })?;
    }
}
