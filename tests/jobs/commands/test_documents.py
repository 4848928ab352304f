"""The commands that README.md and docs/ show exist, with the flags that they show."""

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

BLOCK = re.compile(r"^ *```\w*\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
SHELL = ("|", ">", "2>", "&&", ";")
"""Words after which the shell does not pass any more to glowctl."""


def commands() -> Iterator[list[str]]:
    """Yield the arguments of each line of a code block that starts glowctl."""
    for document in DOCUMENTS:
        for block in BLOCK.findall(document.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip().removeprefix("$ ").startswith("glowctl "):
                    _, *words = shlex.split(line.strip().removeprefix("$ "), comments=True)
                    yield list(itertools.takewhile(lambda word: word not in SHELL, words))


def test_every_command_in_a_document_has_only_flags_that_exist(one_process, tmp_path):
    """A command line with an unknown flag is refused before --print-spec or --help takes effect."""
    shown = list(commands())
    assert {"train", "ablate", "ood", "pack"} <= {words[0] for words in shown}
    for words in shown:
        only_checked = "--print-spec" if words[0] in ("train", "ablate") else "--help"
        done = one_process(tmp_path, *words, only_checked)
        assert done.returncode == 0, f"glowctl {shlex.join(words)}: {done.stderr}"


def test_every_code_of_an_error_that_is_explained_exists():
    page = (ROOT / "docs/scripts.md").read_text()
    codes = re.findall(r"^\| `([a-z-]+)` \|", page.split("## Trouble")[1].split("\n## ")[0], re.MULTILINE)
    source = "".join(path.read_text() for room in ("glow", "jobs") for path in (ROOT / room).rglob("*.py"))
    assert len(codes) == 21
    assert [code for code in codes if f'"{code}"' not in source] == []
