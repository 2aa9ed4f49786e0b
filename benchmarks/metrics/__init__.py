"""What teams and models know: plain regressions and linear probes."""
