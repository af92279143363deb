"""Training plans: predicted time, memory, network traffic, bottleneck and price of a run, before it starts."""
