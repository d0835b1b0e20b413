"""What a command line prints when something goes wrong: one line, and the exit code that goes with it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from geotreeclip.errors import DataError, first_line, run_main


def fails(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (DataError("x.csv: is empty"), 2, "error: x.csv: is empty"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (FileNotFoundError(2, "No such file or directory", "x.csv"), 2, "error: x.csv: No such file or directory"),
        (OSError(28, "No space left on device"), 2, "error: No space left on device"),
        (OSError("odd\nand long"), 2, "error: odd"),
    ],
)
def test_users_errors_are_one_line(error, code, printed, capsys):
    assert run_main(fails(error)) == code
    assert capsys.readouterr().err.splitlines() == [printed]


def test_codes_pass_and_mistakes_of_the_program_keep_their_traceback():
    assert run_main(lambda: None) == 0
    assert run_main(lambda: 1) == 1
    with pytest.raises(ZeroDivisionError):
        run_main(lambda: 1 // 0)


SCRIPT = "import sys; from geotreeclip.errors import run_main; sys.exit(run_main(lambda: print('x' * 100_000)))"


def test_a_full_disk_behind_standard_output_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")


def test_a_reader_that_went_away_is_no_error():
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as done:
        done.stdout.close()
        assert done.stderr.read() == b""
    assert done.returncode == 1


def test_the_first_line_that_says_anything():
    assert first_line(ValueError("\n  first \nsecond")) == "first"
    assert first_line(ValueError()) == "ValueError"
