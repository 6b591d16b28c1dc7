"""One file per mixer. Importing this package registers them all.

To add a mixer: write ``seqconv/mixers/<name>.py`` with a class under ``@register``; nothing else is edited.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in sorted(m.name for m in iter_modules(__path__)):
    import_module(f"{__name__}.{_module}")
