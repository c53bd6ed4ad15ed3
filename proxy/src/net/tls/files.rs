//! Certificates, keys, roots and revocations as files, in PEM. Every failure names its file; no key is ever shown.

use std::{
    fmt, fs,
    hash::{Hash, Hasher},
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use outrigger_config::snapshot;
use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};
use webpki::{CertRevocationList, OwnedCertRevocationList};

use super::provider;

/// A longer file is refused.
const MAX_FILE: u64 = 4 << 20;

/// Where the proxy's own identity is: a folder with a certificate, its key and the roots of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity(PathBuf);

/// The names of the three files: Istio's, those of SPIFFE credentials, those of a Kubernetes Secret.
const LAYOUTS: [[&str; 3]; 3] = [
    ["cert-chain.pem", "key.pem", "root-cert.pem"],
    ["certificates.pem", "private_key.pem", "ca_certificates.pem"],
    ["tls.crt", "tls.key", "ca.crt"],
];

impl Identity {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// All files that might be it.
    fn candidates(&self) -> impl Iterator<Item = PathBuf> {
        LAYOUTS.iter().flatten().map(|name| self.0.join(name))
    }

    /// By the first set of names of which one is there.
    fn files(&self) -> [PathBuf; 3] {
        let there = LAYOUTS.iter().find(|names| names.iter().any(|name| self.0.join(name).exists()));
        let [first, ..] = &LAYOUTS;
        there.unwrap_or(first).map(|name| self.0.join(name))
    }
}

/// The files of one set of credentials.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Files {
    pub(super) key_pair: Option<(PathBuf, PathBuf)>,
    pub(super) roots: Option<PathBuf>,
    pub(super) revoked: Option<PathBuf>,
}

impl Files {
    /// # Errors
    /// The proxy's own identity is asked for, and there is none.
    pub(super) fn of(wanted: &snapshot::Credentials, identity: Option<&Identity>) -> Result<Self, Arc<str>> {
        let mesh = || match identity {
            Some(identity) => Ok(identity.files()),
            None => Err(Arc::from("the proxy has no identity: name its folder by --identity")),
        };
        let key_pair = match &wanted.identity {
            snapshot::Identity::Anonymous => None,
            snapshot::Identity::Mesh => {
                let [certificates, key, _] = mesh()?;
                Some((certificates, key))
            }
            snapshot::Identity::Files(files) => Some((path(&files.certificates), path(&files.key))),
        };
        let roots = match &wanted.trust {
            snapshot::Trust::Mesh(_) => {
                let [.., roots] = mesh()?;
                Some(roots)
            }
            snapshot::Trust::File(file) => Some(path(file)),
            snapshot::Trust::System | snapshot::Trust::Nobody => None,
        };
        Ok(Self { key_pair, roots, revoked: wanted.revoked.as_deref().map(PathBuf::from) })
    }

    /// What a change of could make a difference.
    pub(super) fn watched(wanted: &snapshot::Credentials, identity: Option<&Identity>) -> Vec<PathBuf> {
        let mesh =
            wanted.identity == snapshot::Identity::Mesh || matches!(wanted.trust, snapshot::Trust::Mesh(_));
        let mut all: Vec<_> = identity.filter(|_| mesh).into_iter().flat_map(Identity::candidates).collect();
        if let Ok(files) = Self::of(wanted, identity) {
            let (certificates, key) = files.key_pair.unzip();
            all.extend([certificates, key, files.roots, files.revoked].into_iter().flatten());
        }
        all
    }

    pub(super) fn read(&self) -> Result<Content, Arc<str>> {
        Ok(Content {
            key_pair: match &self.key_pair {
                Some((certificates, key)) => Some((read(certificates)?, read(key)?)),
                None => None,
            },
            roots: self.roots.as_deref().map(read).transpose()?,
            revoked: self.revoked.as_deref().map(read).transpose()?,
        })
    }
}

fn path(text: &Arc<str>) -> PathBuf {
    PathBuf::from(&**text)
}

/// What stands in the files at one moment.
#[derive(Debug, Hash)]
pub(super) struct Content {
    key_pair: Option<(File, File)>,
    roots: Option<File>,
    revoked: Option<File>,
}

