"""Asking models over HTTP: OpenAI's, Gemini, vLLM, our own server; what was paid for is kept."""
