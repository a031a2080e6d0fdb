//! The long help texts: what `--help` says beyond the flags.

pub(super) const ABOUT: &str = "\
The command line of kvd, a distributed key-value store.

Results go to standard output, everything else to standard error. Keys and values are bytes: the output has them as they \
are, a line each; with -o json they are strings, or stand in base64 under key_base64 and value_base64 where they are not \
UTF-8. In JSON, numbers of 64 bits are strings.";

pub(super) const AFTER: &str = "\
Examples:
  kvctl put greeting hello
  kvctl get greeting
  kvctl get users/ --prefix --limit 10
  kvctl watch users/ --prefix
  kvctl lock nightly -- ./report.sh
  kvctl --endpoints 10.0.0.1:7400,10.0.0.2:7400 status

Exit codes:
  0  done                      4  a condition failed
  1  failed                    5  unavailable: try again
  2  wrongly used              6  outcome unknown: it may have been applied
  3  not found                 7  denied";

pub(super) const CONSISTENCY: &str = "\
How recent a read must be:
  linearizable      it sees every write that was finished before it was asked for
  lease             the same, as long as clocks run no faster than the cluster allows for; cheaper
  session           it sees what this run, and the printer of --session-token, has seen; from any replica
  bounded:DURATION  it misses nothing that was finished this long ago; from any replica
  local             it sees whatever the replica has; from any replica
Ranges are read as of one moment and miss nothing, whatever the level: for them it only says who may serve them.";

pub(super) const GET: &str = "\
Prints each key and its value, a line each. A single key that does not exist is exit code 3; a range without keys is no \
failure. A range is read in order, as of one moment, and printed as it comes, however large it is.

Where --limit stopped it, a token is printed on standard error: the same command with --resume TOKEN goes on from there, \
as of the same moment, as long as the cluster keeps what was overwritten since.

Examples:
  kvctl get greeting
  kvctl get greeting --rev 1882359445596405760
  kvctl get users/ --prefix --keys-only
  kvctl get a f                        # from a up to, but without, f
  kvctl get m --from-key --limit 100
  kvctl get users/ --prefix --order descend --limit 1
  kvctl get users/ --prefix --count-only
  kvctl get greeting --consistency bounded:5s --zone eu-1";

pub(super) const MGET: &str = "\
Prints those keys that exist, in the order asked for. If some do not exist, standard error names them, and the exit code \
is 3. Keys of one shard are read at one moment, those of different shards are not, unless --rev says of when.

Examples:
  kvctl mget user/7 user/8
  kvctl mget a b c --print-value-only";

pub(super) const SCAN: &str = "\
The same as get over a range; without END it goes on to the last key.

Examples:
  kvctl scan --all --keys-only
  kvctl scan users/ --prefix
  kvctl scan a f --limit 100
  kvctl scan a f --limit 100 --resume TOKEN
  kvctl scan m --order descend";

pub(super) const PUT: &str = "\
A key lapses with its --ttl or its --lease; a put without either makes it stay. With a condition that did not hold the \
exit code is 4, and standard error says what is there instead.

With --ack all it counts as done only once all replicas have it on disk. If one of them is down, the exit code is 6: it is \
applied all the same.

Examples:
  kvctl put greeting hello
  kvctl put greeting hello --ttl 10m
  kvctl put workers/7 here --lease 694d7a5e1b2c3d4e
  kvctl put config < config.toml
  kvctl put config --file config.toml --if-revision 1882359445596405760
  kvctl put lock me --if-absent
  kvctl put -- --odd-key -odd-value";

pub(super) const DEL: &str = "\
Prints how many keys were removed. A single key that does not exist is exit code 3.

A range is removed step by step, not in one moment: a key that is written meanwhile may stay. If that fails in between, \
the count says how many are gone at least; the same command again goes on. To remove everything, say --all.

Examples:
  kvctl del greeting
  kvctl del greeting --if-revision 1882359445596405760 --prev-kv
  kvctl del sessions/ --prefix
  kvctl del a f                        # from a up to, but without, f
  kvctl del m --from-key
  kvctl del --all --namespace test/";

