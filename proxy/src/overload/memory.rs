//! Memory as the kernel accounts for it: the control groups of the process, of version 2 or 1, each with its limit.
//!
//! A limit of any ancestor ends the process too, so the tightest counts. What the kernel can take back by itself, files
//! that were read and not used since, is no pressure (kubelet's "working set").

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::usage::{Look, Usage};

/// Where the kernel tells about control groups.
#[derive(Debug, Clone)]
pub struct Cgroups {
    /// The groups of this process, one a line.
    pub of_process: PathBuf,
    /// Where their hierarchies are mounted.
    pub mounted: PathBuf,
}

impl Default for Cgroups {
    /// `/proc/self/cgroup` and `/sys/fs/cgroup`.
    fn default() -> Self {
        Self { of_process: "/proc/self/cgroup".into(), mounted: "/sys/fs/cgroup".into() }
    }
}

/// The groups that account for the memory of the process.
#[derive(Debug)]
pub(super) struct Memory(Vec<Group>);

#[derive(Debug)]
struct Group {
    folder: PathBuf,
    files: &'static Files,
}

/// The names of one version.
#[derive(Debug)]
struct Files {
    limit: &'static str,
    usage: &'static str,
    /// The line of `memory.stat` with what can be taken back.
    reclaimable: &'static str,
}

const V2: Files = Files { limit: "memory.max", usage: "memory.current", reclaimable: "inactive_file " };
const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file ",
};

impl Memory {
    /// The groups of the process and their ancestors. In a container the path may be that of the host, of which only
    /// the container's own part is mounted: then that is the root.
    pub(super) fn find(groups: &Cgroups) -> Self {
        let lines = fs::read_to_string(&groups.of_process).unwrap_or_default();
        let of_line = |line: &str| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let (root, files) = match controllers {
                "" => (groups.mounted.clone(), &V2),
                _ if controllers.split(',').any(|one| one == "memory") => {
                    (groups.mounted.join("memory"), &V1)
                }
                _ => return None,
            };
            let own = root.join(path.trim_start_matches('/'));
            let up_to_root = own.ancestors().take_while(|folder| folder.starts_with(&root));
            let accounted = up_to_root.filter(|folder| folder.join(files.limit).exists());
            Some(accounted.map(|folder| Group { folder: folder.to_owned(), files }).collect::<Vec<_>>())
        };
        Self(lines.lines().filter_map(of_line).flatten().collect())
    }

    pub(super) fn is_unaccounted(&self) -> bool {
        self.0.is_empty()
    }

    /// Of all groups: a limit of each of them ends the process. Limits may change while it runs.
    pub(super) fn look(&self) -> Look {
        self.0.iter().filter_map(Group::usage).map(Usage::look).reduce(Look::and).unwrap_or_default()
    }
}

impl Group {
    /// `None` without a limit.
    fn usage(&self) -> Option<Usage> {
        let limit = number(&self.folder.join(self.files.limit))?;
        // Version 1 has the largest number of pages for "none".
        if limit == 0 || limit >= 1 << 60 {
            return None;
        }
        let usage = number(&self.folder.join(self.files.usage))?;
        Some(Usage { used: usage.saturating_sub(self.reclaimable()), limit })
    }

    fn reclaimable(&self) -> u64 {
        let stat = fs::read_to_string(self.folder.join("memory.stat")).unwrap_or_default();
        let line = stat.lines().find_map(|line| line.strip_prefix(self.files.reclaimable));
        line.and_then(|number| number.trim().parse().ok()).unwrap_or_default()
    }
}

/// `max` is no number.
fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    struct Kernel(tempfile::TempDir);

    impl Kernel {
        /// With these lines of `/proc/self/cgroup`.
        fn new(of_process: &str) -> Self {
            let kernel = Self(tempfile::tempdir().unwrap());
            kernel.write("of_process", of_process);
            kernel
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn memory(&self) -> Memory {
            let here = self.0.path();
            Memory::find(&Cgroups { of_process: here.join("of_process"), mounted: here.join("mounted") })
        }

        fn pressure(&self) -> u32 {
            self.memory().look().pressure.0
        }
    }

    #[test]
    fn version_2_has_the_working_set_over_the_limit() {
        let kernel = Kernel::new("0::/pod/web\n");
        kernel.write("mounted/pod/web/memory.max", "1000\n");
        kernel.write("mounted/pod/web/memory.current", "900\n");
        kernel.write("mounted/pod/web/memory.stat", "anon 1\ninactive_file 150\nactive_file 500\n");
        assert_eq!(kernel.pressure(), 750);
        kernel.write("mounted/pod/web/memory.max", "max\n");
        assert_eq!(kernel.pressure(), 0);
    }

    #[test]
    fn version_1_has_its_own_names() {
        let kernel = Kernel::new("9:name=systemd:/\n4:cpu,memory:/web\n0::/\n");
        kernel.write("mounted/memory/web/memory.limit_in_bytes", "2000\n");
        kernel.write("mounted/memory/web/memory.usage_in_bytes", "1900\n");
        kernel.write("mounted/memory/web/memory.stat", "inactive_file 1\ntotal_inactive_file 100\n");
        assert_eq!(kernel.pressure(), 900);
        kernel.write("mounted/memory/web/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(kernel.pressure(), 0);
    }

    #[test]
    fn the_tightest_ancestor_counts() {
        let kernel = Kernel::new("0::/pod/web\n");
        for (folder, limit, current) in [("pod/web", "max", "10"), ("pod", "100", "96"), (".", "1000", "100")]
        {
            kernel.write(&format!("mounted/{folder}/memory.max"), limit);
            kernel.write(&format!("mounted/{folder}/memory.current"), current);
        }
        assert_eq!(kernel.pressure(), 960);
    }

    #[test]
    fn there_is_room_for_what_every_ancestor_has_room_for() {
        let kernel = Kernel::new("0::/pod/web\n");
        for (folder, limit, current) in [("pod/web", "100", "80"), ("pod", "10000", "9300")] {
            kernel.write(&format!("mounted/{folder}/memory.max"), limit);
            kernel.write(&format!("mounted/{folder}/memory.current"), current);
        }
        let Look { pressure, level, room } = kernel.memory().look();
        assert_eq!((pressure.0, level, room), (930, Level::Shedding, 15));
    }

    #[test]
    fn a_path_of_the_host_means_the_root_that_is_mounted() {
        let kernel = Kernel::new("4:memory:/kubepods/pod1/web\n");
        assert!(kernel.memory().is_unaccounted());
        kernel.write("mounted/memory/memory.limit_in_bytes", "100\n");
        kernel.write("mounted/memory/memory.usage_in_bytes", "50\n");
        assert_eq!(kernel.pressure(), 500);
    }
}
