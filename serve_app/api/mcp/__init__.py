"""The service as tools of agents, by the Model Context Protocol: over HTTP here, on stdin and stdout by `cli`."""
