//! Open loops: requests arrive by chance (Poisson), whether or not the answers before them have come. A request's
//! latency counts from its arrival, so one that has to wait for a slow proxy counts its wait.

use std::{cell::RefCell, os::fd::OwnedFd, rc::Rc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rustix::{
    io::read,
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};
use tokio::{io::unix::AsyncFd, task::JoinSet, time::Instant};

use super::{Tally, h1, h2};
use crate::{Outcome, door::Door};

/// Connections that arrivals are spread over.
const H1_CONNECTIONS: usize = 64;
const H2_CONNECTIONS: usize = 8;

/// GETs of HTTP/1.1, each on a connection that is idle, or a new one.
pub(crate) async fn h1(
    door: &Door,
    rate: u32,
    seed: u64,
    tally: &Rc<Tally>,
    tasks: &mut JoinSet<()>,
) -> Outcome<()> {
    let requests = h1::Requests::new();
    let idle = Rc::new(RefCell::new(Vec::new()));
    for _ in 0..H1_CONNECTIONS {
        let connection = h1::Connection::open(door).await?;
        idle.borrow_mut().push(connection);
    }
    let door = door.clone();
    let send = async move |number| {
        let known = idle.borrow_mut().pop();
        let mut connection = match known {
            Some(connection) => connection,
            None => h1::Connection::open(&door).await?,
        };
        connection.exchange(requests.of(number)).await?;
        idle.borrow_mut().push(connection);
        Ok(())
    };
    arrive(rate, seed, tally, tasks, send)
}

/// Unary gRPC calls over a few connections by turns.
pub(crate) async fn grpc(
    door: &Door,
    rate: u32,
    seed: u64,
    tally: &Rc<Tally>,
    tasks: &mut JoinSet<()>,
) -> Outcome<()> {
    let requests = h2::Requests::new(h2::Call::Grpc)?;
    let mut senders = Vec::new();
    for _ in 0..H2_CONNECTIONS {
        senders.push(h2::open(door).await?);
    }
    let send = async move |number: usize| {
        let mut sender = senders.get(number % H2_CONNECTIONS).cloned().ok_or("no connection")?;
        requests.exchange(&mut sender, number).await
    };
    arrive(rate, seed, tally, tasks, send)
}

/// Lets requests arrive until the tally says stop.
fn arrive<S>(rate: u32, seed: u64, tally: &Rc<Tally>, tasks: &mut JoinSet<()>, send: S) -> Outcome<()>
where
    S: AsyncFn(usize) -> Outcome<()> + 'static,
{
    let (tally, send, timer) = (Rc::clone(tally), Rc::new(send), Timer::new()?);
    let mut rng = SmallRng::seed_from_u64(seed);
    tasks.spawn_local(async move {
        let mut arrival = Instant::now();
        let mut waiting = JoinSet::new();
        for number in 0.. {
            // The time between arrivals at random is distributed exponentially.
            let unit: f64 = rng.random();
            arrival += Duration::from_secs_f64(-(1.0 - unit).ln() / f64::from(rate));
            if let Err(error) = timer.wait(arrival).await {
                tally.count::<()>(Err(error));
            }
            if !tally.begin() {
                break;
            }
            let (tally, send) = (Rc::clone(&tally), Rc::clone(&send));
            waiting.spawn_local(async move {
                if tally.count(send(number).await).is_some() {
                    let micros = u32::try_from(arrival.elapsed().as_micros()).unwrap_or(u32::MAX);
                    tally.latencies.borrow_mut().push(micros);
                }
            });
            while waiting.try_join_next().is_some() {}
        }
        while waiting.join_next().await.is_some() {}
    });
    Ok(())
}

/// A timer of the kernel: tokio's has steps of a millisecond, which is more than a request takes.
struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    fn new() -> Outcome<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; the descriptor is owned here and never exchanged"
        )]
        Ok(Self(AsyncFd::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)?))
    }

    async fn wait(&self, until: Instant) -> Outcome<()> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // The loop must give way to the answers all the same.
            tokio::task::yield_now().await;
            return Ok(());
        }
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec { tv_sec: left.as_secs().try_into()?, tv_nsec: left.subsec_nanos().into() };
        timerfd_settime(
            self.0.get_ref(),
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: zero, it_value: value },
        )?;
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| Ok(read(fd.get_ref(), &mut [0; 8])?)) {
                Ok(read) => return Ok(read.map(drop)?),
                Err(_spurious) => {}
            }
        }
    }
}
