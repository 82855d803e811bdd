"""Result tables, plots and comparisons with published numbers, from the ``metrics.json`` of every run below a folder.

Read in this order: ``runs`` (a run and what it belongs to), ``sample`` (mean, interval, verdict), ``rows``
and ``tables`` (protocols), ``published`` and ``comparison`` (what papers print), ``names`` and ``render`` (formats),
``style``, ``curves`` and ``plots`` (figures), ``report`` (the command).
"""

TABLES = ("base2new", "fewshot", "xd", "dg", "pretrain")
FORMATS = ("text", "csv", "json", "markdown", "latex")
