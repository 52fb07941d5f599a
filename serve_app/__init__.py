"""The Face Avatar application: HTTP, settings, storage and the graph of stages."""

from importlib.metadata import version

__version__ = version("face-avatar")
