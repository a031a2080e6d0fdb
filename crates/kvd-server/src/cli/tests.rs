//! The command line as such.

use super::*;

#[test]
fn it_holds_together() {
    command().debug_assert();
}

#[test]
fn the_defaults_that_help_names_are_the_real_ones() {
    let matches = command().try_get_matches_from(["kvd", "local"]).unwrap();
    let (_, local) = matches.subcommand().unwrap();
    assert_eq!(local.get_one::<u16>("base-port"), Some(&local::BASE_PORT_DEFAULT));
    let help = local_command().render_help().to_string();
    assert!(help.contains(&format!("or {}]", local::NODES_DEFAULT)), "{help}");
}

#[test]
fn a_childs_arguments_are_a_nodes() {
    let flag = format!("--{}", local::STOP_ON_STDIN_CLOSE);
    let matches = command().try_get_matches_from(["kvd", "serve", "--zone=a", &flag]).unwrap();
    let (_, serve) = matches.subcommand().unwrap();
    assert!(serve.get_flag(local::STOP_ON_STDIN_CLOSE));
    let help = command().find_subcommand_mut("serve").unwrap().render_help().to_string();
    assert!(
        !help.contains(&flag) && help.contains("--raft-heartbeat-ms") && !help.contains("token"),
        "{help}"
    );
}
