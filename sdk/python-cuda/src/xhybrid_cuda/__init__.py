"""The CUDA backend of xhybrid. Installing it is all there is to do: ``xhybrid.Runtime(device="cuda")`` finds it."""

from __future__ import annotations

import os


def directory() -> str:
    """Where the plugin lies."""
    return os.path.dirname(os.path.abspath(__file__))
