//! Receivers of copies become clusters.

use super::Compiler;
use crate::{
    istio::virtual_service::HttpRule,
    snapshot::{Mirror, Share},
};

impl Compiler<'_> {
    /// Those that ever get a copy; the port is chosen as for any other destination.
    pub(super) fn mirrors(&mut self, rule: &HttpRule, port: u16) -> Box<[Mirror]> {
        let sent = rule.mirrors.iter().filter(|mirror| mirror.share > Share::NONE);
        sent.map(|mirror| Mirror {
            cluster: self.destination(&mirror.destination, port),
            share: mirror.share,
        })
        .collect()
    }
}
