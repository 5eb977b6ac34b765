"""A pretend CUDA device for tests on machines without one: tensors that say they are on cuda:0 and
compute on the CPU, strict as the real ones about mixing devices, with recorded "graphs".

    with fakecuda.installed(monkeypatch):
        model, tokenizer = models.load_base("tiny-base")        # model.device is cuda:0

What it finds: a tensor, an index or a mask left on the CPU, inside a graph whatever a capture
forbids (waiting for the GPU, copies from or to the host), and a softmax over a vocabulary in half
precision. What it cannot: kernels and their
rounding, memory, speed. Weights are not quantised, since bitsandbytes would ask the real device.
"""

import contextlib

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

CUDA = torch.device("cuda", 0)
INDEXES = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
INDEXES |= {"_unsafe_index_put"}
WAITS = {"_local_scalar_dense", "nonzero", "_unique2", "is_nonzero", "equal", "masked_select"}
COPIES = {"copy_", "_to_copy", "set_"}
SOFTMAXES = {"_softmax", "_log_softmax", "logsumexp"}
ATTENTION = 256  # a softmax over more is over a vocabulary: no row of the tests is as long

graphs: list["Graph"] = []  # every graph that was captured
recording: list | None = None  # the operations of the graph that is being captured


def is_cuda(device) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def forbid(what: str):
    """An error where a graph is being captured."""
    if recording is not None:
        raise RuntimeError(f"operation not permitted when stream is capturing: {what}")


def mixed(what: str):
    raise RuntimeError(f"Expected all tensors to be on the same device, cuda:0 and cpu ({what})")


class CudaTensor(torch.Tensor):
    """Says cuda:0; `inner` holds the numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device="cpu",
        )
        self.inner = inner
        return self

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def __repr__(self, **_):
        return f"CudaTensor({self.inner!r})"

    def __format__(self, spec):
        return format(self.inner.item() if self.dim() == 0 else repr(self), spec)

    def cpu(self, *_, **__):
        forbid("a copy to the host")
        return _ToCpu.apply(self)

    def cuda(self, *_, **__):
        return self

    def get_device(self):
        return 0

    def numpy(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def tolist(self):
        forbid("tolist")
        return self.inner.detach().tolist()

    def untyped_storage(self):
        return self.inner.untyped_storage()

    def data_ptr(self):
        return self.inner.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = str(func).split(".")[1]
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        plain = [x for x in tensors if not isinstance(x, cls)]
        if name in INDEXES:
            _check_index(name, *args)
        elif name in COPIES:
            if plain:
                forbid(f"{name} across devices")
        elif any(x.dim() > 0 for x in plain):  # a CPU scalar is passed by value
            mixed(str(func))
        if name in WAITS:
            forbid(name)
        if name in SOFTMAXES and args[0].dtype.itemsize < 4 and args[0].shape[-1] > ATTENTION:
            raise RuntimeError(f"{name} over a vocabulary in {args[0].dtype}: use float32")
        if is_cuda(kwargs.get("device")):
            kwargs = {**kwargs, "device": "cpu"}
        inner_args, inner_kwargs = unwrapped(args), unwrapped(kwargs)
        compute = func
        if str(func).split(".")[2].startswith("dtype"):
            compute, inner_args = in_float32(name, inner_args, inner_kwargs)
        out = compute(*inner_args, **inner_kwargs)
        if recording is not None:
            recording.append((compute, inner_args, inner_kwargs, out))
        return return_and_correct_aliasing(func, args, kwargs, wrapped(out))


def in_float32(name: str, args, kwargs):
    """A product of half-precision matrices into float32, for which only CUDA has a kernel."""
    kwargs.pop("out_dtype", None)
    args = [x.float() if isinstance(x, torch.Tensor) else x for x in args]
    args = [x for x in args if not isinstance(x, torch.dtype)]
    op = getattr(torch.ops.aten, name)
    return (op.out if "out" in kwargs else op.default), args


def _check_index(name, tensor, indices, value=None, *_):
    indices = [i for i in indices if i is not None]
    on_cuda = isinstance(tensor, CudaTensor)
    if not on_cuda and any(isinstance(i, CudaTensor) for i in indices):
        mixed("indices of a CPU tensor")
    if torch.is_tensor(value) and isinstance(value, CudaTensor) != on_cuda and value.dim():
        mixed("the values of an index_put")
    if any(i.dtype == torch.bool for i in indices):
        forbid(f"a boolean {name}")
    if any(not isinstance(i, CudaTensor) for i in indices):
        forbid(f"indices from the CPU in {name}")


def unwrapped(tree):
    return tree_map(lambda x: x.inner if isinstance(x, CudaTensor) else x, tree)


def wrapped(tree):
    plain = lambda x: isinstance(x, torch.Tensor) and not isinstance(x, CudaTensor)
    return tree_map(lambda x: CudaTensor(x) if plain(x) else x, tree)


class _ToCpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.inner.clone()

    @staticmethod
    def backward(ctx, gradient):
        return wrapped(gradient)


class _ToCuda(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return CudaTensor(x.detach().clone())

    @staticmethod
    def backward(ctx, gradient):
        return unwrapped(gradient)


def to_cuda(x):
    if isinstance(x, CudaTensor):
        return x
    forbid("a copy from the host")
    return _ToCuda.apply(x) if x.requires_grad else CudaTensor(x.detach().clone())


class _Mode(TorchFunctionMode):
    """Sends `.to("cuda")` and `device="cuda"` to the pretend device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.to:
            return _to(*args, **kwargs)
        if func is torch.Tensor.cuda:
            return to_cuda(args[0])
        method = getattr(func, "__name__", "")
        if method in ("cpu", "tolist", "numpy") and isinstance(args[0], CudaTensor):
            return getattr(CudaTensor, method)(args[0])
        if is_cuda(kwargs.get("device")):
            kwargs["device"] = "cpu"
            return wrapped(func(*unwrapped(args), **unwrapped(kwargs)))
        return func(*args, **kwargs)


