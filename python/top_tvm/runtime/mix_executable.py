"""Several compiled models with one kernel library and one set of constants, loaded."""

from __future__ import annotations

from functools import cached_property
from os import PathLike

from top_tvm import _native, mix_file
from top_tvm.errors import DeviceError
from top_tvm.mix import Mix, Variant
from top_tvm.runtime.executable import Executable


class MixExecutable:
    """A mix of compiled models.

    Parameters
    ----------
    mix : Mix
        What :func:`top_tvm.build` makes of several models.
    """

    def __init__(self, mix: Mix) -> None:
        self._mix = mix

    @property
    def mix(self) -> Mix:
        """Models and variants as data."""
        return self._mix

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Ways to execute the tasks of the models; the first is ``"serial"``."""
        return self._mix.variants

    @cached_property
    def models(self) -> dict[str, Executable]:
        """An executable of every model, by name, made when first asked for.

        Raises
        ------
        DeviceError
            A library or a kernel that the plans call is missing, or a plan needs more memory than
            this machine has.
        """
        kernels = next(iter(self._mix.models.values())).kernels
        try:
            library = _native.KernelLibrary(kernels) if kernels else None
        except RuntimeError as error:
            raise DeviceError(str(error)) from error
        return {
            name: Executable(artifact, library=library)
            for name, artifact in self._mix.models.items()
        }

    def save(self, path: str | PathLike[str]) -> None:
        """Write the mix to a file that :func:`top_tvm.load` reads."""
        mix_file.save(self._mix, path)

    def __repr__(self) -> str:
        models = ", ".join(map(repr, self._mix.models))
        return f"<MixExecutable of {models}, {len(self.variants)} variants>"
