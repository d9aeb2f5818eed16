"""Real front ends for tests: pages, kernels and terminals, none of which leave this machine."""
