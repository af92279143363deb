"""The words that the field's words replaced stay gone, and public prose starts with a verb or a noun."""

import re
import subprocess

import pytest

from conftest import ROOT

REPLACED = {
    "classes": "Around Beginning Taken Together Session Fitted Listener Interruption Saver World Sampler Heard "
    "Gathering Piece Tally Judgement Artefact Passport Album Crew Gate Intake",
    "names": "intake answering metering crew judgement judged examination shelf remembered strangers oddities unknowns "
    "recognise ledger parity draws cautious cautious_lr patience_seconds patience_s accumulate "
    "listener",
    "words": "picture pictures drawing drawings told nobody whoever likewise",
}
ALLOWED = {
    "accumulate": {"src/resnetlab/cli/main.py", "tests/cli/test_main.py"},  # refused, and the new name given
    "patience_seconds": {"src/resnetlab/cli/main.py", "tests/cli/test_main.py"},
    "picture": {
        "src/resnetlab/evaluation/html_report.html.j2",
        "src/resnetlab/study/reports/report.html.j2",
        "src/resnetlab/study/reports/architectures.html.j2",
        "src/resnetlab/data/readers/parquet_columns.py",
    },  # the HTML element, and a column's name
    "drawing": {"src/resnetlab/cli/predict.py", "tests/cli/test_predict_command.py"},  # a key of `predict --json`
    "draws": {
        "src/resnetlab/data/images/sniff.py",
        "src/resnetlab/evaluation/figures.py",
    },  # what a GIF or browser does
    "listener": {"src/resnetlab/serving/server.py", "tests/inference/test_inputs.py"},  # a socket
}
HERE = "tests/test_words.py"


def hits(word):
    done = subprocess.run(
        ["git", "grep", "-lwI", word, "--", ".", ":!docs/log.md", ":!CHANGELOG.md", f":!{HERE}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode > 1:
        pytest.skip(f"no git here: {done.stderr.strip()}")
    return set(done.stdout.split())


@pytest.mark.parametrize("word", sorted({word for group in REPLACED.values() for word in group.split()}))
def test_replaced_words_are_gone(word):
    assert hits(word) - ALLOWED.get(word, set()) == set()


def test_docstrings_do_not_start_with_a_question_word():
    question = re.compile(r'^\s*"""(Which|What|Where|Whom|How|Of|So)\b.*', re.MULTILINE)
    bad = [
        f"{path.relative_to(ROOT)}: {match[0].strip()}"
        for path in sorted((ROOT / "src" / "resnetlab").rglob("*.py"))
        for match in question.finditer(path.read_text())
    ]
    assert bad == []


def test_no_docstring_says_what_a_test_guards():
    assert hits("No torch here") == set()
