"""Training recipes: one checked schema, one YAML file a paper result, one a small-data default."""

from allmlp.recipes.loading import dump_recipe, load_recipe, shipped
from allmlp.recipes.schema import Recipe

__all__ = ["Recipe", "dump_recipe", "load_recipe", "shipped"]
