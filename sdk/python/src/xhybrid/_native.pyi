# The binding that SWIG writes from xhybrid.h: its functions keep their names in C and are called by this package alone.
from typing import Any

class Handle:
    closed: bool
    def close(self) -> None: ...

def __getattr__(name: str) -> Any: ...
