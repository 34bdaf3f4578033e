"""Figures and the report page, drawn from the files of a run folder. The only importer of matplotlib."""