#[derive(Hash)]
struct File {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl fmt::Debug for File {
    /// The bytes may be a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Content {
    /// Our own certificate with its key, which must fit together.
    pub(super) fn key_pair(&self) -> Result<Option<CertifiedKey>, Arc<str>> {
        let Some((certificates, key)) = &self.key_pair else { return Ok(None) };
        let chain = certificates.certificates()?;
        let parsed = PrivateKeyDer::from_pem_slice(&key.bytes).map_err(|error| {
            key.unusable(&format!("there is no private key in it: {}", pem_problem(&error)))
        })?;
        match CertifiedKey::from_der(chain, parsed, provider()) {
            Ok(pair) => Ok(Some(pair)),
            Err(error) => Err(key.unusable(&format!("with {}: {error}", certificates.path.display()))),
        }
    }

    /// Whom we believe; without a file, whom the system does.
    pub(super) fn roots(&self) -> Result<RootCertStore, Arc<str>> {
        let mut store = RootCertStore::empty();
        let Some(file) = &self.roots else {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            let none = "the system has no root certificates: name a file of them by SSL_CERT_FILE, or by `caCertificates`";
            return if store.is_empty() { Err(none.into()) } else { Ok(store) };
        };
        for certificate in file.certificates()? {
            store.add(certificate).map_err(|error| file.unusable(&error.to_string()))?;
        }
        Ok(store)
    }

    pub(super) fn revoked(&self) -> Result<Vec<CertRevocationList<'static>>, Arc<str>> {
        let Some(file) = &self.revoked else { return Ok(Vec::new()) };
        let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&file.bytes)
            .collect::<Result<_, _>>()
            .map_err(|error| file.unusable(pem_problem(&error)))?;
        if lists.is_empty() {
            return Err(file.unusable("there is no revocation list in it"));
        }
        let parse = |list: CertificateRevocationListDer<'static>| {
            OwnedCertRevocationList::from_der(&list).map(Into::into)
        };
        lists
            .into_iter()
            .map(parse)
            .collect::<Result<_, _>>()
            .map_err(|error| file.unusable(&error.to_string()))
    }

    /// The certificates of each file, for `/certs`: our own chain, then the roots.
    pub(super) fn shown(&self) -> [Option<(&Path, Vec<CertificateDer<'static>>)>; 2] {
        let of = |file: &File| Some((file.path.clone(), file.certificates().ok()?));
        let own = self.key_pair.as_ref().map(|(certificates, _)| certificates);
        [own, self.roots.as_ref()].map(|file| {
            let file = file?;
            of(file).map(|(_, certificates)| (&*file.path, certificates))
        })
    }
}

impl File {
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Arc<str>> {
        let found: Vec<_> = CertificateDer::pem_slice_iter(&self.bytes)
            .collect::<Result<_, _>>()
            .map_err(|error| self.unusable(pem_problem(&error)))?;
        if found.is_empty() {
            return Err(self.unusable("there is no certificate in it"));
        }
        Ok(found)
    }

    fn unusable(&self, why: &str) -> Arc<str> {
        format!("cannot use {}: {why}", self.path.display()).into()
    }
}

/// In our own words: those of the library show the line that it stumbles over, and a file of one line is the key.
pub(crate) fn pem_problem(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no line `-----END ...-----`",
        pem::Error::IllegalSectionStart { .. } => {
            "a line `-----BEGIN ...-----` is broken, or has the rest behind it"
        }
        pem::Error::Base64Decode(_) => "a section is no base64",
        pem::Error::NoItemsFound => "no such section",
        pem::Error::SectionTooLarge => "a section is too large",
        _ => "it is no PEM",
    }
}

fn read(path: &Path) -> Result<File, Arc<str>> {
    let unreadable =
        |why: &dyn std::fmt::Display| Arc::from(format!("cannot read {}: {why}", path.display()));
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|error| unreadable(&error))?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(unreadable(&"it is longer than 4 MiB"));
    }
    Ok(File { path: path.to_owned(), bytes })
}

/// What the file system says of the files without reading them.
pub(super) fn stamp(files: &[PathBuf], hasher: &mut impl Hasher) {
    for file in files {
        crate::reload::stamp(file, hasher);
    }
}
