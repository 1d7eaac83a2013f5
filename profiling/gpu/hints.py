"""Loads and stores of four float32 with a cache hint, as inline PTX: LLVM's instructions have none.

An inline instruction also stops LLVM from unrolling the loop around it.
"""

from functools import cache
from pathlib import Path

from llvmlite import ir
from numba import types

from gdgpu.kernels.backend import generated

HINTS = {  # how to load, how to store
    "streaming": ("ld.global.cs", "st.global.cs"),
    "no_allocate": ("ld.global.L1::no_allocate", "st.global"),
}
DTYPE, LANES = "float32", 4
_VALUE = ir.FloatType()


def changes(hint: str) -> tuple[tuple[object, str, object], ...]:
    """(owner, name, value) that stand for something else while kernels with this hint are made.

    Their texts are those of any other kernel, so the hint goes into the fingerprint that their names are made from.
    """
    from gdgpu.kernels.backend import cuda  # which needs numba-cuda; the table of variants does not

    load, store = HINTS[hint]
    usual = generated._fingerprint
    word = f"{hint}\n{Path(__file__).read_text()}"
    return (
        (cuda, "load", _loads(load, cuda)),
        (cuda, "store", _stores(store, cuda)),
        (generated, "_fingerprint", cache(lambda: f"{usual()}\n{word}")),
    )


def _address(builder, address, index):
    return builder.add(address, builder.mul(index, ir.Constant(ir.IntType(64), 4)))


def _loads(instruction, target):
    """What stands for target.load."""
    usual = target.load
    taken = types.UniTuple(types.float32, LANES)

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.LiteralStructType([_VALUE] * LANES), [ir.IntType(64)])
        text = f"{instruction}.v4.f32 {{$0,$1,$2,$3}}, [$4];"
        inline = ir.InlineAsm(kind, text, "=f,=f,=f,=f,l", side_effect=True)
        loaded = builder.call(inline, [_address(builder, *arguments)])
        return context.make_tuple(builder, taken, [builder.extract_value(loaded, k) for k in range(LANES)])

    @target.intrinsic
    def vector(typingctx, address, index):
        return taken(types.int64, types.int64), generate

    return lambda dtype, lanes=1: vector if (dtype, lanes) == (DTYPE, LANES) else usual(dtype, lanes)


def _stores(instruction, target):
    """What stands for target.store."""
    usual = target.store
    taken = types.UniTuple(types.float32, LANES)

    def generate(context, builder, signature, arguments):
        address, index, value = arguments
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] + [_VALUE] * LANES)
        text = f"{instruction}.v4.f32 [$0], {{$1,$2,$3,$4}};"
        inline = ir.InlineAsm(kind, text, "l,f,f,f,f,~{memory}", side_effect=True)
        values = [builder.extract_value(value, k) for k in range(LANES)]
        builder.call(inline, [_address(builder, address, index), *values])
        return context.get_dummy_value()

    @target.intrinsic
    def vector(typingctx, address, index, value):
        return types.void(types.int64, types.int64, taken), generate

    return lambda dtype, lanes=1: vector if (dtype, lanes) == (DTYPE, LANES) else usual(dtype, lanes)
