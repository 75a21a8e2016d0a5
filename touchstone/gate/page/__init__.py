"""The decision as one static page: the verdict first, then every check, slices, pictures, texts and provenance.

`pictures` draws what needs the evidence's rows; `render` writes the page from the record and what was drawn.
"""

from touchstone.gate.page.charts import pictures
from touchstone.gate.page.page import render

__all__ = ["pictures", "render"]
