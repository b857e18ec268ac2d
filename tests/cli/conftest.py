"""Commands that talk to a service are tested with the parts of other rooms' tests."""

import sys
from pathlib import Path

for room in ("cli", "service", "workers", "faults", "converter/pipeline"):
    sys.path.append(str(Path(__file__).resolve().parents[1] / room))
