//! Work that is begun in the thread that read its request, and goes on in the runtime when what it waits for has come:
//! whoever brings that hands it over, and is in the runtime already, so that no thread is woken only to see that the work
//! has to wait.
use super::lock;
use futures::future::BoxFuture;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use tokio::runtime::Handle;

enum State {
    /// In its first poll, and whether it was woken meanwhile.
    Begun {
        woken: bool,
    },
    Waits(BoxFuture<'static, ()>),
    /// Done, or the runtime's.
    Over,
}

struct Parked {
    runtime: Handle,
    state: Mutex<State>,
}

/// Begins `work`.
pub fn run(runtime: &Handle, mut work: BoxFuture<'static, ()>) {
    let parked = Arc::new(Parked {
        runtime: runtime.clone(),
        state: Mutex::new(State::Begun { woken: false }),
    });
    let waker = Waker::from(parked.clone());
    let entered = runtime.enter();
    let done = work.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
    drop(entered);
    let mut state = lock(&parked.state);
    *state = match *state {
        _ if done => State::Over,
        State::Begun { woken: false } => State::Waits(work),
        _ => {
            runtime.spawn(work);
            State::Over
        }
    };
}

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        let mut state = lock(&self.state);
        match std::mem::replace(&mut *state, State::Over) {
            State::Waits(work) => drop(self.runtime.spawn(work)),
            State::Begun { .. } => *state = State::Begun { woken: true },
            State::Over => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::sync::{mpsc, oneshot};

    /// Whether it was woken before, in, or after its first poll.
    #[test]
    fn work_goes_on_whenever_what_it_waits_for_comes() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .unwrap();
        let (done, mut all) = mpsc::channel(1);
        for n in 0..20_000 {
            let (come, comes) = oneshot::channel();
            let done = done.clone();
            let bringer = runtime.spawn(async move {
                if n % 2 == 0 {
                    tokio::task::yield_now().await;
                }
                come.send(n)
            });
            run(
                runtime.handle(),
                Box::pin(async move {
                    let came = comes.await.unwrap();
                    // a second wait, as the runtime's
                    tokio::task::yield_now().await;
                    done.send(came).await.unwrap();
                }),
            );
            runtime.block_on(async {
                let came = tokio::time::timeout(Duration::from_secs(30), all.recv()).await;
                assert_eq!(came.unwrap(), Some(n));
                bringer.await.unwrap().unwrap();
            });
        }
    }
}
