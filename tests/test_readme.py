"""The README's Python runs, and its links lead somewhere."""

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
