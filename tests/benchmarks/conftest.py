"""Short runs measure as shortly as those of the pipeline's tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "converter" / "pipeline"))
