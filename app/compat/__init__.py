"""Private APIs of dependencies, each with the version and the reason: an upgrade has to check these modules."""
