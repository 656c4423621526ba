//! Record append (promise 5) by commands, as users run them.
use crate::support::{SOON, cluster};
use std::io::Write;
use std::process::{Child, Command, Stdio};

const APPENDERS: usize = 3;
const LINES: usize = 1_200;
const LINE_BYTES: usize = 5_000;

fn line(who: usize, n: usize) -> String {
    format!("{who} {n} {}", "x".repeat((who * 7 + n * 13) % LINE_BYTES))
}

#[test]
fn promise_5_records_of_several_commands_are_there_once_although_chunkservers_are_killed() {
    let mut cluster = cluster().chunkservers(4).start().unwrap();
    let start = |_| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
        let command = command.args(["append", "--lines", "--master", &cluster.master_address(), "/log"]);
        command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut appenders: Vec<Child> = (0..APPENDERS).map(start).collect();
    let mut inputs: Vec<_> = appenders.iter_mut().map(|child| child.stdin.take().unwrap()).collect();
    for n in 0..LINES {
        for (who, input) in inputs.iter_mut().enumerate() {
            writeln!(input, "{}", line(who, n)).unwrap();
        }
        // many records are under way at each of these moments
        for server in 0..3 {
            if n == 200 + server * 300 {
                cluster.chunkservers[server].kill().unwrap();
            }
            if n == 350 + server * 300 {
                cluster.chunkservers[server].start().unwrap();
                cluster.wait_servers(4, SOON).unwrap();
            }
        }
    }
    drop(inputs);
    for child in appenders {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let printed = cluster.cairn(["records", "--data", "/log"]).unwrap();
    let mut next = [0; APPENDERS];
    for found in printed.lines() {
        let who: usize = found[..1].parse().unwrap();
        // each once, and those of one command in its order
        assert!(
            found == line(who, next[who]),
            "after {next:?}: {}",
            &found[..found.len().min(12)]
        );
        next[who] += 1;
    }
    assert_eq!(next, [LINES; APPENDERS]);
    cluster.wait_healthy(SOON).unwrap();
}
