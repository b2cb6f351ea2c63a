"""Who turns the knobs of the runtime: decisions as pure functions of what is seen."""
