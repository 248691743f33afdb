"""What transformers has where the package replaces it, taken before anything is replaced."""

from importlib import import_module
from operator import attrgetter

from simulmask_plugin.attention.alibi import SEAMS

MODELING = {family: import_module(f"transformers.models.{family}.modeling_{family}") for family in SEAMS}
STOCK = {(family, seam): attrgetter(seam)(MODELING[family]) for family, seams in SEAMS.items() for seam in seams}


def put_back(monkeypatch):
    """Let nothing of transformers be replaced."""
    for (family, seam), function in STOCK.items():
        monkeypatch.setattr(f"{MODELING[family].__name__}.{seam}", function)
