"""Huge pages: the kernel does not clear the same memory again at every step."""

import os
import subprocess
import sys

import pytest

CODE = """
import resource
from resnetlab.system.allocator import use_huge_pages
{call}
import torch
from resnetlab.models.zoo import build_model
model, images = build_model("resnet8").train(), torch.randn(128, 3, 32, 32)
def steps(count):
    for _ in range(count):
        model(images).sum().backward()
steps(3)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
steps(5)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 5)
"""


def page_faults_per_step(call, **environment):
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(call=call)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    return int(done.stdout)


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_huge_pages_avoid_page_faults():
    with_huge_pages = page_faults_per_step("use_huge_pages()")
    assert page_faults_per_step("", THP_MEM_ALLOC_ENABLE="0") > 3 * max(with_huge_pages, 100)


def test_environment_variables_take_precedence():
    code = (
        "import os; from resnetlab.system.allocator import use_huge_pages; use_huge_pages(); "
        "print(os.environ['THP_MEM_ALLOC_ENABLE'])"
    )
    environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "0\n"
