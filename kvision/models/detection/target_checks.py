"""What is said of targets that no detector can learn from."""

from kvision.models.data_checks import check_labels


def check_targets(owner, targets, num_classes):
    """Checks that there are boxes and labels, and that each label is a class or padding.

    Args:
        owner: Name of the model, for the message.
        targets: What `fit` or `evaluate` was given, or a step of it.
        num_classes: Number of classes.

    Raises:
        ValueError: If `boxes` or `labels` are missing, or a label is outside the classes; see
            `kvision.models.data_checks.check_labels` for when that is seen.
    """
    if not isinstance(targets, dict) or not {"boxes", "labels"} <= set(targets):
        received = sorted(targets) if isinstance(targets, dict) else type(targets).__name__
        raise ValueError(
            f"{owner}: targets must be a dictionary with `boxes` and `labels`, as "
            f"`kvision.data.to_fit` makes it of a batch dictionary. Received: {received}."
        )
    check_labels(owner, targets["labels"], num_classes, -1, "padding")
