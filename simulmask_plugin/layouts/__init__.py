"""How an example becomes a sequence of rows; a layout is an entry of ``LAYOUTS``, see docs/add-a-layout.md."""

from __future__ import annotations

from simulmask_plugin.layouts.base import Layout
from simulmask_plugin.layouts.chunks import Interleaved, Turns
from simulmask_plugin.layouts.prefix import Prefix
from simulmask_plugin.layouts.slots import Slots

LAYOUTS: dict[str, type[Layout]] = {layout.name: layout for layout in (Prefix, Interleaved, Turns, Slots)}
