"""The blocks of code on the pages of documentation, and how they are run.

CONTRIBUTING.md tells the convention.
"""

import doctest
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from installed import ROOT

RUN = ("python", "pycon", "console", "cpp")
SHOWN = ("text", "toml", "cmake", "json", "bibtex")
DOCTEST = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    """Of a page: what is between two fences.

    Attributes
    ----------
    line
        Where the code begins in the page, from 1.
    file
        The name of the file that it is, "" if it is none.
    is_run
        False where the page says so.
    """

    language: str
    code: str
    line: int
    file: str
    is_run: bool


def pages() -> list[str]:
    """Return the names of the pages from the root of the repository, but for those that tests/frameworks runs."""
    names = [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("**/*.md")]
    return ["README.md", *sorted(name for name in names if "/_" not in name and "/frameworks/" not in name)]


def blocks_of(text: str) -> Iterator[Block]:
    """Read the blocks of a page. Raises ValueError for one that would be neither run nor known not to be."""
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        fence = re.match(r"( *)(`{3,})(\S*)", lines[at])
        at += 1
        if fence is None:
            continue
        indent, ticks, language = fence.groups()
        begin = at
        while at < len(lines) and not re.fullmatch(rf" *{ticks}`* *", lines[at]):
            at += 1
        if at == len(lines):
            raise ValueError(f"line {begin}: this block has no end")
        at += 1
        if language.startswith("{"):  # a directive of MyST
            continue
        if language not in RUN + SHOWN:
            raise ValueError(f"line {begin}: {language!r} is none of {', '.join(RUN + SHOWN)}")
        code = "".join(line.removeprefix(indent) + "\n" for line in lines[begin : at - 1])
        said = re.fullmatch(r" *<!-- (not run|file): (.+) -->", lines[begin - 2] if begin > 1 else "")
        reason, name = said.groups() if said else ("", "")
        yield Block(language, code, begin + 1, name if reason == "file" else "", reason == "" and language in RUN)


class Page:
    """What a page's blocks share: a namespace, and the folder that they run in.

    The namespace is a module's whose file has the code in the page's lines, so that tracebacks name these, and
    TorchScript finds the source of classes.
    """

    def __init__(self, name: str, text: str, folder: Path) -> None:
        self.blocks = list(blocks_of(text))
        self.name = name
        self._folder = folder
        self._module = ModuleType("page_" + re.sub(r"\W", "_", name))
        self._module.__file__ = str(folder.parent / f"{self._module.__name__}.py")
        lines: list[str] = []
        for block in self._of("python"):
            lines += [""] * (block.line - 1 - len(lines)) + block.code.splitlines()
        Path(self._module.__file__).write_text("\n".join(lines))

    def _of(self, language: str) -> Iterator[Block]:
        return (block for block in self.blocks if block.is_run and block.language == language)

    def calls(self, program: str) -> bool:
        """Whether a command of the page calls a program."""
        return any(re.search(rf"^\$ .*\b{program} ", block.code, re.MULTILINE) for block in self._of("console"))

    def cpp(self) -> str:
        """Return the page's blocks of C++, one after another."""
        return "".join(block.code for block in self._of("cpp"))

    def run(self, environment: dict[str, str]) -> None:
        """Run all blocks but those of C++, and write the files."""
        sys.modules[self._module.__name__] = self._module
        try:
            for block in self.blocks:
                if block.file:
                    (self._folder / block.file).write_text(block.code)
                elif not block.is_run:
                    continue
                elif block.language == "python":
                    padded = "\n" * (block.line - 1) + block.code
                    exec(compile(padded, str(self._module.__file__), "exec"), vars(self._module))
                elif block.language == "pycon":
                    run_examples(self.name, block, vars(self._module))
                elif block.language == "console":
                    run_commands(self.name, block, self._folder, environment)
        finally:
            del sys.modules[self._module.__name__]


def run_examples(name: str, block: Block, namespace: dict[str, Any]) -> None:
    """Run a block of `>>> ` as a doctest."""
    examples = doctest.DocTestParser().get_examples(block.code, name)
    assert examples, f"{name}, line {block.line}: nothing to run"
    test = doctest.DocTest(examples, {}, name, name, block.line - 1, None)
    test.globs = namespace  # not a copy of it
    runner = doctest.DocTestRunner(optionflags=DOCTEST, verbose=False)
    told: list[str] = []
    runner.run(test, out=told.append, clear_globs=False)
    assert not runner.failures, "".join(told)


def run_commands(name: str, block: Block, folder: Path, environment: dict[str, str]) -> None:
    """Run a block of `$ ` by bash, and compare what is expected of each command."""
    before, *commands = re.split(r"^\$ ", block.code, flags=re.MULTILINE)
    assert commands, f"{name}, line {block.line}: no command"
    assert not before, f"{name}, line {block.line}: a block of console begins with '$ '"
    for command in commands:
        line, expected = split_command(command)
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=folder,
            env=environment,
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        where = f"{name}, line {block.line}: $ {line}"
        assert done.returncode == 0, f"{where}ends with {done.returncode} and\n{done.stdout}"
        is_right = not expected.strip() or doctest.OutputChecker().check_output(expected, done.stdout, DOCTEST)
        assert is_right, f"{where}gives\n{done.stdout}where the page has\n{expected}"


def split_command(text: str) -> tuple[str, str]:
    """Return a command, which goes on after a line that ends with a backslash, and what is expected of it."""
    lines = text.splitlines(keepends=True)
    count = 1
    while lines[count - 1].endswith("\\\n"):
        count += 1
    return "".join(lines[:count]), "".join(lines[count:])


def cpp_program(pages: list[Page]) -> str:
    """Return a C++ program that runs the blocks of the page which its argument names, as one function."""
    includes: list[str] = []
    functions = main = ""
    for number, page in enumerate(pages):
        lines = page.cpp().splitlines()
        includes += [line for line in lines if line.startswith("#include")]
        body = "\n".join(line for line in lines if not line.startswith("#include"))
        functions += f"void page_{number}() {{\n{body}\n}}\n"
        main += f'  if (std::string(arguments[1]) == "{page.name}") page_{number}();\n'
    head = "\n".join(dict.fromkeys(["#include <string>", *includes]))
    return f"{head}\n{functions}int main(int, char** arguments) {{\n{main}}}\n"
