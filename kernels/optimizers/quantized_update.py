"""The loop of an update whose state is in 8-bit codes: 256 elements at a time, whose new values set the scale.

The codes of a state are followed by its scales, one float32 for every 256 of them: `nbytes(n)` in all.
"""

from ..backend import quantize
from ..backend.limits import Limits
from ..codegen.element import Element, storage_dtype
from ..codegen.module import fill

EACH = quantize.CODES_PER_SCALE
THREADS = 512  # on a multiprocessor
STATES = 8  # at most
SCRATCH_BYTES = 4 * EACH * STATES  # in which new values wait for their scale

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

# Threads of a scale's elements tell each other their largest values through shared memory, two turns apart. What is
# left over, or not aligned, goes one scale at a time.
CUDA = """
tops = cuda.shared.array(TOPS, np.int32)
fresh = cuda.shared.array(FRESH, np.float32)
thread = np.int32(cuda.threadIdx.x)
turn = np.int32(0)
low = start
if ($any_address) & 15 == 0:
    while low + cuda.blockDim.x * LANES <= stop:
        i = low + thread * LANES
        $open_lanes
        $update_lanes
        $share
        cuda.syncthreads()
        for other in range(EACH // LANES):
            $gather_lanes
        $scale
        $store_lanes
        if thread % (EACH // LANES) == 0:
            $store_scale
        turn = TURN - turn
        low += cuda.blockDim.x * LANES
while low < stop:
    high = min(low + EACH, stop)
    i = low + thread
    $open
    while i < high:
        $update
        i += cuda.blockDim.x
    $share
    cuda.syncthreads()
    for other in range(cuda.blockDim.x):
        $gather
    $scale
    i = low + thread
    while i < high:
        $encode
        i += cuda.blockDim.x
    i = low
    if thread == 0:
        $store_scale
    turn = TURN - turn
    low += EACH
""".strip()


def limits(states: int) -> Limits:
    """What a kernel with this many quantized states promises: the scale of each is read and written apart."""
    return Limits(threads=THREADS, narrow=2 * states)


def nbytes(n: int) -> int:
    """Bytes of a state of n elements: its codes, up to a whole scale, and the scales."""
    scales = -(-n // EACH)
    return scales * (EACH + 4)


def constants(fields: Element, threads: int) -> dict:
    """Constants of the module of an update; RESIDENT, threads that it must have room for, bounds its registers."""
    states = len(fields.quantized)
    if not states:
        return {"RESIDENT": None}
    turn = states * threads
    found = {"EACH": EACH, "TOPS": 2 * turn, "TURN": f"np.int32({turn})", "FRESH": states * EACH}
    return found | {"RESIDENT": THREADS if states > 1 else None}


def loop(fields: Element, on_cpu: bool, lanes: int, any_address: str) -> str:
    """The text of the loop over elements start … stop-1 of a tensor."""
    return _cpu(fields) if on_cpu else _cuda(fields, lanes, any_address)


def _cpu(fields):
    waits = {n: f"{k * EACH} + i - low" for k, n in enumerate(fields.quantized)}
    keep = {n: f"store_float32(scratch, {at}, {{}})" for n, at in waits.items()}
    close = [f"store_float32({n}_scales, low // EACH, {n}_scale)" for n in fields.quantized]
    parts = {
        "open": _open(fields, "low"),
        "update": _update(fields, keep),
        "close": _lines(_scales(fields) + close),
        "encode": _encode(fields, {n: f"load_float32(scratch, {at})" for n, at in waits.items()}),
    }
    return fill(CPU, **parts).rstrip()


def _cuda(fields, lanes, any_address):
    waits = {n: f"fresh[{k * EACH} + i - low]" for k, n in enumerate(fields.quantized)}
    peer = "thread - thread % (EACH // LANES) + other"
    parts = {
        "any_address": any_address,
        "open_lanes": _open(fields, "i"),
        "gather_lanes": _gather(fields, peer),
        **_lanes(fields, lanes),
        "open": _open(fields, "low"),
        "update": _update(fields, {n: f"{at} = {{}}" for n, at in waits.items()}),
        "share": _lines(f"{_top(k, 'thread')} = top_{n}" for k, n in enumerate(fields.quantized)),
        "gather": _gather(fields, "other"),
        "scale": _lines(_scales(fields)),
        "encode": _encode(fields, waits),
        "store_scale": _lines(f"store_float32({n}_scales, i // EACH, {n}_scale)" for n in fields.quantized),
    }
    return fill(CUDA, **parts).rstrip()


def _open(fields, index):
    """Lines that read the scales, and begin the search for the largest new value."""
    scales = [f"{n}_scale = load_float32({n}_scales, {index} // EACH)" for n in fields.quantized]
    return _lines([*scales, *(f"top_{n} = np.int32(0)" for n in fields.quantized)])


def _update(fields, keep):
    """Lines for element i; keep: name -> how a new value waits for its scale."""
    lines, stored = fields.new({n: fields.load(n, "i") for n in fields.names}, "i")
    lines += [f"store_{fields.dtypes[n]}({n}_at, i, {stored[n]})" for n in fields.plain] + fields.zero("i")
    for n in fields.quantized:
        lines += [keep[n].format(stored[n]), f"top_{n} = top(top_{n}, {stored[n]})"]
    return _lines(lines)


def _encode(fields, waits):
    return _lines(f"store_uint8({n}_at, i, {fields.encode(n, value, 'i')})" for n, value in waits.items())


def _lanes(fields, lanes):
    """The parts that read and make new `lanes` elements from i on, and that write them."""
    storage = {n: storage_dtype(d) for n, d in fields.dtypes.items()}
    update, values = [f"{n} = load_{d}_lanes({n}_at, i)" for n, d in storage.items()], {n: [] for n in fields.written}
    for k in range(lanes):
        old = {n: f"{n}[{k}]" for n in fields.names}
        old |= {n: f"decode_{fields.dtypes[n]}({n}[{k}], {n}_scale)" for n in fields.quantized}
        made, stored = fields.new(old, f"i + {k}", f"_{k}")
        update += [*made, *(f"to_{n}_{k} = {value}" for n, value in stored.items())]
        update += [f"top_{n} = top(top_{n}, to_{n}_{k})" for n in fields.quantized]
        for n in stored:
            values[n].append(fields.encode(n, f"to_{n}_{k}", f"i + {k}") if n in fields.quantized else f"to_{n}_{k}")
    store = [f"store_{storage[n]}_lanes({n}_at, i, ({', '.join(v)}))" for n, v in values.items()]
    return {"update_lanes": _lines(update), "store_lanes": _lines(store + fields.zero("i", lanes))}


def _scales(fields):
    return [f"{n}_scale = scale_{fields.dtypes[n]}(top_{n})" for n in fields.quantized]


def _gather(fields, thread):
    return _lines(f"top_{n} = larger(top_{n}, {_top(k, thread)})" for k, n in enumerate(fields.quantized))


def _top(k, thread):
    return f"tops[turn + {k} * cuda.blockDim.x + {thread}]"


def _lines(lines):
    return "\n".join(lines)
