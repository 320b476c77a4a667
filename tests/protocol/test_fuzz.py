"""scripts/fuzz: a short run, and what it does when a decoder fails."""

import os
import subprocess
import sys
from pathlib import Path

from tests.postgres import postgres

ROOT = Path(__file__).parent.parent.parent
FUZZ = ROOT / "scripts" / "fuzz"


def fuzz(*options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *options], env=environment, capture_output=True, text=True, check=False)


def test_every_decoder_stands_random_changes_of_the_golden_messages():
    result = fuzz(FUZZ, "--runs", "300")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "targets, 300 inputs each, 0 failed" in result.stdout


def test_a_decoder_that_raises_another_error_is_named_with_the_input():
    broken = (
        f"import sys; sys.path.insert(0, {str(FUZZ)!r}); sys.argv[1:] = ['--runs', '50', '--target', 'topic']; "
        "import targets, runpy; targets.TARGETS['topic'] = targets.TARGETS['topic']._replace(errors=()); "
        f"runpy.run_path({str(FUZZ)!r}, run_name='__main__')"
    )
    result = fuzz("-c", broken)
    assert result.returncode == 1, result.stderr
    assert "topic: MessageError: topic '" in result.stdout
    assert "input: b'" in result.stdout


def test_the_intake_of_the_calibrator_stands_hostile_messages():
    result = fuzz(FUZZ, "--only", "intake", "--count", "3000")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "devices are stored and can be shown" in result.stdout


def test_the_intake_stands_hostile_messages_on_postgresql():
    server = postgres()
    url = server.create()
    result = fuzz(FUZZ, "--only", "intake", "--count", "1500", "--seed", "1", "--database", url)
    server.drop(url)
    assert result.returncode == 0, result.stdout + result.stderr
