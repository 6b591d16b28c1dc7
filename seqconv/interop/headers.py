"""What the headers of a checkpoint's files say of its tensors, without reading them."""

from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from seqconv_kernels._core.errors import argument_error

from .files import Source, damage_named, damaged, read_json
from .tensors import candidates, check_index, is_wide, read_file

WIDE = ("F16", "BF16", "F32", "F64", "C64", "C128")
"""Dtypes of safetensors with at least 16 bits for a floating-point number."""


@dataclass(frozen=True)
class Header:
    """What the header of a file says of a tensor.

    Attributes:
        dtype: its name.
        shape: sizes.
        wide: whether it holds floating-point numbers of at least 16 bits.
    """

    dtype: str
    shape: tuple[int, ...]
    wide: bool


def read_headers(
    source: Source, *, variant: str | None = None, use_safetensors: bool | None = None
) -> dict[str, Header] | None:
    """What :func:`read_tensors` would read, by its names in the files; ``None`` if there are no weights.

    Raises:
        ValueError: as :func:`read_tensors`.
    """
    for name in candidates(variant, use_safetensors):
        path = source.find(name)
        if path is None:
            continue
        if path.suffix != ".json":
            return _headers(path)
        if not isinstance(read_json(path).get("metadata"), dict):
            raise damaged(path, "no metadata")
        shards = {shard: source.find(shard) for shard in check_index(path)}
        if gone := [shard for shard, found in shards.items() if found is None]:
            got = f"a missing file in {source.name!r} ({gone[0]})"
            remedy = "copy or download them again"
            raise argument_error("from_pretrained", got, "all files of a checkpoint", remedy)
        return {n: header for found in shards.values() if found for n, header in _headers(found).items()}
    return None


def _headers(path: Path) -> dict[str, Header]:
    if path.suffix != ".safetensors":
        tensors = read_file(path, device="meta")
        return {n: Header(str(t.dtype), tuple(t.shape), is_wide(t)) for n, t in tensors.items()}
    with damage_named(path), safe_open(path, "pt") as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
        read = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}
    return {n: Header(dtype, shape, dtype in WIDE) for n, (dtype, shape) in read.items()}
