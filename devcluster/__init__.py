"""A local Kubernetes cluster in Linux namespaces; scripts/cluster is its command line."""
