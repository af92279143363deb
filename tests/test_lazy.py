"""Imports that must not load torch, sklearn or matplotlib."""

import shutil
import subprocess
import sys

import pytest

LOADED = "import sys; print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'sklearn', 'matplotlib'}))"
HELP = (
    "import contextlib\nfrom resnetlab.cli.main import main\n"
    "with contextlib.suppress(SystemExit): main(['{command}', '--help'])"
)


def loaded_after(code: str) -> str:
    """Return the slow modules that are loaded after `code` ran in another process."""
    done = subprocess.run([sys.executable, "-c", f"{code}\n{LOADED}"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "code",
    [
        "import resnetlab.config, resnetlab.literature.paper",
        "from resnetlab.cli.main import main; main(['--help'])",
        HELP.format(command="study"),
        "import resnetlab; resnetlab.model_config('resnet56'); resnetlab.recipe('digits')",
        "import resnetlab.training.run_files.record",
        "import resnetlab.data.registry, resnetlab.system.allocator, resnetlab.cli.progress",
        HELP.format(command="train"),
        HELP.format(command="serve"),
        "from resnetlab.cli.main import main; main(['weights'])",
    ],
)
def test_no_slow_module_is_loaded(code):
    assert loaded_after(code) == "[]"


@pytest.mark.parametrize(
    "module",
    [
        "study.reports.report",
        "study.verdicts.verdict",
        "study.results",
        "study.grid",
        "study.executors.local_pool",
        "study.display",
        "serving.server",
    ],
)
def test_torch_and_sklearn_are_not_loaded(module):
    loaded = loaded_after(f"import resnetlab.{module}")
    assert "torch" not in loaded
    assert "sklearn" not in loaded


def test_a_report_is_written_without_torch(tiny_study, tmp_path):
    for depth in (8, 14):  # fewer curves are drawn faster
        name = f"digits-plain-{depth}-seed0"
        shutil.copytree(tiny_study / "runs" / name, tmp_path / "copy" / "runs" / name)
    code = (
        "import pathlib, resnetlab.study.reports.report as report\n"
        f"report.write_report(pathlib.Path({str(tmp_path / 'copy')!r}))"
    )
    assert loaded_after(code) == "['matplotlib']"


def test_a_loaded_module_is_detected():
    assert "matplotlib" in loaded_after("import resnetlab.study.reports.report")


def test_every_public_name_exists():
    import resnetlab

    assert all(getattr(resnetlab, name) is not None for name in resnetlab.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = resnetlab.nothing
