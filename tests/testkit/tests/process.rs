//! The testkit's own promises about the processes that it starts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]
use cairn_testkit::{Port, Process, wait_until};
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);

fn shell(script: &str, log: &Path) -> Process {
    let args = vec!["-c".into(), script.into()];
    Process::new("shell", Path::new("/bin/sh"), args, log.to_owned())
}

fn until_printed(process: &Process, what: &str) {
    wait_until(what, SOON, || Ok(process.log().contains(what).then_some(()))).unwrap();
}

#[test]
fn a_process_is_killed_started_again_and_asked_to_end() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = shell(
        "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done",
        &directory.path().join("log"),
    );
    process.start().unwrap();
    assert!(process.start().is_err(), "it runs already");
    until_printed(&process, "ready");
    process.kill().unwrap();
    assert!(!process.is_running());
    process.start().unwrap();
    until_printed(&process, "ready\nready");
    assert_eq!(process.terminate().unwrap().code(), Some(7));
    assert!(process.pid().is_err());
}

#[test]
fn a_paused_process_does_nothing_until_resumed() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = shell("while :; do echo x; sleep 0.01; done", &directory.path().join("log"));
    process.start().unwrap();
    until_printed(&process, "x\nx");
    process.pause().unwrap();
    let stat = format!("/proc/{}/stat", process.pid().unwrap().as_raw_nonzero());
    wait_until("stopped", SOON, || {
        Ok(std::fs::read_to_string(&stat)?.contains(") T ").then_some(()))
    })
    .unwrap();
    let len = process.log().len();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(process.log().len(), len);
    process.resume().unwrap();
    wait_until("more", SOON, || Ok((process.log().len() > len).then_some(()))).unwrap();
}

#[test]
fn processes_die_with_the_thread_that_started_them() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let process = std::thread::spawn(move || {
        let mut process = shell("echo ready; exec sleep 100", &log);
        process.start().unwrap();
        until_printed(&process, "ready");
        process
    });
    let mut process = process.join().unwrap();
    process.wait(SOON).unwrap();
}

#[test]
fn ports_are_given_once_at_a_time() {
    let ports: Vec<Port> = (0..20).map(|_| Port::take().unwrap()).collect();
    let numbers: std::collections::BTreeSet<_> = ports.iter().map(Port::address).collect();
    assert_eq!(numbers.len(), ports.len());
}

#[test]
fn waiting_names_what_did_not_come_and_why() {
    let e = wait_until("the moon", Duration::ZERO, || -> anyhow::Result<Option<()>> {
        anyhow::bail!("clouds")
    });
    let text = format!("{:#}", e.unwrap_err());
    assert!(text.contains("the moon") && text.contains("clouds"), "{text}");
}