def _to(x, *args, device=None, dtype=None, copy=False, **_):
    for arg in args:
        if isinstance(arg, torch.dtype):
            dtype = arg
        elif isinstance(arg, torch.Tensor):
            device, dtype = arg.device, arg.dtype
        elif isinstance(arg, (torch.device, str)):
            device = arg
        elif isinstance(arg, int) and not isinstance(arg, bool):
            device = torch.device("cuda", arg)
    if device is not None and is_cuda(device) != isinstance(x, CudaTensor):
        x = to_cuda(x) if is_cuda(device) else x.cpu()
    elif copy:
        x = x.clone()
    return x if dtype is None else torch.Tensor.type(x, dtype)


class Graph:
    """In place of torch.cuda.CUDAGraph: the operations of its capture, done again into the same
    memory.
    """

    operations: list | None = None
    replays = 0

    def replay(self):
        self.replays += 1
        for func, args, kwargs, out in self.operations:
            for old, new in zip(
                tree_flatten(out)[0], tree_flatten(func(*args, **kwargs))[0], strict=True
            ):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@contextlib.contextmanager
def capture(graph, **_):
    global recording
    recording = []
    try:
        yield
    finally:
        graph.operations, recording = recording, None
        graphs.append(graph)


class Stream:
    def wait_stream(self, other):
        """Everything is in order here."""


def move(model):
    """Weights and buffers of a model to the pretend device, in place; tied ones stay tied."""
    moved = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None and not isinstance(weight.data, CudaTensor):
                if id(weight) not in moved:
                    moved[id(weight)] = torch.nn.Parameter(CudaTensor(weight.data), False)
                module._parameters[name] = moved[id(weight)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = to_cuda(buffer)
        if hasattr(module, "original_inv_freq"):
            module.original_inv_freq = module.inv_freq
    return model


@contextlib.contextmanager
def installed(monkeypatch, bf16: bool = True):
    """A machine with one GPU inside the block; bf16: it has bf16 in hardware."""
    from accelerate.state import AcceleratorState, PartialState
    from transformers import AutoModelForCausalLM, TrainingArguments, training_args

    from labkit import runs

    load = AutoModelForCausalLM.from_pretrained

    def from_pretrained(path, device_map=None, quantization_config=None, **options):
        model, told = load(path, **options)
        return move(model) if is_cuda(device_map[""]) else model, told

    def device_of(arguments):
        found = arguments._setup_devices  # what `device` was; it sets up accelerate
        return found if arguments.use_cpu else CUDA

    run_backward = torch.autograd._engine_run_backward

    def backward(*args, **kwargs):  # functions with a backward of their own make tensors in it
        with _Mode():
            return run_backward(*args, **kwargs)

    graphs.clear()
    cuda = {
        "is_bf16_supported": lambda including_emulation=True: bf16,
        "get_device_name": lambda *_: "pretend",
        "mem_get_info": lambda *_: (8 << 30, 16 << 30),
        "memory_reserved": lambda *_: 1 << 30,
        "memory_allocated": lambda *_: 1 << 30,
        "max_memory_allocated": lambda *_: 2 << 30,
        "reset_peak_memory_stats": lambda *_: None,
        "Stream": Stream,
        "current_stream": lambda *_: Stream(),
        "stream": lambda stream: contextlib.nullcontext(),
        "CUDAGraph": Graph,
        "graph": capture,
        "synchronize": lambda *_: None,
    }
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with monkeypatch.context() as patch, _Mode():
            for module in (runs, runs.process):
                patch.setattr(module, "device", lambda: torch.device("cuda"))
            patch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
            patch.setattr(torch.autograd, "_engine_run_backward", backward)
            patch.setattr(PartialState, "default_device", property(lambda self: CUDA))
            patch.setattr(TrainingArguments, "device", property(device_of))
            patch.setattr(training_args, "is_torch_bf16_gpu_available", lambda: bf16)
            for name, value in cuda.items():
                patch.setattr(torch.cuda, name, value)
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
        AcceleratorState._reset_state(reset_partial_state=True)
