"""How hypothesis draws: `ci`, its own profile, always the same examples; `fuzz` ever new ones."""

from hypothesis import settings

# Tests judge results, never the machine's speed.
settings.register_profile("fuzz", deadline=None)
