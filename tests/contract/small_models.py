"""The models of the catalog, narrow enough to train in seconds."""

from kvision.models.catalog import CATALOG


def create_small(name, **overrides):
    """Makes a model of the same structure as `kvision.create(name)`.

    Args:
        name: One of `kvision.list_models()`.
        **overrides: Arguments of the model's class instead of, or beside, the small ones.

    Returns:
        The model.
    """
    entry = CATALOG[name]
    return entry.model(**{"name": name, **entry.small(), **overrides})
