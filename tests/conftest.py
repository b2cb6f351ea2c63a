"""What all tests rely on.

How hypothesis draws: `ci`, its own profile, always the same examples; `fuzz` ever new ones.
"""

import signal

from hypothesis import settings

# Tests judge results, never the machine's speed.
settings.register_profile("fuzz", deadline=None)

# Shells let what they start in the background ignore Ctrl-C; tests of interrupts must not.
signal.signal(signal.SIGINT, signal.default_int_handler)
