//! Where configuration comes from, and how a change of it is noticed.
//!
//! Files are polled: that sees every kind of change, a Kubernetes symlink swap among them, and costs a few `stat` calls.
//! A change counts by its content, so a touched file is none. What to do with a new configuration is the business of
//! the application; a broken one is reported and changes nothing.

use std::{
    fs,
    hash::{Hash, Hasher},
    io::{self, Read},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use outrigger_config::{Loaded, Loader, Source, report::Report};
use twox_hash::XxHash64;

/// How often the files are looked at. A change is taken when two looks in a row saw the same, so that a file which is
/// being written is not read half.
pub(crate) const POLL: Duration = Duration::from_millis(200);

/// A longer file is refused unread.
const MAX_FILE: u64 = 16 << 20;

/// The paths of a configuration.
#[derive(Debug, Clone)]
pub struct Sources {
    paths: Vec<PathBuf>,
    mesh: Option<PathBuf>,
}

/// The text of all files at one moment.
#[derive(Debug)]
pub struct Documents {
    sources: Vec<Source>,
    mesh: Option<Source>,
}

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {error}", path.display())]
pub struct Unreadable {
    /// Which one.
    pub path: PathBuf,
    /// Why not.
    pub error: io::Error,
}

impl Sources {
    /// Files, or folders whose `*.yaml` and `*.yml` files are read in order of their names; `-` is standard input.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>, mesh: Option<PathBuf>) -> Self {
        Self { paths, mesh }
    }

    /// Reads everything.
    ///
    /// # Errors
    /// The first path that cannot be read, or that is larger than 16 MiB.
    pub fn read(&self) -> Result<Documents, Unreadable> {
        let mut sources = Vec::new();
        for path in &self.paths {
            for file in files(path)? {
                sources.push(read(&file)?);
            }
        }
        let mesh = self.mesh.as_deref().map(read).transpose()?;
        Ok(Documents { sources, mesh })
    }

    /// What the file system says of the files without reading them. Equal unless something has changed.
    fn stamp(&self) -> u64 {
        let mut hasher = XxHash64::with_seed(0);
        for path in self.paths.iter().chain(&self.mesh) {
            match files(path) {
                Ok(files) => files.iter().for_each(|file| stamp(file, &mut hasher)),
                Err(_) => path.hash(&mut hasher),
            }
        }
        hasher.finish()
    }
}

impl Documents {
    /// Compiles the configuration; the loader knows for whom, and what it has read before.
    ///
    /// # Errors
    /// All findings, if one of them is an error.
    pub fn compile(&self, loader: &mut Loader) -> Result<Loaded, Report> {
        loader.load(&self.sources, self.mesh.as_ref())
    }

