import subprocess
import sys
from typing import Annotated

import pytest
import typer

from posewarp.runtime import command
from posewarp.runtime.errors import DataError


def _fail(exc):
    def app():
        raise exc

    return app


def test_an_error_of_ours_is_one_line_on_stderr_and_exit_code_1(capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(_fail(DataError("a.png is not a picture;\n  name another")))
    assert stop.value.code == 1
    assert capsys.readouterr().err == "DataError: a.png is not a picture; name another\n"


def test_an_interrupted_command_exits_with_130():
    with pytest.raises(SystemExit) as stop:
        command.main(_fail(KeyboardInterrupt()))
    assert stop.value.code == 130


def test_a_terminated_command_unwinds_and_leaves_no_temporary_file(tmp_path):
    code = (
        "import time\n"
        "from posewarp.runtime import command, files\n"
        "def app():\n"
        f"    with files.atomic_write({str(tmp_path / 'out.bin')!r}) as temporary:\n"
        "        temporary.write_bytes(b'half')\n"
        "        print('writing', flush=True)\n"
        "        time.sleep(60)\n"
        "command.main(app)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"writing\n"
        assert len(list(tmp_path.iterdir())) == 1
        process.terminate()
        assert process.wait(timeout=30) == 143
    assert not list(tmp_path.iterdir())


def test_a_fault_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        command.main(_fail(ZeroDivisionError()))


@pytest.mark.parametrize(("arguments", "code"), [(["3"], 0), (["x"], 2), (["0"], 1)])
def test_a_typer_application_keeps_its_exit_codes(arguments, code, monkeypatch, capsys):
    app = typer.Typer(add_completion=False)

    @app.command()
    def divide(number: Annotated[int, typer.Argument()]) -> None:
        if number == 0:
            raise DataError("0 cannot divide")

    monkeypatch.setattr(sys, "argv", ["divide", *arguments])
    with pytest.raises(SystemExit) as stop:
        command.main(app)
    assert stop.value.code == code
    assert "Traceback" not in capsys.readouterr().err