pub(super) const TXN: &str = "\
The transaction has three parts with an empty line after each: compares, what is done if all of them hold, and what is done \
if one does not. All its keys must be in one shard: give them the same {tag}.

  compares   TARGET(\"KEY\") OP \"VALUE\"
             TARGET: mod (m), create (c), version (ver), value (val), lease    OP: = != < >
  requests   get KEY
             put KEY VALUE [--ttl DURATION | --lease ID] [--prev-kv]
             del KEY [--prev-kv]

Of a key that does not exist all numbers are 0. Words may stand in \"double quotes\" with the escapes of Go (\\n, \\x00, \\u00e9), \
or in 'single quotes' without escapes. Lease ids are hexadecimal.

It prints SUCCESS or FAILURE, and then the result of each request after an empty line. Both are exit code 0, unless --check \
is given: then FAILURE is 4.

In JSON (--json): {\"compares\": [{\"key\": \"k\", \"target\": \"mod\", \"op\": \">\", \"value\": \"0\"}],
  \"then\": [{\"put\": {\"key\": \"k\", \"value\": \"v\", \"ttl\": \"10s\"}}, {\"get\": {\"key\": \"k\"}}],
  \"otherwise\": [{\"del\": {\"key\": \"k\", \"prev_kv\": true}}]}; key_base64 and value_base64 for what is not text.

Examples:
  kvctl txn -i
  kvctl txn move.txn --check
  printf 'mod(\"{a}x\") > \"0\"\\n\\nput {a}x new\\n\\nput {a}x first\\n' | kvctl txn
  kvctl txn --json move.json -o json";

pub(super) const WATCH: &str = "\
Prints PUT or DELETE, the key and the value, a line each; with --prev-kv the key and the value before, where there were any, come \
in between. The changes of one key come in order, each once, whichever node fails meanwhile. It ends with Ctrl-C, or after \
--count changes, and prints then a token on standard error: with --resume TOKEN a later watch of the same keys goes on \
from there. In JSON, the last change before each token has it under \"resume\".

A COMMAND is run for each change, one at a time, without a shell, with these variables; if it fails, that is told, and the \
watch goes on:
  KVD_WATCH_EVENT_TYPE   PUT or DELETE
  KVD_WATCH_KEY          the key
  KVD_WATCH_VALUE        the new value; of a PUT
  KVD_WATCH_REVISION     the revision of the change
  KVD_WATCH_PREV_VALUE   the value before; with --prev-kv, if there was one
What no variable can hold (a zero byte, more than 96 KiB) is left out, and that is told.

Examples:
  kvctl watch greeting
  kvctl watch users/ --prefix --prev-kv -o json
  kvctl watch a f --rev 1882359445596405760
  kvctl watch config --filter delete -- sh -c 'echo \"$KVD_WATCH_VALUE\" > config.toml && systemctl reload it'
  kvctl watch jobs/ --prefix --count 1";

pub(super) const LEASE: &str = "\
Ids of leases are hexadecimal wherever kvctl reads or writes them, in JSON too. While a lease's shard has no leader, its time \
stands still.

Examples:
  kvctl lease grant 60s
  kvctl put workers/7 here --lease 694d7a5e1b2c3d4e
  kvctl lease keep-alive 694d7a5e1b2c3d4e
  kvctl lease timetolive 694d7a5e1b2c3d4e --keys
  kvctl lease revoke 694d7a5e1b2c3d4e";

pub(super) const TTL: &str = "\
Prints the time that the key has left by itself or by its lease, or forever. A lease that is kept alive starts anew each time. \
If the key does not exist the exit code is 3.

Examples:
  kvctl put code 1234 --ttl 10m
  kvctl ttl code";

pub(super) const LOCK: &str = "\
With a COMMAND, runs it once the lock is held, gives the lock back when it ends, and ends with its exit code (128 + N if signal \
N killed it, 127 if there is no such command, 126 if it can't be run). Without one, prints the lock's key and fencing token, \
a line each, and holds it until Ctrl-C.

If the lock is lost, because the cluster could not be reached for --ttl, the command is killed (and, where there is no \
terminal, all that it has started) and the exit code is 1. A \
process that was paused may notice late: what must not happen twice should be fenced, with the token. The command has these \
variables:
  KVD_LOCK_KEY     the holder's key
  KVD_LOCK_TOKEN   the fencing token: higher for each later holder
  KVD_LOCK_LEASE   the lease of the key, in hexadecimal

If --wait was not long enough the exit code is 4.

Examples:
  kvctl lock nightly -- ./report.sh --all
  kvctl lock deploy --wait 1s -- ./deploy.sh
  kvctl lock deploy --ttl 30s";

pub(super) const ELECT: &str = "\
Stands for election, prints the leader's key, value and fencing token, a line each, once it leads, and leads until Ctrl-C. If \
the leadership is lost the exit code is 1. With --listen it prints the key and value of each leader.

Examples:
  kvctl elect scheduler node-7:9000
  kvctl elect scheduler --listen -o json";

pub(super) const CHECK_PERF: &str = "\
64 clients write and then read, each as fast as it is answered, beside whatever else the cluster has to do, which will feel \
it. The reads are of the --consistency that is asked for. PASS, and exit code 0, means:
  at least 500 writes and 1000 reads a second
  99% of the writes, and of the reads, within 250 ms, and none slower than 1000 ms
  no errors
Otherwise it is FAIL, and exit code 1. A cluster of machines of its own on local SSDs does many times that: what counts is \
the figures, and how they compare with what they were before.

The keys begin with kvctl-check-perf/ and are deleted at the end, on Ctrl-C too.

Examples:
  kvctl check perf
  kvctl check perf --load l -o json
  kvctl check perf --consistency local";

pub(super) const IMPORT: &str = "\
Of two lines with the same key the later one wins. If it fails, it says up to which line all are in; to import a line \
again does no harm.

Examples:
  kvctl import packages.jsonl
  zcat backup.jsonl.gz | kvctl import - --concurrency 1024";

pub(super) const EXPORT: &str = "\
All as of one moment. What is exported can be imported; leases and times to live are not part of it.

Examples:
  kvctl export > all.jsonl
  kvctl export --prefix users/ | gzip > users.jsonl.gz";

pub(super) const COMPLETION: &str = "\
Examples:
  source <(kvctl completion bash)
  kvctl completion zsh > \"${fpath[1]}/_kvctl\"
  kvctl completion fish > ~/.config/fish/completions/kvctl.fish";
