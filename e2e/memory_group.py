"""A memory control group of our own, of version 1 or 2, below the one that this process is in."""

import os

ROOT = "/sys/fs/cgroup"
NAMES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control"),
    2: ("memory.max", "memory.current", "memory.events"),
}


class MemoryGroup:
    """Made with a limit, and removed with its block. An OSError says why it cannot be made."""

    def __init__(self, name, limit):
        self.version, parent = own_group()
        self.folder = os.path.join(parent, name)
        limit_file, self.usage_file, self.events_file = NAMES[self.version]
        os.mkdir(self.folder)
        try:
            self._write(limit_file, limit)
        except OSError:
            os.rmdir(self.folder)
            raise

    def command(self, args):
        """The command, in the group from its first instruction on."""
        procs = os.path.join(self.folder, "cgroup.procs")
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', procs, *args]

    def usage(self):
        return int(self._read(self.usage_file))

    def oom_kills(self):
        for line in self._read(self.events_file).splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
        return 0

    def _read(self, name):
        with open(os.path.join(self.folder, name), encoding="ascii") as file:
            return file.read().strip()

    def _write(self, name, value):
        with open(os.path.join(self.folder, name), "w", encoding="ascii") as file:
            file.write(str(value))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.rmdir(self.folder)


def own_group():
    """Version and folder. With version 2 groups with processes have no limited children, so ours goes beside."""
    with open("/proc/self/cgroup", encoding="ascii") as lines:
        for line in lines:
            _, controllers, path = line.strip().split(":", 2)
            if "memory" in controllers.split(","):
                folder = os.path.join(ROOT, "memory", path.lstrip("/"))
                return 1, folder if os.path.isdir(folder) else os.path.join(ROOT, "memory")
    with open("/proc/self/cgroup", encoding="ascii") as lines:
        path = next(line.strip().split("::", 1)[1] for line in lines if "::" in line)
    folder = os.path.join(ROOT, os.path.dirname(path).lstrip("/"))
    return 2, folder if os.path.isdir(folder) else ROOT
