"""Quantities for people: 3 significant digits and a fitting unit."""

DURATIONS = ((1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms"), (1.0, "s"))
SIZES = ((1.0, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB"))


def duration(seconds: float) -> str:
    """60.9 ms, for example."""
    return _with_unit(seconds, DURATIONS)


def size(number_of_bytes: float) -> str:
    """1.25 MB, for example."""
    return _with_unit(number_of_bytes, SIZES)


def _with_unit(quantity: float, units: tuple[tuple[float, str], ...]) -> str:
    rounded = float(f"{quantity:.3g}")  # before a unit is chosen: 999.9 µs are 1 ms
    scale, unit = next((pair for pair in reversed(units) if rounded >= pair[0]), units[0])
    number = rounded / scale
    return f"{number:,.0f} {unit}" if number >= 1000 else f"{number:.3g} {unit}"
