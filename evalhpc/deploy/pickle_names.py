"""Which classes and functions a checkpoint's pickles may name; none of them is ever imported."""

from __future__ import annotations

_METADATA = "torch.distributed.checkpoint.metadata"
_PLANNER = "torch.distributed.checkpoint.planner"
_DTYPES = (
    "bfloat16 float16 float32 float64 half float double int8 int16 int32 int64 uint8 uint16 uint32 "
    "uint64 bool complex64 complex128 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz "
    "float8_e8m0fnu float4_e2m1fn_x2"
)
_STORAGES = (
    "FloatStorage DoubleStorage HalfStorage BFloat16Storage LongStorage IntStorage ShortStorage "
    "CharStorage ByteStorage BoolStorage"
)
_BUILTINS = "dict list tuple set frozenset int float str bytes bool complex bytearray slice"
_NUMPY_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")
#: Module → the names of it that are data: dtypes, shapes, plain records.
_BY_MODULE = {
    "argparse": "Namespace",
    "collections": "OrderedDict defaultdict deque",
    "_codecs": "encode",
    # getattr: how some releases of Python 3.11 save a member of an enumeration
    "builtins": f"{_BUILTINS} range getattr",
    "__builtin__": f"{_BUILTINS} xrange getattr",
    "datetime": "timedelta datetime date timezone",
    "pathlib": "Path PosixPath PurePath PurePosixPath",
    "pathlib._local": "Path PosixPath PurePath PurePosixPath",
    "types": "SimpleNamespace",
    "signal": "Signals",
    "torch": f"{_DTYPES} {_STORAGES} Size device dtype Tensor",
    "torch.storage": "UntypedStorage TypedStorage",
    "torch.serialization": "_get_layout",
    "torch._utils": "_rebuild_tensor _rebuild_tensor_v2 _rebuild_parameter",
    "torch._tensor": "_rebuild_from_type_v2",
    "torch.nn.parameter": "Parameter",
    "torch.nn.functional": "gelu silu relu",
    "torch._C._nn": "gelu silu",
    "torch.distributed.checkpoint.filesystem": "_StorageInfo _StoragePrefix",
    _METADATA: "Metadata TensorStorageMetadata BytesStorageMetadata ChunkStorageMetadata "
    "TensorProperties _MEM_FORMAT_ENCODING MetadataIndex StorageMeta",
    _PLANNER: "SavePlan WriteItem WriteItemType TensorWriteData BytesIOWriteData",
    "torch.distributed._shard.sharded_tensor.metadata": "TensorProperties MEM_FORMAT_ENCODING",
    "numpy": "dtype ndarray",
    **dict.fromkeys(_NUMPY_CORES, "scalar _reconstruct"),
}
ALLOWED = frozenset(
    (module, name) for module, names in _BY_MODULE.items() for name in names.split()
)
#: Frameworks whose own enumerations and configurations end up in `args`, under changing names.
_FRAMEWORKS = ("megatron.", "nemo.", "transformer_engine.")


def is_allowed(module: str, name: str) -> bool:
    """Whether a pickle may name `module.name` as inert data."""
    return (module, name) in ALLOWED or (module.startswith(_FRAMEWORKS) and "." not in name)
