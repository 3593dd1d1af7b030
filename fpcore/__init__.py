"""Fixed-point inversion, editing and dehazing of images with diffusion models: tensors in, tensors out.

What a user of the library needs is here; each name is imported when it is first asked for, so that ``import fpcore`` costs
nothing and what needs no network never imports diffusers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fpcore.color_transfer import render
    from fpcore.dehazing.dehaze import Dehazed, DehazeSettings, dehaze
    from fpcore.editing.edit import EditResult, edit
    from fpcore.editing.settings import EditSettings
    from fpcore.inversion.criteria import Status
    from fpcore.inversion.invert import invert
    from fpcore.inversion.methods import Method, method
    from fpcore.inversion.result import Inversion, Predict
    from fpcore.inversion.sample import sample
    from fpcore.inversion.schedule import Schedule
    from fpcore.models.load import load_model
    from fpcore.models.model import Condition, Model
    from fpcore.restoration.restore import Restored, RestoreSettings, restore

__all__ = [
    "Condition",
    "DehazeSettings",
    "Dehazed",
    "EditResult",
    "EditSettings",
    "Inversion",
    "Method",
    "Model",
    "Predict",
    "RestoreSettings",
    "Restored",
    "Schedule",
    "Status",
    "dehaze",
    "edit",
    "invert",
    "load_model",
    "method",
    "render",
    "restore",
    "sample",
]

_HOMES = {
    "fpcore.color_transfer": ("render",),
    "fpcore.dehazing.dehaze": ("DehazeSettings", "Dehazed", "dehaze"),
    "fpcore.editing.edit": ("EditResult", "edit"),
    "fpcore.editing.settings": ("EditSettings",),
    "fpcore.inversion.criteria": ("Status",),
    "fpcore.inversion.invert": ("invert",),
    "fpcore.inversion.methods": ("Method", "method"),
    "fpcore.inversion.result": ("Inversion", "Predict"),
    "fpcore.inversion.sample": ("sample",),
    "fpcore.inversion.schedule": ("Schedule",),
    "fpcore.models.load": ("load_model",),
    "fpcore.models.model": ("Condition", "Model"),
    "fpcore.restoration.restore": ("RestoreSettings", "Restored", "restore"),
}
"""Which module a name comes from."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    for module, names in _HOMES.items():
        if name in names:
            found = getattr(import_module(module), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
