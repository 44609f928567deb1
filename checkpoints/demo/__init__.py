"""The demo model, converted from SmolLM2-135M-Instruct."""
