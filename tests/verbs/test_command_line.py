"""The command itself: quick to answer, one command a verb, errors in a paragraph and an exit status."""

import importlib
import os
import statistics
import subprocess
import sys
import sysconfig
import time
import types
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import allmlp
from allmlp import verbs
from allmlp.cli import app
from allmlp.errors import InputError
from allmlp.verbs import verb_help, verb_module
from allmlp.verbs._run import run_verb

SCRIPT = Path(sysconfig.get_path("scripts")) / "allmlp"


def python(*arguments: str) -> str:
    """Standard output of a Python process."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True).stdout


def within(seconds, measure, attempts=4):
    """Assert that the median of three measurements is within `seconds`; again if the machine was busy."""
    medians = []
    for _ in range(attempts):
        medians.append(statistics.median(measure() for _ in range(3)))
        if medians[-1] <= seconds:
            return
    pytest.fail(f"wanted at most {seconds} s; medians of three: {medians}")


# ---- how long it takes


@pytest.mark.parametrize("command", [[str(SCRIPT), "--help"], [sys.executable, "-m", "allmlp", "train", "--help"]])
def test_help_answers_in_half_a_second(command):
    def measure():
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        return time.perf_counter() - start

    within(0.5, measure)


@pytest.mark.parametrize(
    "module", ["allmlp", "allmlp.cli", "allmlp.verbs", "allmlp.recipes", "allmlp.runs", "allmlp.data"]
)
def test_light_modules_load_nothing_heavy(module):
    heavy = "{'torch', 'timm', 'lightning', 'matplotlib', 'sklearn', 'pandas'}"
    assert python("-c", f"import sys, {module}; print({heavy} & set(sys.modules))") == "set()\n"


def test_models_load_in_a_second_beyond_timm():
    code = (
        "import time, timm; start = time.perf_counter(); import allmlp.models; import sys; "
        "assert 'lightning' not in sys.modules and 'matplotlib' not in sys.modules; print(time.perf_counter() - start)"
    )
    within(1.0, lambda: float(python("-c", code)))


# ---- what there is


def test_every_verb_is_a_command_with_a_sentence_of_help():
    names = verbs.verbs()
    assert names[:5] == ["list", "info", "train", "evaluate", "predict"]
    assert names[-1] == "doctor"
    shown = CliRunner().invoke(app, ["--help"]).output
    for name in names:
        assert name in shown
        assert verb_help(name)[0].endswith(".")
        of_verb = CliRunner().invoke(app, [name, "--help"], prog_name="allmlp").output
        assert f"Usage: allmlp {name} [OPTIONS] [SUBJECT|KEY=VALUE]..." in of_verb
        assert f"For example: allmlp {name}" in of_verb
    assert "Keys are written key=value, for example: allmlp train data=photos" in shown


def test_a_verb_is_its_function_whatever_was_imported():
    for name in verbs.verbs():
        module = importlib.import_module(f"allmlp.verbs.{name}") and sys.modules[f"allmlp.verbs.{name}"]
        assert isinstance(verb_module(name), types.ModuleType)
        assert verb_module(name) is module
        assert getattr(verbs, name) is getattr(module, name)
        assert callable(getattr(verbs, name))
    assert set(verbs.verbs()) <= set(dir(verbs))
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = verbs.trian


def test_names_of_the_package():
    for name in ("train", "evaluate", "predict"):
        assert getattr(allmlp, name) is getattr(verbs, name)
        assert name in dir(allmlp)
    with pytest.raises(AttributeError, match="module 'allmlp' has no attribute 'trian'"):
        _ = allmlp.trian


def test_as_a_module_and_as_a_script():
    assert python("-m", "allmlp", "--version") == f"{allmlp.__version__}\n"
    done = subprocess.run([SCRIPT, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{allmlp.__version__}\n"


def test_nothing_to_do_shows_the_help():
    assert "Usage: allmlp" in CliRunner().invoke(app, [], prog_name="allmlp").output


def test_the_exit_status_is_the_verbs(tmp_path):
    result = CliRunner().invoke(app, ["info", "no_such_model"])
    assert result.exit_code == 2
    assert "Did you mean" in result.stderr or "`allmlp list`" in result.stderr
    assert "Traceback" not in result.output
    assert CliRunner().invoke(app, ["trian"]).exit_code == 2


# ---- errors


@pytest.fixture
def verb(monkeypatch):
    """Give a verb `test` a function that raises something."""

    def give(error):
        def test():
            raise error

        monkeypatch.setattr("allmlp.verbs.verb_module", lambda name: types.SimpleNamespace(test=test))

    return give


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (InputError("Wanted this; got that."), 2, "allmlp test: Wanted this; got that.\n"),
        (KeyboardInterrupt(), 130, "allmlp test: interrupted.\n"),
        (
            ModuleNotFoundError("No module named 'lightning.pytorch'", name="lightning.pytorch"),
            2,
            "allmlp test: this needs lightning.pytorch, which is not installed. Type: pip install 'allmlp[train]'\n",
        ),
        (
            ModuleNotFoundError("No module named 'onnx'", name="onnx"),
            2,
            "allmlp test: this needs onnx, which is not installed. Type: pip install 'allmlp[export]'\n",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_person_can_mend_is_one_paragraph(verb, capsys, error, status, told):
    verb(error)
    assert run_verb("test", []) == status
    assert capsys.readouterr() == ("", told)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ModuleNotFoundError("No module named 'x'", name="x")])
def test_a_bug_is_not_hidden(verb, error):
    verb(error)
    with pytest.raises(type(error)):
        run_verb("test", [])


def test_a_reader_that_goes_away_is_no_error():
    """`allmlp ... | head -0`: no traceback, not even when Python flushes at its end."""
    code = (
        "import sys; from allmlp import verbs; from allmlp.verbs import _run; import types; "
        "module = types.SimpleNamespace(test=lambda: 'line\\n' * 100, show=lambda text: text); "
        "verbs.verb_module = lambda name: module; sys.exit(_run.run_verb('test', []))"
    )
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (141, "")


def test_tables_are_wide_where_nobody_looks(tiny_run, capsys):
    """A pipe gets whole lines, whatever the width of a terminal that is not there."""
    assert run_verb("info", ["mixer_nano"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("blocks.0") and line.endswith("%") for line in lines)


def test_typer_shows_no_traceback_of_its_own():
    assert isinstance(app, typer.Typer)
    assert app.pretty_exceptions_enable is False
