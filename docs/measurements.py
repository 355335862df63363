"""The directive `measurements`: how fast an operation is, from benchmarks/results."""

import csv
import io

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from benchmarks import publish, results

ROWS = [row for path in publish.machines() for row in results.read(path) if row["median_us"]]
MEASURED = {row["operation"] for row in ROWS}


class Measurements(SphinxDirective):
    """A table for each machine."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        rows = [row for row in ROWS if row["operation"] == self.arguments[0]]
        machines = dict.fromkeys((row["machine"], row["torch"]) for row in rows)
        tables = [table([row for row in rows if (row["machine"], row["torch"]) == key]) for key in machines]
        return self.parse_text_to_nodes("\n".join(tables))


def table(rows: list[results.Row]) -> str:
    contenders = [name for name in dict.fromkeys(row["contender"] for row in rows) if name != publish.COPY]
    cases: dict[tuple, dict[str, results.Row]] = {}
    for row in rows:
        cases.setdefault(publish.work(row), {})[row["contender"]] = row
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n   ")
    writer.writerow(["case", "elements", *contenders, "ratio"])
    for (case, size), of in cases.items():
        times = (f"{float(of[name]['median_us']):,.1f}" if name in of else "" for name in contenders)
        writer.writerow([case, publish.count(size), *times, f"{float(of[publish.OURS]['ratio_to_best_rival']):.2f}"])
    title = f"{rows[0]['machine']}, torch {rows[0]['torch']}"
    return f".. csv-table:: {title}\n   :header-rows: 1\n\n   {text.getvalue()}\n".replace("_", r"\_")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("measurements", Measurements)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
