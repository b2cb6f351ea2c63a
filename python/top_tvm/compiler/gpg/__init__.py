"""GPG: a policy, a graph neural network trained by policy gradient, that schedules op graphs."""
