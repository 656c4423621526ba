//! Tasks that go on in the thread that gives them work.
//!
//! A thread that is none of the runtime's, such as one of FUSE's, and sends a request would wake one of the runtime's only
//! for that to write to a socket: a change of thread for a system call. Tasks begun here are the runtime's as any other;
//! but those that a thread wakes within its scope, which [`Bridge::run`] opens, go on in that thread, at the scope's end.
use futures::future::BoxFuture;
use futures::task::AtomicWaker;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Poll, Wake, Waker};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Polls at the end of one scope; what is woken more often goes on in the runtime.
const POLLS_MAX: usize = 64;

thread_local! {
    /// What was woken in the scope that this thread is in.
    static WOKEN: RefCell<Option<VecDeque<Arc<Task>>>> = const { RefCell::new(None) };
    /// Of the bridge that this thread is on.
    static INBOX: RefCell<Option<Arc<Inbox>>> = const { RefCell::new(None) };
}

/// Tasks that threads of no runtime send home. Only the first wakes the runtime, those that come until it looks are found
/// with it: each wake-up from another thread is a system call, whether the runtime sleeps or not.
#[derive(Default)]
struct Inbox {
    tasks: Mutex<Vec<Arc<Task>>>,
    /// Of the runtime's task that looks.
    reader: AtomicWaker,
}

impl Inbox {
    fn tasks(&self) -> MutexGuard<'_, Vec<Arc<Task>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, task: Arc<Task>) {
        self.tasks().push(task);
        // finds no waker until the reader has looked again
        self.reader.wake();
    }

    /// Lets in what has come; for as long as the runtime lives.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.reader.register(cx.waker());
        let come = std::mem::take(&mut *self.tasks());
        come.into_iter().for_each(Task::enter);
        Poll::Pending
    }
}

struct Task {
    /// None when it has ended.
    work: Mutex<Option<BoxFuture<'static, ()>>>,
    runtime: Handle,
    /// The runtime has a task that polls it.
    at_home: AtomicBool,
    /// Of that task.
    home: AtomicWaker,
}

impl Task {
    fn new(runtime: Handle, at_home: bool, work: impl Future<Output = ()> + Send + 'static) -> Arc<Self> {
        Arc::new(Self {
            work: Mutex::new(Some(Box::pin(work))),
            runtime,
            at_home: AtomicBool::new(at_home),
            home: AtomicWaker::new(),
        })
    }

    fn work(&self) -> MutexGuard<'_, Option<BoxFuture<'static, ()>>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on at the end of this thread's scope, or in the runtime.
    fn go_on(self: Arc<Self>) {
        let mut task = Some(self);
        // a thread that ends has no scope any more
        let _ = WOKEN.try_with(|woken| {
            if let Ok(mut woken) = woken.try_borrow_mut()
                && let Some(woken) = &mut *woken
                && let Some(task) = task.take()
                && !woken.iter().any(|other| Arc::ptr_eq(other, &task))
            {
                woken.push_back(task);
            }
        });
        if let Some(task) = task {
            task.go_home();
        }
    }

    fn go_home(self: Arc<Self>) {
        let inbox = INBOX.try_with(|inbox| inbox.borrow().clone());
        match inbox {
            Ok(Some(inbox)) => inbox.put(self),
            Ok(None) | Err(_) => self.enter(),
        }
    }

    fn enter(self: Arc<Self>) {
        if self.at_home.swap(true, Ordering::AcqRel) {
            self.home.wake();
        } else {
            let runtime = self.runtime.clone();
            runtime.spawn(AtHome(self));
        }
    }

    /// Polls it in this thread.
    fn poll_here(self: Arc<Self>) {
        let polled = match self.work.try_lock() {
            Ok(mut work) => Some(poll(&self, &mut work)),
            Err(TryLockError::Poisoned(work)) => Some(poll(&self, &mut work.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        };
        match polled {
            Some(Poll::Ready(())) => self.home.wake(),
            Some(Poll::Pending) => {}
            // another thread polls it, which may have looked before what woke it was there
            None => self.go_home(),
        }
    }
}

fn poll(task: &Arc<Task>, work: &mut Option<BoxFuture<'static, ()>>) -> Poll<()> {
    let Some(future) = work else { return Poll::Ready(()) };
    let waker = Waker::from(task.clone());
    let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
    if polled.is_ready() {
        *work = None;
    }
    polled
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.go_on();
    }
}

/// The runtime's task; with it the work ends.
struct AtHome(Arc<Task>);

impl Future for AtHome {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.home.register(cx.waker());
        poll(&self.0, &mut self.0.work())
    }
}

impl Drop for AtHome {
    fn drop(&mut self) {
        let work = self.0.work().take();
        drop(work);
    }
}

/// Begins `work` as a task of the current runtime, which can be aborted.
///
/// # Panics
/// Outside of a runtime.
pub fn spawn(work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(AtHome(Task::new(Handle::current(), true, work)))
}

