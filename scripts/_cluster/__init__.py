"""A real Kubernetes on this machine: what scripts/cluster is made of."""
