//! gRPC over the simulated network: it works, it survives a crash and a partition, and the same seed gives the same
//! trace, in this process and in another.
#![allow(clippy::unwrap_used, clippy::expect_used)]
use cairn_io::sim::{self, SimClock, SimNet, Trace};
use cairn_io::{Env, grpc};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const SERVERS: [&str; 3] = ["one", "two", "three"];
const PORT: u16 = 7000;
const DEADLINE: Duration = Duration::from_millis(300);
/// Set where the test starts itself in another process, to print what it saw.
const CHILD: &str = "CAIRN_TEST_PRINT_DIGEST";

async fn serve(env: Env) -> turmoil::Result {
    let listener = env.net.bind(([0, 0, 0, 0], PORT).into()).await?;
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("cairn", ServingStatus::Serving).await;
    let server = tonic::transport::Server::builder()
        .layer(grpc::dated(env.clock.clone()))
        .add_service(service);
    server.serve_with_incoming(grpc::incoming(listener)).await?;
    Ok(())
}

async fn ask(env: &Env, server: &str) -> Result<i32, String> {
    let channel = grpc::connect(env.net.clone(), &format!("{server}:{PORT}"), DEADLINE).await;
    let mut client = HealthClient::new(channel.map_err(|e| e.to_string())?);
    let service = "cairn".to_owned();
    let answer = tokio::time::timeout(DEADLINE, client.check(HealthCheckRequest { service })).await;
    let answer = answer.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    Ok(answer.into_inner().status)
}

/// ((hash of the trace, its length), rounds in which all answered, rounds in which one did not)
fn run(seed: u64) -> ((u64, u64), usize, usize) {
    let trace = Trace::new();
    let mut world = turmoil::Builder::new()
        .rng_seed(seed)
        .enable_random_order()
        .simulation_duration(Duration::from_secs(60))
        .max_message_latency(Duration::from_millis(20))
        .build();
    for (i, name) in SERVERS.into_iter().enumerate() {
        let env = sim::env(&SimClock::new(i as u64), &SimNet::new(trace.clone()), seed + i as u64);
        world.host(name, move || serve(env.clone()));
    }
    let rounds = Arc::new(Mutex::new((0, 0)));
    let counted = rounds.clone();
    let env = sim::env(&SimClock::new(9), &SimNet::new(trace.clone()), seed + 9);
    let marks = trace.clone();
    world.client("client", async move {
        while env.clock.now().0 < Duration::from_secs(20) {
            let mut answers = 0;
            for server in SERVERS {
                let answer = ask(&env, server).await;
                marks.mark(if answer == Ok(1) { "yes" } else { "no" }, answers);
                answers += u64::from(answer == Ok(1));
            }
            {
                let mut counted = counted.lock().unwrap();
                let kind = if answers == 3 { &mut counted.0 } else { &mut counted.1 };
                *kind += 1;
            }
            tokio::time::sleep(Duration::from_millis(50 + env.rng.bits64() % 50)).await;
        }
        Ok(())
    });
    let at = |seconds: u64| Duration::from_secs(seconds);
    loop {
        let done = world.step().unwrap();
        match world.elapsed() {
            t if t == at(2) => world.crash("two"),
            t if t == at(4) => world.bounce("two"),
            t if t == at(6) => world.partition("client", "three"),
            t if t == at(8) => world.repair("client", "three"),
            _ => {}
        }
        if done {
            break;
        }
    }
    let rounds = *rounds.lock().unwrap();
    (trace.digest(), rounds.0, rounds.1)
}

#[test]
fn grpc_survives_crash_and_partition_and_repeats_exactly() {
    let (digest, all, some) = run(7);
    if std::env::var_os(CHILD).is_some() {
        println!("digest {digest:?}");
        return;
    }
    assert!(all > 10, "{all} rounds in which every server answered");
    assert!(some > 3, "{some} rounds in which one did not");
    assert_eq!(run(7).0, digest, "the same seed");
    assert_ne!(run(8).0, digest, "another seed");
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "grpc_survives_crash_and_partition_and_repeats_exactly",
            "--exact",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(
        printed.contains(&format!("digest {digest:?}")),
        "another process: {printed}, here {digest:?}"
    );
}
