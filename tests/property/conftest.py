from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

# The builders are shared with the unit tests; pytest's importlib mode puts no folder on the path.
sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

# Two shared cores: time says nothing about a defect, and files make examples slow.
settings.register_profile("engine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("engine")
