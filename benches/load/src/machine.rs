//! What is asked of the machine: one CPU for the load, one for the proxy, enough open files, free ports.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU16, Ordering::Relaxed},
};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CpuSet, sched_setaffinity},
};

use crate::Outcome;

/// Load generator, backend and sink.
pub(crate) const LOAD_CPU: usize = 0;
/// The proxy, alone.
pub(crate) const PROXY_CPU: usize = 1;

/// Puts the calling thread, and what it will start, on one CPU.
pub(crate) fn pin(cpu: usize) -> Outcome<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set)
        .map_err(|error| format!("cannot use CPU {cpu}: {error}; the bench needs two CPUs").into())
}

/// Starts something on the CPU of the proxy: a child inherits the CPU of the thread that started it.
pub(crate) fn on_proxy_cpu<T>(start: impl FnOnce() -> io::Result<T>) -> Outcome<T> {
    pin(PROXY_CPU)?;
    let started = start();
    pin(LOAD_CPU)?;
    Ok(started?)
}

/// As many open files as the system allows, here and in children.
pub(crate) fn raise_open_files() -> Outcome<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// Ports below those that the system gives to connections, so that none takes one before its proxy does.
pub(crate) fn free_port() -> Outcome<u16> {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or(0);
    for _ in 0..COUNT {
        let offset = u32::from(own) + u32::from(NEXT.fetch_add(1, Relaxed));
        let port = FIRST + u16::try_from(offset % u32::from(COUNT)).unwrap_or(0);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err("no free port".into())
}

/// A listener for the bench's own servers.
pub(crate) fn listener() -> Outcome<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}
