"""The README's Python runs, its links lead somewhere, and its first block names the commands that CI runs."""

import contextlib
import io
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_examples_run():
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert snippets
    for snippet in snippets:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(snippet, {})
        assert printed.getvalue()


def test_links_and_places_in_the_notes_exist():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    places = re.findall(r"`((?:csrc|tests|torchnotes)/[\w/.]+)`", (ROOT / "NOTES.md").read_text())
    assert links
    assert places
    assert not [path for path in links + places if not (ROOT / path).exists()]


def test_the_first_block_names_the_commands_to_train_and_to_test():
    block = re.search(r"```sh\n(.*?)```", README, re.DOTALL)[1]
    commands = re.findall(r"^(\S[^#\n]*?) +#", block, re.MULTILINE)
    assert commands == ["make train", "make test"]
    assert block.count("minutes") == 2
    assert "make test" in (ROOT / ".ci/run").read_text().splitlines()
