"""`POST /chat`, the API of KAITO's phi-3 preset."""
