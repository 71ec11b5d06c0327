"""Let torchvision be imported beside torch for CPUs: `PYTHON tests/integrations/mend_torchvision.py`, with its Python.

What package indexes have is built for CUDA, and its C++ part does not load beside another torch. The hosts need its
transforms, which are Python; its import asks for two operators by name, which are declared here where they are missing.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

_DECLARED = """
if not _has_ops():
    _declared = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _declared.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def main() -> None:
    """Add the declarations to the installed package, once."""
    path = Path(sysconfig.get_path("purelib")) / "torchvision" / "extension.py"
    text = path.read_text(encoding="utf-8")
    if _DECLARED not in text:
        path.write_text(text + _DECLARED, encoding="utf-8")


if __name__ == "__main__":
    main()
