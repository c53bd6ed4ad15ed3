//! The programs that are compared, and where they are found.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::Outcome;

/// The repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// One side of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// This tree.
    Outrigger,
    /// Another Outrigger, for the effect of a change.
    Baseline,
    Envoy,
    /// Bare hyper.
    Hyper,
    /// No proxy at all.
    Direct,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Outrigger, Self::Baseline, Self::Envoy, Self::Hyper, Self::Direct];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Outrigger => "outrigger",
            Self::Baseline => "baseline",
            Self::Envoy => "envoy",
            Self::Hyper => "hyper",
            Self::Direct => "direct",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Paths of the programs; `None` is not to take part.
#[derive(Debug, Clone, Default)]
pub(crate) struct Programs {
    pub(crate) outrigger: Option<PathBuf>,
    pub(crate) baseline: Option<PathBuf>,
    pub(crate) envoy: Option<PathBuf>,
    pub(crate) hyper: Option<PathBuf>,
}

impl Programs {
    pub(crate) fn path(&self, kind: Kind) -> Option<&Path> {
        match kind {
            Kind::Outrigger => self.outrigger.as_deref(),
            Kind::Baseline => self.baseline.as_deref(),
            Kind::Envoy => self.envoy.as_deref(),
            Kind::Hyper => self.hyper.as_deref(),
            Kind::Direct => None,
        }
    }
}

/// Builds Outrigger in this tree; the path of its binary.
pub(crate) fn build(profile: &str) -> Outcome<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--package", "outrigger", "--profile", profile])
        .current_dir(ROOT)
        .status()?;
    if !status.success() {
        return Err("outrigger does not build".into());
    }
    // This program lies in target/PROFILE too.
    let own = env::current_exe()?;
    let target = own.ancestors().nth(2).ok_or("no target folder")?;
    existing(target.join(profile).join("outrigger"))
}

/// A file that is there.
pub(crate) fn existing(path: PathBuf) -> Outcome<PathBuf> {
    if path.is_file() { Ok(path) } else { Err(format!("there is no {}", path.display()).into()) }
}

/// Envoy: the variable `ENVOY`, the Python package of the end-to-end tests, or `PATH`.
pub(crate) fn find_envoy() -> Option<PathBuf> {
    let variable = env::var_os("ENVOY").map(PathBuf::from);
    let package = Path::new(ROOT).join(".ci/venv/bin/envoy");
    variable.into_iter().chain([package]).find(|path| path.is_file()).or_else(|| in_path("envoy"))
}

/// A program of `PATH`.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Where results go that nobody gave a place.
pub(crate) fn results() -> PathBuf {
    let target = env::current_exe().ok().and_then(|own| own.ancestors().nth(2).map(Path::to_owned));
    target.unwrap_or_else(|| Path::new(ROOT).join("target")).join("bench-load")
}
