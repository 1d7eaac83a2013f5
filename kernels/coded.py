"""The loop of an update whose state is in 8-bit codes: 256 elements at a time, whose new values set the scale.

The codes of a state are followed by its scales, one float32 for every 256 of them: `nbytes(n)` in all.
"""

from . import codes
from .generate import fill

EACH = codes.CODES_PER_SCALE
SCRATCH_BYTES = 4 * EACH * 4  # new values of up to four states wait for their scale

CPU = """
for low in range(start, stop, EACH):
    high = min(low + EACH, stop)
    $open
    for i in range(low, high):
        $update
    $close
    for i in range(low, high):
        $encode
""".strip()

# Threads of a scale's elements tell each other their largest values through shared memory, two turns apart. Elements
# past the end are copies of the last one: they change no maximum.
CUDA = """
tops = cuda.shared.array(TOPS, np.int32)
thread = np.int32(cuda.threadIdx.x)
is_aligned = ($any_address) & 15 == 0
turn = np.int32(0)
low = start
while low < stop:
    i = low + thread * LANES
    is_whole = is_aligned and i + LANES <= stop
    $open
    if is_whole:
        $load_lanes
    else:
        $load_each
    $update
    $share
    cuda.syncthreads()
    for other in range(EACH // LANES):
        $gather
    $scale
    if is_whole:
        $store_lanes
    else:
        $store_each
    if thread % (EACH // LANES) == 0 and i < stop:
        $store_scale
    turn = TURN - turn
    low += cuda.blockDim.x * LANES
""".strip()


def nbytes(n):
    """Bytes of a state of n elements: its codes, up to a whole scale, and the scales."""
    scales = -(-n // EACH)
    return scales * (EACH + 4)


def constants(fields, threads):
    """Constants of the module of a kernel with codes."""
    if not fields.coded:
        return {}
    turn = len(fields.coded) * threads
    return {"EACH": EACH, "TOPS": 2 * turn, "TURN": f"np.int32({turn})"}


def loop(fields, on_cpu, lanes, any_address):
    """The text of the loop over elements start … stop-1 of a tensor."""
    return _cpu(fields) if on_cpu else _cuda(fields, lanes, any_address)


def _cpu(fields):
    lines, stored = fields.new({n: fields.load(n, "i") for n in fields.names}, "i")
    lines += [f"store_{fields.dtypes[n]}({n}_at, i, {stored[n]})" for n in fields.plain] + fields.zero("i")
    waits = {n: f"{k * EACH} + i - low" for k, n in enumerate(fields.coded)}
    for n in fields.coded:
        lines += [f"store_float32(scratch, {waits[n]}, {stored[n]})", f"top_{n} = top(top_{n}, {stored[n]})"]
    encode = [f"store_uint8({n}_at, i, {fields.encode(n, f'load_float32(scratch, {waits[n]})', 'i')})" for n in waits]
    close = [f"{n}_scale = scale_{fields.dtypes[n]}(top_{n})" for n in waits]
    parts = {
        "open": _lines(_scale(n, "low") for n in waits) + "\n" + _lines(f"top_{n} = np.int32(0)" for n in waits),
        "update": _lines(lines),
        "close": _lines([*close, *(f"store_float32({n}_scales, low // EACH, {n}_scale)" for n in waits)]),
        "encode": _lines(encode),
    }
    return fill(CPU, **parts).rstrip()


def _cuda(fields, lanes, any_address):
    held = {n: "uint8" if n in fields.coded else d for n, d in fields.dtypes.items()}
    every, last = range(lanes), "stop - 1"
    each = {n: [f"load_{d}({n}_at, min(i + {k}, {last}))" for k in every] for n, d in held.items()}
    update, values = [], {n: [] for n in fields.written}
    for k in every:
        old = {n: f"{n}[{k}]" for n in fields.names}
        old |= {n: f"decode_{fields.dtypes[n]}({n}[{k}], {n}_scale)" for n in fields.coded}
        made, stored = fields.new(old, f"i + {k}", f"_{k}")
        update += [*made, *(f"to_{n}_{k} = {value}" for n, value in stored.items())]
        for n in stored:
            values[n].append(fields.encode(n, f"to_{n}_{k}", f"i + {k}") if n in fields.coded else f"to_{n}_{k}")
    share, gather = [], []
    for j, n in enumerate(fields.coded):
        share += [f"top_{n} = np.int32(0)", *(f"top_{n} = top(top_{n}, to_{n}_{k})" for k in every)]
        share.append(f"tops[turn + {j} * cuda.blockDim.x + thread] = top_{n}")
        first = f"turn + {j} * cuda.blockDim.x + thread - thread % (EACH // LANES)"
        gather.append(f"top_{n} = larger(top_{n}, tops[{first} + other])")
    store_each = []
    for k in every:
        stores = [f"store_{held[n]}({n}_at, i + {k}, {v[k]})" for n, v in values.items()] + fields.zero(f"i + {k}")
        store_each += [f"if i + {k} < stop:", *(f"    {line}" for line in stores)]
    parts = {
        "any_address": any_address,
        "open": _lines(_scale(n, f"min(i, {last})") for n in fields.coded),
        "load_lanes": _lines(f"{n} = load_{d}_lanes({n}_at, i)" for n, d in held.items()),
        "load_each": _lines(f"{n} = ({', '.join(texts)})" for n, texts in each.items()),
        "update": _lines(update),
        "share": _lines(share),
        "gather": _lines(gather),
        "scale": _lines(f"{n}_scale = scale_{fields.dtypes[n]}(top_{n})" for n in fields.coded),
        "store_lanes": _lines(
            [f"store_{held[n]}_lanes({n}_at, i, ({', '.join(v)}))" for n, v in values.items()] + fields.zero("i", lanes)
        ),
        "store_each": _lines(store_each),
        "store_scale": _lines(f"store_float32({n}_scales, i // EACH, {n}_scale)" for n in fields.coded),
    }
    return fill(CUDA, **parts).rstrip()


def _scale(name, index):
    return f"{name}_scale = load_float32({name}_scales, {index} // EACH)"


def _lines(lines):
    return "\n".join(lines)
