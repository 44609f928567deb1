"""Models by name: the catalogue, the Hugging Face Hub client, downloads, and the demo model."""