    /// The texts by themselves, without the mesh's own.
    #[must_use]
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    fn content(&self) -> u64 {
        let mut hasher = XxHash64::with_seed(0);
        for source in self.sources.iter().chain(&self.mesh) {
            source.name.hash(&mut hasher);
            source.text.hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// Notices changes.
#[derive(Debug)]
pub(crate) struct Watcher {
    sources: Sources,
    /// Stamp of the last look, and whether it is still to be read.
    stamp: u64,
    pending: bool,
    /// Of the text that was yielded last; `None` if the same text is to be yielded again.
    content: Option<u64>,
}

impl Watcher {
    /// Watches for anything that differs from `documents`.
    pub(crate) fn new(sources: Sources, documents: &Documents) -> Self {
        // The files may have changed since they were read: the first look settles it.
        Self { stamp: 0, pending: true, content: Some(documents.content()), sources }
    }

    /// Looks at the files; yields their text if it changed and has settled.
    pub(crate) fn poll(&mut self) -> Option<Result<Documents, Unreadable>> {
        let stamp = self.sources.stamp();
        if stamp != self.stamp {
            self.stamp = stamp;
            self.pending = true;
            return None;
        }
        if !self.pending {
            return None;
        }
        self.pending = false;
        match self.sources.read() {
            Ok(documents) => {
                let content = Some(documents.content());
                let changed = content != self.content;
                self.content = content;
                changed.then_some(Ok(documents))
            }
            Err(error) => {
                self.content = None;
                Some(Err(error))
            }
        }
    }

    /// Reads the files whether or not they have changed.
    pub(crate) fn force(&mut self) -> Result<Documents, Unreadable> {
        self.content = None;
        let documents = self.sources.read()?;
        self.content = Some(documents.content());
        Ok(documents)
    }

    /// Yields the text at the next look, changed or not.
    pub(crate) fn repeat(&mut self) {
        self.content = None;
        self.pending = true;
    }
}

fn files(path: &Path) -> Result<Vec<PathBuf>, Unreadable> {
    let unreadable = |error| Unreadable { path: path.to_owned(), error };
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let is_yaml = file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        let is_hidden = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if is_yaml && !is_hidden && !file.is_dir() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<Source, Unreadable> {
    let text = || {
        if path == Path::new("-") {
            return text(io::stdin().lock());
        }
        text(fs::File::open(path)?)
    };
    match text() {
        Ok(text) => Ok(Source { name: path.display().to_string().into(), text }),
        Err(error) => Err(Unreadable { path: path.to_owned(), error }),
    }
}

fn text(reader: impl Read) -> io::Result<String> {
    let mut text = String::new();
    reader.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more than 16 MiB"));
    }
    Ok(text)
}

/// Follows links, so that a swapped one shows as another file.
pub(crate) fn stamp(file: &Path, hasher: &mut impl Hasher) {
    file.hash(hasher);
    if let Ok(metadata) = fs::metadata(file) {
        metadata.len().hash(hasher);
        metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH).hash(hasher);
        #[cfg(unix)]
        std::os::unix::fs::MetadataExt::ino(&metadata).hash(hasher);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(documents: &Documents) -> Vec<String> {
        documents.sources.iter().map(|source| source.name.rsplit('/').next().unwrap().to_owned()).collect()
    }

    /// Two looks: one sees a change, the next one that it has settled.
    fn change(watcher: &mut Watcher) -> Option<Vec<String>> {
        assert!(watcher.poll().is_none(), "not settled");
        watcher
            .poll()
            .map(|documents| documents.unwrap().sources.iter().map(|source| source.text.clone()).collect())
    }

    #[test]
    fn a_folder_gives_its_yaml_files_by_name() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.yml", "c.txt", ".hidden.yaml"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        let documents = Sources::new(vec![folder.path().to_owned()], None).read().unwrap();
        assert_eq!(names(&documents), ["a.yml", "b.yaml"]);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Sources::new(vec!["/no/such.yaml".into()], None).read().unwrap_err();
        assert!(error.to_string().starts_with("cannot read /no/such.yaml: "), "{error}");
    }

    #[test]
    fn a_change_counts_by_content_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        fs::write(&file, "one").unwrap();
        let sources = Sources::new(vec![folder.path().to_owned()], None);
        let mut watcher = Watcher::new(sources.clone(), &sources.read().unwrap());
        assert_eq!(change(&mut watcher), None);
        fs::write(&file, "two!").unwrap();
        assert_eq!(change(&mut watcher), Some(vec!["two!".to_owned()]));
        assert!(watcher.poll().is_none());
        // Another file with the same text under the same name.
        let other = folder.path().join("other");
        fs::write(&other, "two!").unwrap();
        fs::rename(&other, &file).unwrap();
        assert_eq!(change(&mut watcher), None);
        fs::write(folder.path().join("b.yaml"), "new").unwrap();
        assert_eq!(change(&mut watcher), Some(vec!["two!".to_owned(), "new".to_owned()]));
    }

    #[test]
    fn the_same_text_counts_again_after_it_could_not_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let (file, aside) = (folder.path().join("a.yaml"), folder.path().join("aside"));
        fs::write(&file, "one").unwrap();
        let sources = Sources::new(vec![file.clone()], None);
        let mut watcher = Watcher::new(sources.clone(), &sources.read().unwrap());
        assert_eq!(change(&mut watcher), None);
        fs::rename(&file, &aside).unwrap();
        assert!(watcher.poll().is_none(), "not settled");
        assert!(watcher.poll().unwrap().is_err());
        fs::rename(&aside, &file).unwrap();
        assert_eq!(change(&mut watcher), Some(vec!["one".to_owned()]));
    }

    #[test]
    fn a_kubernetes_symlink_swap_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for version in ["1", "2"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("a.yaml"), version).unwrap();
        }
        symlink(at("1"), at("..data")).unwrap();
        symlink(at("..data").join("a.yaml"), at("a.yaml")).unwrap();
        let sources = Sources::new(vec![folder.path().to_owned()], None);
        let mut watcher = Watcher::new(sources.clone(), &sources.read().unwrap());
        assert_eq!(change(&mut watcher), None);
        symlink(at("2"), at("..tmp")).unwrap();
        fs::rename(at("..tmp"), at("..data")).unwrap();
        assert_eq!(change(&mut watcher), Some(vec!["2".to_owned()]));
    }

    #[test]
    fn what_changed_before_the_first_look_is_not_missed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        fs::write(&file, "one").unwrap();
        let sources = Sources::new(vec![file.clone()], None);
        let documents = sources.read().unwrap();
        fs::write(&file, "two").unwrap();
        assert_eq!(change(&mut Watcher::new(sources, &documents)), Some(vec!["two".to_owned()]));
    }
}
