"""Large tensors lie in huge pages that stay: the kernel does not clear the same memory at every step."""

import os
import subprocess
import sys

import pytest

CODE = """
import resource
from resnetlab.system.allocator import keep_large_pages
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


def faults(call, **environment):
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(call=call)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_pages_are_cleared_once():
    with_them = faults("keep_large_pages()")
    assert faults("", THP_MEM_ALLOC_ENABLE="0") > 3 * max(with_them, 100)  # pages a step


def test_an_environment_that_says_otherwise_is_left_alone():
    code = (
        "import os; from resnetlab.system.allocator import keep_large_pages; keep_large_pages(); "
        "print(os.environ['THP_MEM_ALLOC_ENABLE'])"
    )
    environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "0\n"
