"""The commands of a page of Markdown, run in their order by one shell, as a reader would.

Commands are the lines of code blocks without a language. A block of `text` right after them is what the last one
prints; `...` in it stands for anything. A test says how far to read, and looks at what has happened there.
"""

import os
import re
import shlex
import signal
import subprocess
import tempfile
import threading
import time

from processes import DEADLINE, Failed, check

LIMIT = 120


class Command:
    def __init__(self, page, line, text):
        self.place, self.text, self.prints = f"{page}:{line}", text, None

    def __repr__(self):
        return f"{self.place}: {self.text}"


def blocks(text):
    """(language, first line, content) of each code block."""
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
    for found in fence.finditer(text):
        yield found[1], text.count("\n", 0, found.start()) + 2, found[2]


def commands(page, name):
    """The commands of a page, with what they print where it says so."""
    with open(page, encoding="utf-8") as file:
        text = file.read()
    found = []
    for language, first, content in blocks(text):
        if language == "text":
            found[-1].prints = content
        elif not language:
            lines = content.splitlines()
            while lines:
                line, words = first, lines.pop(0)
                first += 1
                while words.endswith("\\"):
                    words = f"{words}\n{lines.pop(0)}"
                    first += 1
                if words.strip():
                    found.append(Command(name, line, words))
    return found


class Shell:
    """One shell: its folder, variables, functions and background jobs last from command to command."""

    def __init__(self, folder, path, env):
        self.script = tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".sh")
        self.child = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-o", "pipefail"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, cwd=folder, text=True, start_new_session=True,
            env={**env, "PATH": os.pathsep.join([*path, os.environ["PATH"]]), "LC_ALL": "C.UTF-8"},
        )
        self.printed, self.changed = "", threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        while part := os.read(self.child.stdout.fileno(), 65536):
            with self.changed:
                self.printed += part.decode("utf-8", "replace")
                self.changed.notify_all()

    def run(self, text):
        """What it prints, and its exit code."""
        self.script.seek(0)
        self.script.truncate()
        self.script.write(f"{text}\n")
        self.script.flush()
        # Read from a file, it finds no later command on its standard input.
        self.child.stdin.write(f". {shlex.quote(self.script.name)} </dev/null; printf '\\n<%d>ended\\n' $?\n")
        self.child.stdin.flush()
        end = re.compile(r"\n<(\d+)>ended\n")
        with self.changed:
            if not self.changed.wait_for(lambda: end.search(self.printed), timeout=LIMIT):
                raise Failed(f"after {LIMIT} s this has not ended: {text}\n{self.printed[-2000:]}")
            found = end.search(self.printed)
            printed, self.printed = self.printed[: found.start()], self.printed[found.end() :]
        return printed, int(found[1])

    def close(self):
        self.child.stdin.close()
        try:
            # What the page has left behind is of this session, which the shell began.
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.child.wait()
        self.reader.join(timeout=5)
        self.script.close()


class Reader:
    """Somebody who does what a page says. Used as a context it has to come to the end."""

    def __init__(self, page, folder, path, env=None, outside=()):
        """`outside` are patterns of commands that cannot run here."""
        self.left = commands(page, os.path.relpath(page, folder))
        self.outside, self.done, self.skipped = outside, 0, []
        self.shell = Shell(folder, path, env or {"HOME": folder})

    def until(self, start, status=0):
        """Runs all up to the next command that begins so, and returns what it prints. It ends with this status, or one of
        them; all others end well."""
        if not any(command.text.startswith(start) for command in self.left):
            raise Failed(f"no command `{start}` is left on the page: {self.left}")
        while True:
            command = self.left.pop(0)
            last = command.text.startswith(start)
            printed = self.one(command, status if last else 0)
            if last:
                return printed

    def one(self, command, status=0):
        if any(re.search(pattern, command.text) for pattern in self.outside):
            self.skipped.append(command)
            return ""
        self.done += 1
        printed, code = self.shell.run(command.text)
        allowed = status if isinstance(status, tuple) else (status,)
        check(code in allowed, f"{command} ended with {code}, not {status}:\n{printed}")
        if command.prints is not None:
            expected = re.escape(command.prints.strip()).replace(re.escape("..."), ".*")
            # What changes is live a moment later, so a reader asks once more.
            end = time.monotonic() + DEADLINE
            while not re.fullmatch(expected, printed.strip(), re.S):
                check(time.monotonic() < end, f"{command} prints\n{printed}\nnot\n{command.prints}")
                printed, _ = self.shell.run(command.text)
        return printed

    def rest(self):
        while self.left:
            self.one(self.left.pop(0))

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.shell.close()
        if kind is None:
            check(not self.left, f"not run: {self.left}")
