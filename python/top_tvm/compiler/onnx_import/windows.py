"""Windows that slide over the spatial axes of a tensor: what convolutions and pools share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from top_tvm.compiler.onnx_import.node import Node


@dataclass(frozen=True)
class Windows:
    """Where the windows of a convolution or pool lie, axis by axis.

    Attributes
    ----------
    data, size, strides, dilations : tuple of int
        Extents of the data and of the window, steps of the window and within it.
    begins, ends : tuple of int
        Elements that are added in front of and behind the data.
    output : tuple of int
        Number of windows; the last ones may reach beyond the padding where it was rounded up.
    """

    data: tuple[int, ...]
    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    output: tuple[int, ...]

    @property
    def padding(self) -> list[int]:
        """Begins of all axes, then ends."""
        return [*self.begins, *self.ends]

    @property
    def reaches(self) -> tuple[int, ...]:
        """Elements that the last window needs behind the data; negative where some are left out."""
        return tuple(
            (count - 1) * stride + (size - 1) * dilation + 1 - begin - extent
            for count, stride, size, dilation, begin, extent in zip(
                self.output,
                self.strides,
                self.size,
                self.dilations,
                self.begins,
                self.data,
                strict=True,
            )
        )

    @property
    def covering(self) -> list[int]:
        """Padding that is just enough for all windows: begins of all axes, then ends."""
        ends = [max(end, reach) for end, reach in zip(self.ends, self.reaches, strict=True)]
        return [*self.begins, *ends]


def windows_of(node: Node, data: Sequence[int], size: Sequence[int]) -> Windows:
    """Windows of a node, from its attributes.

    Parameters
    ----------
    node : Node
        With attributes ``strides``, ``dilations``, ``pads``, ``auto_pad``, ``ceil_mode``.
    data : sequence of int
        Extents of its spatial axes.
    size : sequence of int
        Extents of the window, without dilation.

    Raises
    ------
    ModelError
        If attributes do not fit each other, or no window fits into the padded data.
    """
    rank = len(data)
    strides = spatial(node, "strides", rank, 1)
    dilations = spatial(node, "dilations", rank, 1)
    if len(size) != rank or min(*strides, *dilations, *size) < 1:
        node.refuse(f"its window {list(size)} does not fit {rank} spatial dimensions")
    mode = node.attribute("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        begins, ends = automatic_padding(mode, data, size, strides, dilations)
    elif mode == "NOTSET":
        pads = spatial(node, "pads", 2 * rank, 0)
        begins, ends = pads[:rank], pads[rank:]
    else:
        node.refuse(f"auto_pad {mode!r} does not exist")
    if min(*begins, *ends, 0) < 0:
        node.refuse("negative pads are not supported; slice its input instead")
    output = []
    for axis in range(rank):
        free = data[axis] + begins[axis] + ends[axis] - (size[axis] - 1) * dilations[axis] - 1
        count = free // strides[axis] + 1
        if node.attribute("ceil_mode", 0) and free % strides[axis]:
            # A window that would begin behind the data is left out.
            count += count * strides[axis] < data[axis] + begins[axis]
        if free < 0 or count < 1:
            node.refuse(
                f"its window of {size[axis]} (dilation {dilations[axis]}) is larger than the "
                f"padded data of {data[axis] + begins[axis] + ends[axis]} in spatial dimension "
                f"{axis}"
            )
        output.append(count)
    return Windows(
        tuple(data),
        tuple(size),
        tuple(strides),
        tuple(dilations),
        tuple(begins),
        tuple(ends),
        tuple(output),
    )


def spatial(node: Node, name: str, count: int, default: int) -> list[int]:
    """An attribute with a number for every spatial axis."""
    values = node.attribute(name) or [default] * count
    if len(values) != count:
        node.refuse(f"{name} has {len(values)} numbers where {count} are needed")
    return [int(value) for value in values]


def automatic_padding(
    mode: str,
    data: Sequence[int],
    size: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[list[int], list[int]]:
    """Begins and ends that ``auto_pad`` stands for.

    With ``SAME_UPPER`` and ``SAME_LOWER`` there are ceil(extent / stride) windows; where the
    padding is odd, the end respectively the begin gets more.
    """
    begins, ends = [], []
    for extent, window, stride, dilation in zip(data, size, strides, dilations, strict=True):
        covered = (-(-extent // stride) - 1) * stride + (window - 1) * dilation + 1
        total = max(covered - extent, 0) if mode.startswith("SAME") else 0
        less, more = total // 2, total - total // 2
        begins.append(more if mode == "SAME_LOWER" else less)
        ends.append(less if mode == "SAME_LOWER" else more)
    return begins, ends
