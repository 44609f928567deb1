"""The command line `phi3`: serve a model, or bake an image of it. scripts/serve and scripts/bake call it."""
