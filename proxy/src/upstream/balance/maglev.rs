//! Envoy's Maglev table: a prime number of slots, filled by the hosts in turn, each along its own permutation and as
//! often as its weight allows. A request goes to the slot of its hash.

use twox_hash::XxHash64;

#[derive(Debug)]
pub(crate) struct Maglev {
    /// Host index of each slot.
    table: Box<[u32]>,
}

struct Filler {
    host: u32,
    weight: f64,
    target: f64,
    offset: u64,
    skip: u64,
    next: u64,
}

impl Maglev {
    /// `hosts` are key and share; `size` is a prime number.
    pub(super) fn new(hosts: &[(&str, f64)], size: u64) -> Self {
        if hosts.is_empty() || size < 2 {
            return Self { table: Box::default() };
        }
        let mut sorted: Vec<_> = hosts.iter().enumerate().collect();
        sorted.sort_by_key(|(_, (key, _))| *key);
        let mut fillers: Vec<Filler> = sorted
            .into_iter()
            .map(|(index, (key, share))| Filler {
                host: index as u32,
                weight: *share,
                target: 0.0,
                offset: XxHash64::oneshot(0, key.as_bytes()) % size,
                skip: XxHash64::oneshot(1, key.as_bytes()) % (size - 1) + 1,
                next: 0,
            })
            .collect();
        let most = fillers.iter().map(|filler| filler.weight).fold(0.0, f64::max);

        let mut table: Vec<Option<u32>> = vec![None; size as usize];
        let mut filled = 0;
        let mut round = 0.0;
        while filled < table.len() {
            round += 1.0;
            for filler in &mut fillers {
                if filled == table.len() {
                    break;
                }
                if round * filler.weight < filler.target {
                    continue;
                }
                filler.target += most;
                // The size is prime, so the permutation visits every slot: a free one is always found.
                while let Some(slot) = table.get_mut(filler.slot(size)) {
                    filler.next += 1;
                    if slot.is_none() {
                        *slot = Some(filler.host);
                        filled += 1;
                        break;
                    }
                }
            }
        }
        Self { table: table.into_iter().flatten().collect() }
    }

    /// Index of the host; a further attempt mixes its number into the hash.
    pub(super) fn pick(&self, hash: u64, attempt: u64) -> usize {
        let slot = (hash ^ 0_u64.wrapping_sub(attempt)) % (self.table.len().max(1) as u64);
        self.table.get(slot as usize).map_or(0, |host| *host as usize)
    }

    #[cfg(test)]
    pub(super) fn table(&self) -> &[u32] {
        &self.table
    }
}

impl Filler {
    fn slot(&self, size: u64) -> usize {
        ((u128::from(self.offset) + u128::from(self.skip) * u128::from(self.next)) % u128::from(size))
            as usize
    }
}
