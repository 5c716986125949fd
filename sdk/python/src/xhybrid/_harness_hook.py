"""Makes the program ``lm_eval`` of an environment know this package, where its harness reads no entry points: a file that
Python reads when it starts waits for the harness's models and registers ours behind them."""

from __future__ import annotations

import pathlib
import sysconfig

_MODULE = "xhybrid_in_lm_eval"
_HOOK = '''"""Registers xhybrid when lm-evaluation-harness loads its models. Written by `python -m xhybrid.lm_eval --install` and
taken away by `--uninstall`."""

import sys


class _Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "lm_eval.models":
            return None
        import importlib.util

        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_register(module):
            load(module)
            try:
                import xhybrid.lm_eval  # noqa: F401
            except ImportError as error:
                sys.stderr.write(f"xhybrid is not among the models: {error} ({__file__})\\n")

        spec.loader.exec_module = load_and_register
        return spec


sys.meta_path.insert(0, _Finder())
'''


def _files() -> tuple[pathlib.Path, pathlib.Path]:
    packages = pathlib.Path(sysconfig.get_paths()["purelib"])
    return packages / f"{_MODULE}.py", packages / f"{_MODULE}.pth"


def install() -> list[pathlib.Path]:
    """Writes the files and names them. A second time changes nothing."""
    module, start = _files()
    module.write_text(_HOOK, encoding="utf-8")
    start.write_text(f"import {_MODULE}\n", encoding="utf-8")
    return [module, start]


def uninstall() -> list[pathlib.Path]:
    """Takes the files away and names those that were there."""
    found = [path for path in reversed(_files()) if path.exists()]
    for path in found:
        path.unlink()
    return found
