"""What an import costs, and what nobody imports who does not use it: seen in one fresh process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

STEPS = """
import json, sys, torch

steps = {}
def step(name):
    steps[name] = [m for m in sys.modules if m.split(".")[0] in ("lightning", "jsonargparse", "jinja2", "rich")]
    steps[name] += [m for m in sys.modules if "triton_kernels" in m or m.startswith("kan_core.ops._triton.launch")]

import kan_core, kan_core.ops, kan_core.layers
step("import")
kan_core.layers.KANLinear(3, 2, basis="rbf")(torch.zeros(1, 3))
kan_core.layers.KANLinear(3, 2)(torch.zeros(1, 3))
step("a layer on a CPU")
kan_core.layers.QKANLinear(2, 2, readout="fast")(torch.ones(3, 2))
step("circuits on a CPU")
kan_core.ops.group_rational(torch.ones(2, 4), torch.ones(1, 2), torch.ones(1, 1))
step("rational functions on a CPU")

sys.modules["lightning"] = None
try:
    import kan_core.training
except ModuleNotFoundError as error:
    steps["without lightning"] = str(error).splitlines()[-1]
print(json.dumps(steps))
"""


@pytest.fixture(scope="module")
def steps() -> dict[str, list[str] | str]:
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_without_the_extra_the_import_says_what_to_install(steps):
    assert 'pip install "kan-core[lightning]"' in steps["without lightning"]


def test_lightning_and_triton_are_imported_by_no_one_who_does_not_choose_them(steps):
    assert len(steps) == 5
    assert not any(modules for name, modules in steps.items() if name != "without lightning"), steps
