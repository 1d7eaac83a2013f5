"""The tree on the CPU is compiled once: kernels import it, from the disk too, and are named after it."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from gdgpu.kernels.backend import generated
from gdgpu.kernels.reduction import accumulate, cpu_tree, reduce, reduce_update
from gdgpu.kernels.rules.table import RULES
from gdgpu.kernels.samples import order_statistics
from support.references import assert_same_bits, samples, tree

MOMENTUM = (RULES["momentum"], (("nesterov", False), ("maximize", False)), ("float32", "float32"))


def test_kernels_of_every_family_import_the_same_functions():
    kernels = (
        reduce.kernel("cpu", "float32"),
        reduce_update.kernel("cpu", *MOMENTUM, "float32"),
        accumulate.kernels("cpu", "float32").add,
        order_statistics.kernel("cpu", "trimmed_mean", "float32"),
    )
    modules = [sys.modules[kernel.__module__] for kernel in kernels]
    assert len({(module.fold, module.root) for module in modules}) == 1
    weighted = sys.modules[reduce.kernel("cpu", "float32", True).__module__]
    assert weighted.fold is not modules[0].fold


def test_a_kernel_is_named_after_what_it_imports(monkeypatch):
    monkeypatch.setattr(generated, "_import", lambda key, text: SimpleNamespace(__name__=key))
    monkeypatch.setattr(generated, "_modules", {})
    names = set()
    for text in (cpu_tree.FOLD, cpu_tree.FOLD + "# edited\n", cpu_tree.FOLD):
        monkeypatch.setattr(cpu_tree, "FOLD", text)
        imported = [(cpu_tree._functions.__wrapped__("float32", False), ("fold",))]
        names.add(generated.load("kernel", "", {}, "gdgpu.kernels.backend.cpu", imported).__name__)
    assert len(names) == 2


SCRIPT = """
import sys
import numpy as np
import gdgpu
from gdgpu.kernels.backend import generated
G, w = np.load(sys.argv[1]), np.zeros(7, np.float32)
gdgpu.Momentum([w], lr=1.0).step_samples([G])
np.save(sys.argv[1].replace("samples", "updated"), w)
made = {name.split("_")[0]: sys.modules[f"gdgpu.kernels.generated.{name}"] for name in generated._modules}
print(made["tree"].fold.compiled.cache_hits, made["tree"].root.compiled.cache_hits)
print(*made["fused"].reduce.stats.cache_hits.values())
"""


@pytest.mark.parametrize("writable", (True, False))
def test_a_second_process_reads_all_of_it_from_the_disk(writable, tmp_path, python):
    G = samples((70, 7), "float32")
    np.save(tmp_path / "samples.npy", G)
    if not writable:
        (tmp_path / "cache").write_text("in the way")
    for read in (0, int(writable)):
        shown = python(SCRIPT, tmp_path / "samples.npy", GDGPU_CACHE_DIR=str(tmp_path / "cache"))
        assert_same_bits(-np.load(tmp_path / "updated.npy"), tree(G))
        assert [int(word) for word in shown.split()] == [read] * (2 + read)
