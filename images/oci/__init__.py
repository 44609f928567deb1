"""A client for OCI registries and OCI image layouts.

Specifications: https://github.com/opencontainers/distribution-spec and https://github.com/opencontainers/image-spec
"""
