//! What every [`Net`] and [`Clock`] does, shown on the real ones and the simulated ones.
#![allow(clippy::unwrap_used, clippy::expect_used)]
use bytes::Bytes;
use cairn_io::sim::{self, SimClock, SimDisk, SimNet, Trace};
use cairn_io::{Blocking, Clock, Disk, FileRange, Habit, Net, RealClock, RealNet};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PAYLOAD_BYTES: usize = 300_000;

/// Binds a port of the system's choice and tells its number, echoes one connection to its end, then goes.
async fn echo(net: Arc<dyn Net>, port: tokio::sync::oneshot::Sender<u16>) {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listener = net.bind(any).await.unwrap();
    let bound = listener.local_addr().unwrap();
    assert_ne!(bound.port(), 0);
    port.send(bound.port()).unwrap();
    let (stream, peer) = listener.accept().await.unwrap();
    assert_ne!(peer.port(), 0);
    let (mut reader, mut writer) = stream.halves();
    let mut bytes = vec![];
    reader.read_to_end(&mut bytes).await.unwrap();
    // some as they are, most from a file
    writer.write_all(&bytes[..500]).await.unwrap();
    let head = Bytes::copy_from_slice(&bytes[500..1000]);
    let file = SimDisk::new("disk", Trace::new())
        .mount()
        .create(Path::new("file"))
        .unwrap();
    file.write_at(&bytes[1000..], 0).unwrap();
    let range = FileRange {
        file,
        offset: 0,
        len: bytes.len() - 1000,
    };
    let habit = Habit::default();
    let sent = writer.send_file(Blocking::Inline, &habit, head, range).await;
    sent.unwrap().shutdown().await.unwrap();
}

async fn ask(net: Arc<dyn Net>, address: String) {
    let mut stream = net.connect(&address).await.unwrap();
    let sent: Vec<u8> = (0..PAYLOAD_BYTES).map(|i| (i % 251) as u8).collect();
    stream.write_all(&sent).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut got = vec![];
    stream.read_to_end(&mut got).await.unwrap();
    assert!(sent == got, "bytes come whole and in order");
    drop(stream);
    let again = net.connect(&address).await.err().expect("nobody listens any more");
    assert_eq!(again.kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn real_net_conforms() {
    let (tell, port) = tokio::sync::oneshot::channel();
    let server = tokio::spawn(echo(Arc::new(RealNet), tell));
    ask(Arc::new(RealNet), format!("localhost:{}", port.await.unwrap())).await;
    server.await.unwrap();
}

#[test]
fn simulated_net_conforms() {
    let mut world = turmoil::Builder::new().rng_seed(1).build();
    let (tell, port) = tokio::sync::oneshot::channel();
    let tell = std::sync::Mutex::new(Some(tell));
    world.host("server", move || {
        let tell = tell.lock().unwrap().take().unwrap();
        async move {
            echo(Arc::new(SimNet::new(Trace::new())), tell).await;
            // a host whose software has ended is a machine that is off: it refuses nothing
            std::future::pending().await
        }
    });
    world.client("client", async move {
        ask(Arc::new(SimNet::new(Trace::new())), format!("server:{}", port.await?)).await;
        let net = SimNet::new(Trace::new());
        assert!(net.connect("nobody:1").await.is_err());
        Ok(())
    });
    world.run().unwrap();
}

async fn clock_conforms(clock: &dyn Clock) {
    let (start, wall, boot) = (clock.now(), clock.wall(), clock.boot_id());
    clock.sleep(Duration::from_millis(20)).await;
    let passed = clock.now().since(start);
    assert!(passed >= Duration::from_millis(19), "{passed:?}");
    assert_eq!(start.since(clock.now()), Duration::ZERO);
    assert!(clock.wall() > wall);
    assert_eq!((clock.boot_id(), clock.boot_id().is_nil()), (boot, false));
}

#[tokio::test]
async fn real_clock_conforms() {
    clock_conforms(&RealClock::new()).await;
    assert_eq!(RealClock::new().boot_id(), RealClock::new().boot_id());
}

#[tokio::test(start_paused = true)]
async fn simulated_clock_conforms() {
    clock_conforms(&SimClock::new(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_simulated_clock_drifts_and_reboots() {
    let (right, fast) = (SimClock::new(1), SimClock::new(2));
    let (a, b) = (right.now(), fast.now());
    fast.set_drift(1.5);
    right.sleep(Duration::from_secs(10)).await;
    assert_eq!(right.now().since(a), Duration::from_secs(10));
    assert_eq!(fast.now().since(b), Duration::from_secs(15));
    let before = fast.now();
    fast.sleep(Duration::from_secs(3)).await;
    assert!(fast.now().since(before).abs_diff(Duration::from_secs(3)) < Duration::from_millis(3));

    let (id, shown) = (right.boot_id(), right.now());
    right.reboot(7);
    assert_ne!(right.boot_id(), id);
    assert!(right.now() < shown, "the boot clock starts anew");
    let wall = right.wall();
    right.set_wall_skew(-3_600_000_000_000);
    assert_eq!(wall - right.wall(), 3_600_000_000_000);
}

#[test]
fn a_simulated_clock_goes_on_while_its_machine_is_down() {
    let mut world = turmoil::Builder::new().rng_seed(1).build();
    let clock = SimClock::new(1);
    let env = sim::env(&clock, &SimNet::new(Trace::new()), 1);
    let readings = Arc::new(std::sync::Mutex::new(vec![]));
    let seen = readings.clone();
    world.host("a", move || {
        let (env, seen) = (env.clone(), seen.clone());
        async move {
            seen.lock().unwrap().push(env.clock.now());
            std::future::pending().await
        }
    });
    for _ in 0..10 {
        world.step().unwrap();
    }
    world.crash("a");
    for _ in 0..500 {
        world.step().unwrap();
    }
    world.bounce("a");
    world.step().unwrap();
    let seen = readings.lock().unwrap();
    let gap = seen[1].since(seen[0]);
    assert!(
        (Duration::from_millis(505)..Duration::from_millis(515)).contains(&gap),
        "{gap:?}"
    );
}
