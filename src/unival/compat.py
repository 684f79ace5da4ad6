"""Let torchvision and torchaudio wheels that were built for CUDA import beside a CPU-only torch.

Their compiled parts link CUDA libraries; where these are missing, `import torchvision` (and with it timm
and transformers' modelling code) and `import torchaudio` raise. An import hook registers what the Python
parts need and nothing else: the compiled operators (nms, roi_align, image decoding, forced_align,
rnnt_loss) stay unavailable, and none is used here. Where the compiled parts load, it does nothing.
"""

import ctypes
import importlib.util
import sys
import types
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, NoReturn


def _compiled_part_loads(package: str, pattern: str) -> bool:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return True
    import torch  # noqa: F401  (its libraries must be in the process first)

    for library in Path(spec.origin).parent.glob(pattern):
        try:
            ctypes.CDLL(str(library))
        except OSError:
            return False
    return True


_libraries: list[Any] = []  # torch drops operator definitions when their Library object dies


def _mend_torchvision() -> None:
    if _compiled_part_loads("torchvision", "_C*.so"):
        return
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _libraries.append(library)


def _mend_torchaudio() -> None:
    if _compiled_part_loads("torchaudio", "lib/_torchaudio*.so"):
        return

    def fail_if_no_align(function: Callable[..., Any]) -> Callable[..., NoReturn]:
        def missing(*args: Any, **kwargs: Any) -> NoReturn:
            raise RuntimeError(f"{function.__name__} needs torchaudio's compiled extension")

        return missing

    extension: Any = types.ModuleType("torchaudio._extension")
    extension._IS_TORCHAUDIO_EXT_AVAILABLE = extension._IS_ALIGN_AVAILABLE = False
    extension.fail_if_no_align = fail_if_no_align
    sys.modules[extension.__name__] = extension


class _Hook(MetaPathFinder):
    """Runs the mend just before the first import of a package; never finds a module itself."""

    def __init__(self) -> None:
        self.mends = {"torchvision": _mend_torchvision, "torchaudio": _mend_torchaudio}

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        mend = self.mends.pop(fullname, None)
        if mend is not None:
            mend()
        return None


def install() -> None:
    """Install the hook once per process."""
    if not any(isinstance(finder, _Hook) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Hook())
