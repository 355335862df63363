"""The programs of docs/howto/processes.md run with any number of processes."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs/howto/processes.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
OF_A_PROCESS = (
    'dist.init_process_group("gloo")\n',
    "dist.destroy_process_group()\n",
)  # the tests share one process group


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_programs_of_the_page_run(number):
    program = PROGRAMS[number]
    for line in OF_A_PROCESS:
        assert program.count(line) == 1
        program = program.replace(line, "")
    names = {}
    exec(program, names)
    assert names["loss"].isfinite()
