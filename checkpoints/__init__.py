"""Where models come from: the hub, or the demo model made from a package."""
