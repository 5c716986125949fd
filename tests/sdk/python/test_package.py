import contextlib
import logging
import os
import pathlib
import pickle
import sys

import pytest
from conftest import SOURCE

import xhybrid


def test_the_package_comes_from_the_wheel_and_finds_its_own_plugins():
    package = pathlib.Path(xhybrid.__file__).parent
    assert "site-packages" in package.parts
    plugins = xhybrid.default_runtime().plugins()
    assert {(plugin.kind, plugin.name) for plugin in plugins} >= {
        ("backend", "cpu"),
        ("stage", "align"),
        ("stage", "distill"),
        ("merge", "linear"),
        ("merge", "slerp"),
        ("merge", "ties"),
        ("text", "sentencepiece"),
    }
    assert all(pathlib.Path(plugin.path).is_relative_to(package) for plugin in plugins)
    assert all(plugin.usable and plugin.version and plugin.license for plugin in plugins)


def test_the_release_is_that_of_the_sources():
    assert xhybrid.release() == xhybrid.__version__ == (SOURCE / "VERSION").read_text().strip()
    assert xhybrid.abi_version() == (1, 0)


def test_type_checkers_find_the_hints():
    assert (pathlib.Path(xhybrid.__file__).parent / "py.typed").exists()


def test_every_public_name_is_documented():
    for name in xhybrid.__all__:
        assert getattr(xhybrid, name).__doc__, name


def test_a_runtime_reports_its_host():
    with xhybrid.Runtime(device="cpu", threads=1) as runtime:
        assert {"cpu", "device", "plugins", "searched"} <= runtime.report().keys()


def test_a_device_that_does_not_exist_is_named():
    with pytest.raises(xhybrid.NotFoundError, match="abacus") as caught:
        xhybrid.Runtime(device="abacus")
    assert (caught.value.code, caught.value.origin) == (3, "core")


def test_an_option_out_of_range_says_what_is_allowed():
    with pytest.raises(xhybrid.InvalidArgumentError, match="allowed"):
        xhybrid.Runtime(threads=-1)
    with pytest.raises(TypeError, match="threads is object; allowed"):
        xhybrid.Runtime(threads=object())


def test_each_code_has_a_class_and_all_are_errors():
    classes = [getattr(xhybrid, name) for name in xhybrid.__all__ if name.endswith("Error") and name != "Error"]
    assert len(classes) == 11
    assert all(issubclass(each, xhybrid.Error) for each in classes)
    assert issubclass(xhybrid.InvalidArgumentError, ValueError)
    assert issubclass(xhybrid.OutOfMemoryError, MemoryError)


def test_an_error_survives_pickling():
    error = pickle.loads(pickle.dumps(xhybrid.CorruptError(7, "a digest differs", "core")))
    assert isinstance(error, xhybrid.CorruptError)
    assert (error.code, error.message, error.origin) == (7, "a digest differs", "core")
    assert str(error) == "core: a digest differs"


def test_plugin_paths_are_searched_first(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    searched = [place["path"] for place in xhybrid.Runtime(plugin_path=[one, str(two)]).report()["searched"]]
    assert searched[:2] == [str(one), str(two)]


def announce(directory, name, value):
    info = directory / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[xhybrid.plugins]\n{name} = {value}\n")


def test_directories_that_packages_announce_are_searched(tmp_path, python):
    (tmp_path / "announced.py").write_text(
        f"DIRECTORY = {str(tmp_path / 'constant')!r}\n\ndef directory():\n    return {str(tmp_path / 'made')!r}\n"
    )
    announce(tmp_path, "constant", "announced:DIRECTORY")
    announce(tmp_path, "made", "announced:directory")
    announce(tmp_path, "broken", "announced:nothing")
    ran = python(
        "import logging; logging.basicConfig(); import xhybrid; print(xhybrid.Runtime().report())",
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert ran.returncode == 0, ran.stderr
    assert str(tmp_path / "constant") in ran.stdout and str(tmp_path / "made") in ran.stdout
    assert "plugins of entry point broken are passed over" in ran.stderr


def test_messages_of_the_library_arrive_in_logging(teacher, tmp_path, caplog):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a good row"}\nnot json\n')
    recipe = {"model": teacher, "data": [rows], "dry_run": True}
    with caplog.at_level("WARNING", logger="xhybrid"):
        xhybrid.Job("tokenize", recipe).run()
    [record] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert record.name == "xhybrid.core"
    assert str(rows) in record.getMessage()


@contextlib.contextmanager
def caught_unraisable():
    """Exceptions that have nowhere to go."""
    caught = []
    before, sys.unraisablehook = sys.unraisablehook, lambda unraisable: caught.append(unraisable.exc_value)
    try:
        yield caught
    finally:
        sys.unraisablehook = before


def test_a_handler_that_raises_does_not_change_a_result(teacher, tmp_path):
    class Broken(logging.Handler):
        def handle(self, record):
            raise RuntimeError("the handler is broken")

    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a good row"}\nnot json\n')
    logger, handler = logging.getLogger("xhybrid"), Broken()
    logger.addHandler(handler)
    try:
        with caught_unraisable() as caught:
            xhybrid.Job("tokenize", {"model": teacher, "data": [rows], "dry_run": True}).run()
    finally:
        logger.removeHandler(handler)
    assert "the handler is broken" in str(caught[0])
