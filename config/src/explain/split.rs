//! The split of a request or a connection among its destinations by weight.

use super::{Draws, Pick, Picked, Place, Verdict, place};
use crate::snapshot::{ClusterRef, Snapshot};

/// Every destination with its share, and which one it is.
#[derive(Debug)]
pub struct Split<'s> {
    /// Sum of the weights.
    pub total: u64,
    /// What was drawn, below the total.
    pub drawn: Option<u64>,
    /// In the order of the route.
    pub buckets: Vec<Bucket<'s>>,
}

/// One destination of a split.
#[derive(Debug)]
pub struct Bucket<'s> {
    /// The cluster of the route.
    pub cluster: &'s ClusterRef,
    /// Its share.
    pub weight: u32,
    /// The first draw that hits it.
    pub from: u64,
    /// Whether it goes there; without a draw it is open, but for a lone one.
    pub taken: bool,
    /// The cluster.
    pub place: Place<'s>,
    /// The endpoint, as far as it is known. Whoever has the balancers fills it in.
    pub pick: Option<Pick>,
}

impl<'s> Split<'s> {
    /// `decide` is the data path's choice; it gets a draw where it asks for one. Without draws a lone destination is taken.
    pub(super) fn new(
        snapshot: &'s Snapshot,
        total: u64,
        shares: impl ExactSizeIterator<Item = (&'s ClusterRef, u32)>,
        draws: &mut Draws<'_>,
        decide: impl FnOnce(&mut dyn FnMut() -> u64) -> Option<&'s ClusterRef>,
    ) -> Self {
        let mut drawn = None;
        let lone = shares.len() == 1;
        let taken = draws.as_mut().and_then(|draws| {
            decide(&mut || {
                let draw = draws();
                drawn = draw.checked_rem(total);
                draw
            })
        });
        let mut from = 0;
        let buckets = shares.map(|(cluster, weight)| {
            let start = from;
            from += u64::from(weight);
            Bucket {
                cluster,
                weight,
                from: start,
                taken: lone || taken.is_some_and(|taken| std::ptr::eq(taken, cluster)),
                place: place(snapshot, cluster),
                pick: None,
            }
        });
        let buckets = buckets.collect();
        Self { total, drawn, buckets }
    }

    /// The destination, if it is settled.
    #[must_use]
    pub fn taken(&self) -> Option<&Bucket<'s>> {
        self.buckets.iter().find(|bucket| bucket.taken)
    }

    /// The destination that is taken, or every one while that is open.
    pub fn possible_mut(&mut self) -> impl Iterator<Item = &mut Bucket<'s>> {
        let open = self.taken().is_none();
        self.buckets.iter_mut().filter(move |bucket| open || bucket.taken)
    }
}

impl Bucket<'_> {
    pub(super) fn verdict(&self) -> Verdict<'_> {
        let cluster = match &self.place {
            Place::Known(cluster) => &*cluster.name,
            Place::Missing { name, .. } => return Verdict::NoCluster(name),
        };
        match self.pick.as_ref().map(|pick| &pick.picked) {
            Some(Picked::Nobody) => Verdict::NoEndpoint(cluster),
            Some(Picked::One(address)) => Verdict::Forward { cluster, endpoint: Some(address) },
            Some(Picked::Open) | None => Verdict::Forward { cluster, endpoint: None },
        }
    }
}
