"""The LitServe application: an OpenAI-compatible server for a LLaVA and its adapters."""