/// Begins `work` at the end of this thread's scope, or as a task of the current runtime.
///
/// # Panics
/// Outside of a runtime.
pub fn begin(work: impl Future<Output = ()> + Send + 'static) {
    Task::new(Handle::current(), false, work).go_on();
}

/// From threads that are none of the runtime's into it.
pub struct Bridge {
    runtime: Handle,
    inbox: Arc<Inbox>,
    under_way: Arc<AtomicUsize>,
}

impl Bridge {
    pub fn new(runtime: Handle) -> Self {
        let inbox = Arc::<Inbox>::default();
        let reader = inbox.clone();
        runtime.spawn(std::future::poll_fn(move |cx| reader.poll(cx)));
        Self {
            runtime,
            inbox,
            under_way: Arc::default(),
        }
    }

    /// Begins `work` in this thread at once. When it has to wait it is the runtime's, once what it waits for is there:
    /// nobody there is woken only to see that it has to wait. What it is given it drops when it has nothing more to ask
    /// for: its answer may bring the next work.
    pub fn run<W: Future<Output = ()> + Send + 'static>(&self, work: impl FnOnce(UnderWay) -> W) {
        // with other work under way the runtime is awake, and sends what comes together at once
        let alone = self.under_way.fetch_add(1, Ordering::Relaxed) == 0;
        let _entered = self.runtime.enter();
        let _on_bridge = OnBridge(INBOX.replace(Some(self.inbox.clone())));
        let work = work(UnderWay(self.under_way.clone()));
        let task = Task::new(self.runtime.clone(), false, work);
        match alone {
            true => scope(|| task.poll_here()),
            false => task.poll_here(),
        }
    }
}

/// What this thread sends home goes by a bridge's inbox. Holds what it went by before.
struct OnBridge(Option<Arc<Inbox>>);

impl Drop for OnBridge {
    fn drop(&mut self) {
        INBOX.set(self.0.take());
    }
}

/// Of work that may still ask for something.
pub struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Does `work`; what it wakes of the tasks begun here goes on in this thread before this returns.
fn scope(work: impl FnOnce()) {
    struct Scope;
    impl Drop for Scope {
        fn drop(&mut self) {
            let rest = WOKEN.take();
            rest.into_iter().flatten().for_each(Task::go_home);
        }
    }
    if WOKEN.with_borrow(Option::is_some) {
        return work();
    }
    WOKEN.set(Some(VecDeque::new()));
    let _scope = Scope;
    work();
    for _ in 0..POLLS_MAX {
        let next = WOKEN.with_borrow_mut(|woken| woken.as_mut().and_then(VecDeque::pop_front));
        let Some(task) = next else { break };
        task.poll_here();
    }
}

