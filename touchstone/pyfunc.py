"""Where versions registered before the wings were built look for their loader."""

from touchstone.model.pyfunc import _load_pyfunc as _load_pyfunc
