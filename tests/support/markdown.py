"""Documentation as a script: its files are written, its commands run, its output compared.

A fenced block says in its first line what it is:

    ```yaml file=NAME        written to NAME before later commands run
    ```console [exit=N]      `$ ` lines are commands (a trailing backslash goes on); what follows is output
    ```console serve         the command runs on, in the background, until the document ends or another serves

`make demo` is run as `sandgate demo`: what the target does once all is prepared. In expected
output times and ports are any, and `…` stands for anything, on its own line for any lines.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Block", "Document", "blocks", "file_in"]

ROOT = Path(__file__).resolve().parent.parent.parent
_FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_READY = re.compile(r"sandgate: ready on http://127\.0\.0\.1:(\d+)")
# What differs from run to run and from machine to machine: times and ports.
_MEASURED = re.compile(
    r"(?P<ms>(\\ )+[0-9]+\\\.[0-9]+\\ ms)|(?P<s>[0-9]+\\\.[0-9]+\\ s\\\))|(?P<port>127\\\.0\\\.0\\\.1:[0-9]+)"
)
_ANY_MEASURE = {"ms": r" +[0-9.]+ ms", "s": r"[0-9.]+ s\)", "port": r"127\.0\.0\.1:[0-9]+"}
_WRITTEN_PORT = "127.0.0.1:8000"


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its words (`file=NAME` as a pair), its text and its line."""

    language: str
    words: dict[str, str]
    text: str
    line: int

    def commands(self) -> Iterator[tuple[str, str]]:
        """Yield each command with the output that is shown for it."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command = re.match(r"(?:.*\\\n)*.*\n", part)
            assert command is not None, f"line {self.line}: a command without an end"
            yield command[0].strip(), part[command.end() :]


def blocks(file: Path) -> list[Block]:
    """Return the fenced blocks of a Markdown file."""
    text = file.read_text(encoding="utf-8")
    found: list[Block] = []
    for match in _FENCE.finditer(text):
        words = {word.partition("=")[0]: word.partition("=")[2] for word in str(match[2]).split()}
        found.append(Block(match[1], words, match[3], text.count("\n", 0, match.start()) + 1))
    return found


def file_in(page: str, name: str) -> str:
    """Return the text that `page`, a path in the checkout, shows as the file `name`."""
    return next(block.text for block in blocks(ROOT / page) if block.words.get("file") == name)


@dataclass
class Document:
    """One document, run from top to bottom in `folder`, where the checkout's data folders are found."""

    folder: Path
    port: str = ""
    server: subprocess.Popen[str] | None = None
    environ: dict[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        """Make the folder look like a checkout, and the commands the ones of this checkout."""
        for name in ("examples", "policies", "toolpacks"):
            (self.folder / name).symlink_to(ROOT / name)
        self.environ = {
            **os.environ,  # noqa: TID251 - a child's environment
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # noqa: TID251
            "XDG_STATE_HOME": str(self.folder / "xdg-state"),
            "SANDGATE_PORT": "0",
        }

    def play(self, block: Block) -> None:
        """Do what a block says; raises `AssertionError` where something else comes out."""
        if "file" in block.words:
            path = self.folder / block.words["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        if block.language != "console":
            return
        for command, expected in block.commands():
            if "serve" in block.words:
                self.serve(command)
            else:
                self.run(command, expected, int(block.words.get("exit", "0")), block.line)

    def run(self, command: str, expected: str, code: int, line: int) -> None:
        """Run a command to its end and compare what it prints."""
        command = command.replace(_WRITTEN_PORT, f"127.0.0.1:{self.port}").replace(
            "make demo", "sandgate demo"
        )
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        shown = f"line {line}: {command}\n{done.stdout}{done.stderr}"
        assert done.returncode == code, f"exit code {done.returncode} and not {code}, {shown}"
        assert _pattern(expected).fullmatch(done.stdout.strip() + "\n"), (
            f"other output than documented, {shown}"
        )

    def serve(self, command: str) -> None:
        """Start a command that goes on, and wait until it is ready."""
        self.stop()
        self.server = subprocess.Popen(
            shlex.split(command), cwd=self.folder, env=self.environ, stderr=subprocess.PIPE, text=True
        )
        assert self.server.stderr is not None
        said = ""
        for text in self.server.stderr:
            said += text
            if ready := _READY.search(text):
                self.port = ready[1]
                return
        raise AssertionError(f"{command} ended before it was ready:\n{said}")

    def stop(self) -> None:
        """End what is being served; it has to end with 0."""
        if self.server is not None:
            self.server.send_signal(signal.SIGTERM)
            assert self.server.wait(40) == 0
            assert self.server.stderr is not None
            self.server.stderr.close()
            self.server = None


def _pattern(expected: str) -> re.Pattern[str]:
    """Return what output has to look like: `…` is anything, on its own line any lines."""
    lines = expected.strip().splitlines()
    return re.compile("".join(r"(?:.*\n)*?" if line == "…" else _line(line) for line in lines) or r"\s*")


def _line(text: str) -> str:
    literal = ".*".join(map(re.escape, text.rstrip().split("…")))
    return _MEASURED.sub(lambda match: _ANY_MEASURE[match.lastgroup or ""], literal) + r"[ \t]*\n"