/// For hyper: connections whose tasks are begun here.
#[derive(Clone, Copy, Debug)]
pub struct Executor;

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, work: F) {
        drop(spawn(work));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::ThreadId;
    use std::time::Duration;
    use tokio::sync::{mpsc, oneshot};

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .unwrap()
    }

    fn here() -> ThreadId {
        std::thread::current().id()
    }

    /// Whether it is woken before, in, or after its first poll.
    #[test]
    fn work_goes_on_whenever_what_it_waits_for_comes() {
        let runtime = runtime();
        let bridge = Bridge::new(runtime.handle().clone());
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
            bridge.run(|_| async move {
                let came = comes.await.unwrap();
                // a second wait, as the runtime's
                tokio::task::yield_now().await;
                done.send(came).await.unwrap();
            });
            runtime.block_on(async {
                let came = tokio::time::timeout(Duration::from_secs(30), all.recv()).await;
                assert_eq!(came.unwrap(), Some(n));
                bringer.await.unwrap().unwrap();
            });
        }
    }

    /// Requests through a task of the runtime's to a second, as through a session to its connection.
    #[test]
    fn what_a_scope_wakes_goes_on_in_its_thread() {
        let runtime = runtime();
        let bridge = Bridge::new(runtime.handle().clone());
        let (to_first, mut first) = mpsc::channel::<oneshot::Sender<ThreadId>>(1);
        let (to_second, mut second) = mpsc::channel::<oneshot::Sender<ThreadId>>(1);
        let (ready, started) = std::sync::mpsc::channel();
        runtime.block_on(async {
            let ready_too = ready.clone();
            drop(spawn(async move {
                ready.send(()).unwrap();
                while let Some(answer) = first.recv().await {
                    to_second.send(answer).await.unwrap();
                }
            }));
            drop(spawn(async move {
                ready_too.send(()).unwrap();
                while let Some(answer) = second.recv().await {
                    answer.send(here()).unwrap();
                }
            }));
        });
        // both wait in the runtime, or are about to: then it is there that they go on
        (0..2).for_each(|_| started.recv().unwrap());
        let mut inline = 0;
        for _ in 0..1000 {
            let (answer, answered) = oneshot::channel();
            let to_first = to_first.clone();
            let (tell, told) = std::sync::mpsc::channel();
            bridge.run(|_| async move {
                to_first.send(answer).await.unwrap();
                tell.send((answered.await.unwrap(), here())).unwrap();
            });
            let (second, asker) = told.recv().unwrap();
            inline += usize::from(second == here() && asker == here());
        }
        assert!(inline > 900, "{inline}");
    }

    #[test]
    fn the_runtime_is_woken_once_for_all_that_comes_until_it_looks() {
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (wakes, ran) = (Arc::new(Count(AtomicUsize::new(0))), Arc::new(AtomicUsize::new(0)));
        let (inbox, waker) = (Inbox::default(), Waker::from(wakes.clone()));
        for round in 1..=2 {
            let _runtime = runtime.enter();
            assert!(inbox.poll(&mut Context::from_waker(&waker)).is_pending());
            for _ in 0..3 {
                let ran = ran.clone();
                let work = async move { _ = ran.fetch_add(1, Ordering::Relaxed) };
                inbox.put(Task::new(runtime.handle().clone(), false, work));
            }
            assert_eq!(wakes.0.load(Ordering::Relaxed), round);
        }
        assert!(inbox.poll(&mut Context::from_waker(&waker)).is_pending());
        runtime.block_on(tokio::task::yield_now());
        assert_eq!(ran.load(Ordering::Relaxed), 6);
    }

    #[test]
    fn work_that_wakes_itself_for_ever_does_not_hold_up_the_thread() {
        let runtime = runtime();
        let bridge = Bridge::new(runtime.handle().clone());
        let (stop, mut stopped) = oneshot::channel();
        let (ended, end) = std::sync::mpsc::channel();
        bridge.run(|_| async move {
            let mut polls = 0;
            while stopped.try_recv().is_err() {
                polls += 1;
                tokio::task::yield_now().await;
            }
            ended.send(polls).unwrap();
        });
        stop.send(()).unwrap();
        assert!(end.recv().unwrap() >= POLLS_MAX);
    }

    #[test]
    fn what_is_aborted_is_dropped_though_its_wakers_live() {
        let runtime = runtime();
        let (kept, seen) = std::sync::mpsc::channel();
        let (alive, mut gone) = oneshot::channel::<()>();
        runtime.block_on(async {
            let task = spawn(async move {
                let _alive = alive;
                futures::future::poll_fn(|cx| {
                    kept.send(cx.waker().clone()).unwrap();
                    Poll::<()>::Pending
                })
                .await;
            });
            let waker = seen.recv().unwrap();
            assert!(gone.try_recv() == Err(oneshot::error::TryRecvError::Empty));
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
            let gone = tokio::time::timeout(Duration::from_secs(10), gone).await;
            assert!(gone.is_ok_and(|gone| gone.is_err()));
            waker.wake();
        });
    }

    /// A thread wakes a task that another polls, and has looked already.
    #[test]
    fn what_is_woken_while_it_is_polled_is_polled_again() {
        let runtime = runtime();
        let bridge = Bridge::new(runtime.handle().clone());
        let (polled, polling) = std::sync::mpsc::channel();
        let (go_on, wait) = std::sync::mpsc::channel();
        let (done, end) = std::sync::mpsc::channel();
        std::thread::scope(|threads| {
            threads.spawn(|| {
                bridge.run(|_| async move {
                    let mut first = true;
                    futures::future::poll_fn(move |cx| {
                        if !first {
                            return Poll::Ready(());
                        }
                        first = false;
                        polled.send(cx.waker().clone()).unwrap();
                        wait.recv().unwrap();
                        Poll::Pending
                    })
                    .await;
                    done.send(()).unwrap();
                });
            });
            let waker: Waker = polling.recv().unwrap();
            bridge.run(|_| async move { waker.wake() });
            go_on.send(()).unwrap();
        });
        assert_eq!(end.recv_timeout(Duration::from_secs(10)), Ok(()));
    }

    /// Two threads give the same tasks work at once; none of it is forgotten.
    #[test]
    fn nothing_is_forgotten_when_threads_meet() {
        let runtime = runtime();
        let bridge = Bridge::new(runtime.handle().clone());
        let (to, mut asked) = mpsc::channel::<oneshot::Sender<u32>>(4);
        runtime.block_on(async {
            drop(spawn(async move {
                while let Some(answer) = asked.recv().await {
                    answer.send(7).unwrap();
                }
            }));
        });
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for _ in 0..5_000 {
                        let (answer, answered) = oneshot::channel();
                        let to = to.clone();
                        let (tell, told) = std::sync::mpsc::channel();
                        bridge.run(|_| async move {
                            to.send(answer).await.unwrap();
                            tell.send(answered.await.unwrap()).unwrap();
                        });
                        assert_eq!(told.recv_timeout(Duration::from_secs(30)), Ok(7));
                    }
                });
            }
        });
    }
}
