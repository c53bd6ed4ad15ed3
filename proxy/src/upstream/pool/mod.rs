//! Connections to endpoints: one pool per worker, endpoint and protocol.
//!
//! HTTP/1 connections serve one request at a time, the newest idle one first; HTTP/2 connections are shared. Requests
//! without a connection wait in line, under Envoy's admission rules ([`super::Breaker`]). All of it is for one thread;
//! no `RefCell` is borrowed across an await. Whatever is dropped, at whatever point, gives back what it held.

mod body;
mod h1;
mod h2;
mod host;
mod lease;
mod life;
mod reset;
#[cfg(test)]
mod tests;

use std::{cell::RefCell, collections::HashMap, error::Error, rc::Rc, sync::Arc};

use bytes::Bytes;
use http_body::Body;

use self::host::HostPool;
use super::{ClusterState, Host, HostId, Overflow};

pub use body::ResponseBody;
pub use lease::{Lease, Sent};
pub use reset::{PoolError, ResetReason, SendError};

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wire {
    /// HTTP/1.1
    Http1,
    /// HTTP/2 with prior knowledge
    Http2,
}

/// Short for what hyper asks of a request body.
pub trait Payload: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + 'static {}

impl<B> Payload for B where B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + 'static {}

/// The pools of one worker.
#[derive(Debug)]
pub struct Pools<B: Payload> {
    pools: RefCell<HashMap<PoolKey, Rc<HostPool<B>>>>,
}

/// Of more pools than these, unused ones are dropped where a name of TLS asks for another.
const MANY: usize = 256;

/// Cluster and address, by the identity of the host, what is spoken there, and how it is secured.
type PoolKey = (HostId, Wire, Option<TlsKey>);

/// The credentials, and the name in the hello.
type TlsKey = (u64, Option<Arc<str>>);

impl<B: Payload> Default for Pools<B> {
    fn default() -> Self {
        Self { pools: RefCell::default() }
    }
}

impl<B: Payload> Pools<B> {
    /// No connection yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gets a connection that is ready for one request, waiting in line for it if need be. Must run in a local task
    /// set. Dropping the future leaves the line. `authority` is that of the request: TLS may ask for it.
    ///
    /// # Errors
    /// A breaker refused the request, or no connection could be established.
    pub async fn checkout(
        &self,
        cluster: &Arc<ClusterState>,
        host: &Arc<Host>,
        wire: Wire,
        authority: &[u8],
    ) -> Result<Lease<B>, PoolError> {
        let pool = self.pool(cluster, host, wire, authority);
        let slot = match pool.take_ready() {
            Some(slot) => slot,
            None => pool.wait().await?,
        };
        // Envoy's order: the connection first, then the request limit.
        let permit = cluster.acquire_request(host)?;
        Ok(Lease::new(slot, permit))
    }

    /// Drops the idle connections of endpoints that the configuration no longer names; called by a worker when it
    /// takes up a new snapshot. Requests under way go on.
    pub fn retire_removed(&self) {
        let mut gone = Vec::new();
        self.pools.borrow_mut().retain(|_, pool| {
            let stays = !pool.host.is_removed();
            if !stays {
                gone.push(pool.clone());
            }
            stays
        });
        gone.iter().for_each(|pool| pool.close_idle());
    }

    fn pool(
        &self,
        cluster: &Arc<ClusterState>,
        host: &Arc<Host>,
        wire: Wire,
        authority: &[u8],
    ) -> Rc<HostPool<B>> {
        let tls = host.security().map(|security| (security.id(), security.asked_for(authority)));
        let asked_for = tls.as_ref().and_then(|(_, name)| name.clone());
        let mut pools = self.pools.borrow_mut();
        let key = (host.id(), wire, tls);
        // Clients choose names: pools that nobody uses any more must not add up.
        if asked_for.is_some() && pools.len() >= MANY && !pools.contains_key(&key) {
            pools.retain(|_, pool| Rc::strong_count(pool) > 1 || pool.is_used());
        }
        let pool = pools
            .entry(key)
            .or_insert_with(|| Rc::new(HostPool::new(cluster.clone(), host.clone(), wire, asked_for)));
        pool.clone()
    }
}
