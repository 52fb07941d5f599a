"""OpenAI's images API over the same service: its parameters, answers and errors."""
