//! What the command line takes, and what it refuses.

use clap::CommandFactory as _;
use kvd_client::LeaseId;
use proptest::prelude::*;

use super::*;

#[test]
fn the_command_line_makes_sense() {
    Cli::command().debug_assert();
}

#[test]
fn durations() {
    for (text, millis) in [
        ("250ms", 250),
        ("3", 3_000),
        ("0", 0),
        ("3s", 3_000),
        ("2m", 120_000),
        ("1h30m", 5_400_000),
        ("1d1ms", 86_400_001),
    ] {
        assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
    }
    for wrong in [
        "",
        "s",
        "1w",
        "-1s",
        "1.5s",
        "+3",
        "1h30",
        "ms",
        "1 s",
        "99999999999999999999s",
        "18446744073709551615d",
    ] {
        assert!(duration(wrong).is_err(), "{wrong}");
    }
    assert!(positive_duration("0s").is_err());
}

#[test]
fn lease_ids_are_hexadecimal() {
    assert_eq!(lease_id("694d7a5e1b2c3d4e"), Ok(LeaseId(0x694d_7a5e_1b2c_3d4e)));
    assert_eq!(lease_id("0x1F"), Ok(LeaseId(31)));
    assert_eq!(lease_id("10"), Ok(LeaseId(16)));
    for wrong in ["", "0x", "0", "g", "-1", "+1", "00000000000000001"] {
        assert!(lease_id(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn levels_of_consistency() {
    for (text, level) in [
        ("linearizable", Level::Linearizable),
        ("lease", Level::Lease),
        ("session", Level::Session),
        ("bounded:2s", Level::Bounded(Duration::from_secs(2))),
        ("local", Level::Local),
    ] {
        assert_eq!(text.parse(), Ok(level));
        assert_eq!(level.to_string().parse(), Ok(level));
    }
    for wrong in ["", "bounded", "bounded:", "local:1s", "Local"] {
        assert!(wrong.parse::<Level>().is_err(), "{wrong}");
    }
}

#[test]
fn flags_may_follow_the_verb() {
    let cli = Cli::try_parse_from(["kvctl", "get", "a", "b", "-o", "json", "--endpoints", "x:1"]).unwrap();
    assert_eq!(cli.global.output, Format::Json);
    assert_eq!(cli.global.endpoints, "x:1");
}

#[test]
fn a_command_follows_two_dashes_and_keeps_its_flags() {
    let cli = Cli::try_parse_from(["kvctl", "lock", "n", "--", "sh", "-c", "-o", "--", "x"]).unwrap();
    let Verb::Lock(lock) = cli.verb else { unreachable!("{cli:?}") };
    assert_eq!(lock.command, ["sh", "-c", "-o", "--", "x"]);
}

#[test]
fn what_does_not_go_together_is_refused() {
    for wrong in [
        "put k v --if-absent --if-revision 1",
        "put k v --file f",
        "put k v --ttl 1s --lease 1",
        "put k v --ttl 0s",
        "put k v --ack some",
        "get",
        "get a b c",
        "get a b --prefix",
        "get a --prefix --from-key",
        "get a --all",
        "get a --rev 1 --resume t",
        "get a --count-only --keys-only",
        "get a --order sideways",
        "mget",
        "scan",
        "del",
        "del a --prefix --prev-kv",
        "del a b --if-revision 1",
        "txn f --interactive",
        "watch a --rev 1 --resume t",
        "watch a --count 0",
        "watch a --filter get",
        "lease grant",
        "lease grant 0",
        "lease revoke 0",
        "lock",
        "elect n",
        "elect n v --listen",
        "import f --concurrency 0",
        "get a --consistency eventual",
        "check",
        "check perf --load xl",
    ] {
        let words = ["kvctl"].into_iter().chain(wrong.split(' '));
        assert!(Cli::try_parse_from(words).is_err(), "{wrong}");
    }
}

#[test]
fn what_goes_together_is_taken() {
    for right in [
        "get a --prefix --limit 5 --order DESCEND --count",
        "get a b --min-mod-rev 1 --max-mod-rev 2 --min-create-rev 3 --max-create-rev 4",
        "scan --all --keys-only",
        "scan a",
        "del --prefix a",
        "del --all --namespace t/",
        "put k -5",
        "put k v --ttl 5s --if-absent --ack all",
        "txn --json f --check",
        "txn -i",
        "watch --prefix p --filter delete --filter put --progress 1s --count 3 -- echo -n",
        "lease keep-alive ab --once",
        "lease ttl ab --keys",
        "lock n --ttl 5s --wait 0s",
        "elect n -l",
        "check perf --load M -o json",
        "get k --consistency bounded:5s --any-replica --zone a --session-token t --print-session-token",
    ] {
        let words = ["kvctl"].into_iter().chain(right.split(' '));
        if let Err(error) = Cli::try_parse_from(words) {
            panic!("{right}: {error}");
        }
    }
}

#[test]
fn the_long_help_of_each_verb_on_data_has_examples() {
    let mut command = Cli::command();
    for verb in [
        "get", "mget", "scan", "put", "del", "txn", "watch", "lease", "ttl", "lock", "elect", "import",
        "export",
    ] {
        let help = command.find_subcommand_mut(verb).unwrap().render_long_help().to_string();
        assert!(help.contains("Examples:") && help.contains(&format!("kvctl {verb}")), "{verb}: {help}");
    }
}

proptest! {
    #[test]
    fn no_value_of_a_flag_makes_it_panic(text in "\\PC{0,12}|[0-9]{0,24}[a-z]{0,2}[0-9]{0,24}[a-z]{0,2}|bounded:.{0,6}") {
        let _seen = (duration(&text).is_ok(), lease_id(&text).is_ok(), text.parse::<Level>().is_ok());
        let _parsed = Cli::try_parse_from(["kvctl", "put", "k", "v", "--ttl", &text]).is_ok();
    }
}
