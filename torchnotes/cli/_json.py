"""JSON without NaN and infinity, which most parsers reject."""

import json
from typing import Any


def strict_json(content: Any) -> str:
    """Replaces NaN and infinity by null."""
    return json.dumps(json.loads(json.dumps(content), parse_constant=lambda name: None), indent=1)
